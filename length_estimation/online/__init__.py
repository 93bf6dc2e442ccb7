"""The estimator that answers while requests wait: no torch, little memory, a deadline."""
