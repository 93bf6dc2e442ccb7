"""What ``python -m length_estimation`` runs, but for serving: making data, training, measuring."""
