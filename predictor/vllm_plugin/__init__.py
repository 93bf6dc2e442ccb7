"""Runs inside vLLM and exports its scheduler's state. Needs msgspec and nothing else."""

OLDEST_VLLM = "0.20"
"""The oldest vLLM whose scheduler has what the plug-in reads."""
TESTED_VLLM = "0.32.0"
"""The version that Astrolabe is tested with; ``exp/setup.sh --install-vllm`` installs it."""
