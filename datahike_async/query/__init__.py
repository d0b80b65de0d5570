"""Room to be described by its owner."""
