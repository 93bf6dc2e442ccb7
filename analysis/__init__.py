"""One script for each figure; they read results only."""
