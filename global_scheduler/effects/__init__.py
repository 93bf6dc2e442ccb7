"""Which settings can have no effect as the gateway runs, why, and what would give them one."""
