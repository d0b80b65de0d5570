"""What was asked: queries, rules and their clauses, read and checked."""
