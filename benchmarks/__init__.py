"""Every number that the documentation quotes: each module prints one JSON object on its last line."""
