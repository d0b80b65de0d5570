"""EDN, the notation of queries, transactions and configs: types, reader, writer.

Pure: text and data in, data and text out. Imports errors and nothing else of ours.
"""

from datahike_async.edn.reader import read, read_all
from datahike_async.edn.types import Char, FrozenMap, Keyword, Symbol, Tagged, kw, sym
from datahike_async.edn.writer import write

__all__ = [
    "Char",
    "FrozenMap",
    "Keyword",
    "Symbol",
    "Tagged",
    "kw",
    "read",
    "read_all",
    "sym",
    "write",
]
