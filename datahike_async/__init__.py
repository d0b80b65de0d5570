"""datahike-async."""
