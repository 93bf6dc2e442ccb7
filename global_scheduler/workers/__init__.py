"""``--workers``: processes that hold clients' connections, and one that decides (ADR 13)."""
