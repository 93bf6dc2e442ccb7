"""The compiled what-if: the schedulers' rules as jumps over events, over flat arrays."""
