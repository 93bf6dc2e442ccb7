"""Clients, engines and sidecars that misbehave, each beside an innocent one."""
