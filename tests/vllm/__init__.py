"""Against the real vLLM."""
