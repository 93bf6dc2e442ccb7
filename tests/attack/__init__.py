"""Peers that misbehave, and the innocent beside them."""
