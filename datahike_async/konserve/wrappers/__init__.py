"""Stores in front of stores: ``tiered``, ``caching``, ``retrying``.

Each is a blob store over others and a backend of its own, so they nest in one configuration. The
store behind is always the truth: what a wrapper keeps may be lost at any time.
"""
