"""The log of transactions: entries, records, segments, and the tail that no tree holds yet.

Knows no head and no node.
"""
