"""An engine emulator: a server that behaves like a vLLM server to its clients, without a model."""
