"""How large the results of built-in functions may get: what query text makes has a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from datahike_async.edn.types import FrozenMap
from datahike_async.looks import SMALL, walked
from datahike_async.values.value_set import ValueSet

__all__ = ["GROWING", "MAX_BITS", "MAX_ITEMS", "MAX_MADE", "MAX_TEXT", "int_of", "size_of"]

MAX_ITEMS: Final = 1_000_000
"""The most elements of one collection, with all that is in them."""
MAX_TEXT: Final = 1_000_000
"""The most characters of one text."""
MAX_BITS: Final = 65_536
"""The most bits of one int: some twenty thousand digits."""
MAX_MADE: Final = 500_000_000
"""The most bytes, roughly, of the collections and texts that one clause may make over all rows."""

_COLLECTIONS: Final = frozenset({list, tuple, set, frozenset, ValueSet, dict, FrozenMap})
_ELEMENT: Final = 40
# What an element that is looked at counts for.
_SEEN: Final = 4
GROWING: Final = frozenset({str, int, *_COLLECTIONS})


def size_of(value: Any) -> int:
    """Return the bytes of a result, roughly; raise ValueError where it is too large.

    What a collection holds in several places counts in each: walking it will take that long.
    """
    kind = type(value)
    if kind is str:
        if len(value) > MAX_TEXT:
            raise ValueError(f"the text is longer than {MAX_TEXT} characters")
        return len(value)
    if kind is int:
        if value.bit_length() > MAX_BITS:
            raise ValueError(f"the int has more than {MAX_BITS} bits")
        return 0
    # The size of each collection is found out once, in however many places it is.
    sizes: dict[int, int] = {}
    stack = [value]
    while stack:
        found = stack[-1]
        items = (x for pair in found.items() for x in pair) if isinstance(found, Mapping) else found
        if len(found) * _SEEN > SMALL:
            items = walked(items, each=_SEEN)
        inner = [x for x in items if type(x) in _COLLECTIONS]
        unknown = [x for x in inner if id(x) not in sizes]
        if unknown:
            stack += unknown
            continue
        size = sizes[id(stack.pop())] = len(found) + sum([sizes[id(x)] for x in inner])
        if size > MAX_ITEMS:
            raise ValueError(f"the collection has more than {MAX_ITEMS} elements")
    return sizes[id(value)] * _ELEMENT


def int_of(value: Any) -> int:
    """Return a number cut off to an int; raise ValueError where it would have too many digits."""
    if hasattr(value, "adjusted") and value.is_finite() and value.adjusted() > MAX_BITS // 4:
        raise ValueError(f"the int has more than {MAX_BITS} bits")
    return int(value)
