"""What crosses process borders, and the files that configure it."""
