"""Index nodes in a store: how they lie there, how they are read, and those in memory.

One for a store, whatever branches it has. Knows no branch and no log.
"""
