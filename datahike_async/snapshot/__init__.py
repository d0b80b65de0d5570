"""Immutable database states: trees and a memtable, read together.

``snapshot`` reads one state, ``draft`` is the running state of a transaction, ``views`` look at a
state as it was. May import index, values, edn and errors; knows no query, transaction, storage or
event loop.
"""
