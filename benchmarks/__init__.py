"""Every number that the documentation quotes; each module prints JSON on its last line."""
