"""The predictor sidecar: answers what would happen if its engine got a request now."""
