"""Tests of the predictor sidecar."""
