"""Which unit serves short and which serves long requests."""
