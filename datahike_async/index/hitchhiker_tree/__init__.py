"""hitchhiker-tree: a persistent set whose branches keep changes, and hand them down when full.

Leaves, branches, lookups and merging are those of ``persistent_set``; what is here is the buffers.
Only the registry knows of it.
"""
