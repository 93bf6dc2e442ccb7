"""Standby units."""
