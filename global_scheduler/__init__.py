"""The global scheduler: an OpenAI-compatible gateway that asks every sidecar before it routes."""
