"""Fleets: starting, watching and stopping engines, sidecars and the gateway, here or over SSH.

All but the SSH side needs only the standard library, so that ``--stop`` and ``--status`` work when
the virtual environment is broken.
"""
