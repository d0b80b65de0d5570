"""Levels: sorted runs over an index of any kind, so that what is written follows what changes.

What all indexes share, and the persistent set, of which runs are made, are known here; storage,
trees and event loops are not.
"""
