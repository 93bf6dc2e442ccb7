"""Runs inside vLLM and exports its scheduler's state. Needs msgspec and nothing else."""
