"""The query engine: parse, then relations of columns, clause by clause, to a lazy result.

``api`` is the entrance of queries, ``pull_execute`` that of pull. May import snapshot and below;
never tx, storage or an event loop: it awaits only missing nodes and asynchronous user functions.
"""
