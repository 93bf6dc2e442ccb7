"""Where the sidecar reads its engine's state from."""
