"""Workloads: traces of requests, what they are made of, and sending them at their times."""
