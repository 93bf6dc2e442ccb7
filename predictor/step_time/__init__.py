"""How long one scheduler step of an engine takes, given the shape of its batch."""
