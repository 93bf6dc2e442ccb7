"""Studies: many runs of one fleet, workload and system after another, and what they came to."""
