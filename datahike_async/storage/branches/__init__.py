"""Branches in a store: heads, how one is read, and how one begins."""
