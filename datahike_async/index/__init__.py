"""Covering indexes: sorted datoms as columns, immutable, loaded node by node.

``protocol`` is what an index must do, ``persistent_set`` the default one, ``memtable`` what new
datoms wait in. May import values, edn and errors; awaits nothing and knows no storage: nodes come
from the ``NodeSource`` it is handed.
"""
