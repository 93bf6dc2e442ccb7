"""Predictions held against what requests really met on serving engines."""
