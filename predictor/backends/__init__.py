"""What-if backends: each answers what a hypothetical request would meet on one engine."""
