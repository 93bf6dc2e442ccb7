"""How long answers get: the data that estimators learn from. Training and serving are not built."""
