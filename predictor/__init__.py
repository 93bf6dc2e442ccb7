"""The predictor sidecar: answers "what if this engine got this request?" from the engine's live state."""
