"""Setting up, deploying, looking at and stopping fleets."""
