"""Where runs of a study take place beside the twin."""
