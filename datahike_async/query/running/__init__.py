"""One run of a query: clause by clause, rules to their fixpoint."""
