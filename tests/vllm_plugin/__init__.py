"""The plug-in's parts that need no vLLM."""
