"""Transactions: from EDN or Python data to operations on a draft.

``forms`` reads what the user gave, ``transaction`` carries it out on the running state, ``bulk``
does the same for large plain loads in columns, ``apply`` is the entrance. May import snapshot and
below; never query, storage or an event loop. Nothing of a failed transaction stays.
"""
