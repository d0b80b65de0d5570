"""In which order: what clauses cost, and which comes first."""
