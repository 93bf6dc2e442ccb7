"""Standby units: when they join and leave, and how they are started and stopped."""
