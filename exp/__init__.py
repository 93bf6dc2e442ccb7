"""Fleets and experiments: deployment, the engine emulator, load generation."""
