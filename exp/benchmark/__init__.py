"""Measuring OpenAI endpoints."""
