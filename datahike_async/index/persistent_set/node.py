"""Nodes of the persistent set: leaves of columns, branches of child slots. Immutable."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np

from datahike_async.errors import CorruptData
from datahike_async.index import codec
from datahike_async.index.columns import CODED, I64, INSTANT, INT, OBJECT, Rows, micros
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.source import Address
from datahike_async.values.order import sort_key

__all__ = [
    "TOP",
    "Branch",
    "Key",
    "Leaf",
    "Node",
    "decode",
    "encode",
    "first_key",
    "locate",
    "read_branch",
    "row_key",
    "take_rows",
    "top",
    "value_cuts",
]

Key = tuple[Any, ...]
_Views: TypeAlias = tuple["memoryview[int]", "memoryview[int]", "memoryview[Any] | None"]


class _Top:
    """Sorts after everything: ``(*prefix, TOP)`` is past all keys that begin with prefix."""

    __slots__ = ()

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


TOP: Final = _Top()


class Leaf:
    """A run of rows; in AEVT and AVET of one attribute."""

    __slots__ = ("_views", "rows")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._views: _Views | None = None

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return self.rows.nbytes + 1200

    @property
    def views(self) -> _Views:
        """The columns e, a and v as memoryviews; None for objects.

        They yield Python ints, with which bisect needs a third of the time of searchsorted.
        """
        views = self._views
        if views is None:
            rows = self.rows
            values = None if rows.v.kind == OBJECT else memoryview(rows.v.data)  # type: ignore[arg-type]
            views = self._views = (memoryview(rows.e), memoryview(rows.a), values)  # type: ignore[arg-type]
        return views


class Branch:
    """Children by slot: the first key of each, how many rows are below, node or address or both."""

    __slots__ = ("_heads", "addresses", "counts", "keys", "level", "nodes")

    def __init__(
        self,
        level: int,
        keys: list[Key],
        counts: list[int],
        nodes: list[Node | None],
        addresses: list[Address | None],
    ) -> None:
        self.level = level
        self.keys = keys
        self.counts = counts
        self.nodes = nodes
        self.addresses = addresses
        self._heads: I64 | None = None

    @property
    def heads(self) -> I64:
        """The first two components of each key as one integer; not of keys of AVET."""
        if self._heads is None:
            self._heads = np.array([key[0] << 32 | key[1] for key in self.keys], np.int64)
        return self._heads

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, children not counted."""
        return 400 * len(self.keys)

    def over(self, nodes: list[Node | None], addresses: list[Address | None]) -> Branch:
        """Return the same branch over the same children, held otherwise."""
        return Branch(self.level, self.keys, self.counts, nodes, addresses)

    def also(self) -> list[Any]:
        """Return what its encoding holds beside the children, as plain data."""
        return []

    def surplus(self, lower: Bound, upper: Bound, order: Order) -> int:
        """Return how many rows there are between two bounds beyond those of the children."""
        return 0

    def start(self, lower: Key) -> int:
        """Return the slot in which the first key not below ``lower`` may lie."""
        return max(bisect_left(self.keys, lower) - 1, 0) if lower else 0

    def stop(self, upper: Key) -> int:
        """Return the slot after the last that may hold a key beginning with or below ``upper``."""
        return bisect_right(self.keys, (*upper, TOP)) if upper else len(self.keys)


Node = Leaf | Branch


def top(bound: Bound, order: Order) -> Key:
    """Return a bound in the form keys are compared in."""
    at = 1 if order is Order.AVET else 2
    if len(bound) <= at:
        return bound
    return (*bound[:at], sort_key(bound[at]), *bound[at + 1 :])


def row_key(rows: Rows, i: int, order: Order) -> Key:
    """Return the full key of one row."""
    e, a, t = int(rows.e[i]), int(rows.a[i]), rows.tx(i)
    v = sort_key(rows.v.value(i))
    if order is Order.EAVT:
        return (e, a, v, t)
    return (a, e, v, t) if order is Order.AEVT else (a, v, e, t)


def first_key(rows: Rows, order: Order) -> Key:
    """Return the key of the first row."""
    return row_key(rows, 0, order)


def value_cuts(values: I64 | list[str], a: int, keys: Sequence[Key]) -> tuple[I64, I64] | None:
    """Return how many sorted values of attribute ``a`` are below, and not above, AVET keys.

    Values are longs or strings; None where keys of the attribute have values of another kind.
    """
    kind = 2 if isinstance(values, np.ndarray) else 4
    before = bisect_left(keys, (a,))
    after = bisect_left(keys, (a + 1,))
    low = np.full(len(keys), len(values), np.int64)
    low[:before] = 0
    high = low.copy()
    own = keys[before:after]
    if any(key[1][0] != kind or (len(key[1]) == 3 and key[1][2]) for key in own):
        return None
    if isinstance(values, np.ndarray):
        try:
            cuts = np.array([key[1][1] for key in own], np.int64)
        except OverflowError:
            return None
        low[before:after] = values.searchsorted(cuts)
        high[before:after] = values.searchsorted(cuts, "right")
        return low, high
    at = 0
    for slot, key in enumerate(own, before):
        low[slot] = at = bisect_left(values, key[1][1], at)
        high[slot] = bisect_right(values, key[1][1], at)
    return low, high


def locate(leaf: Leaf, bound: Bound, order: Order) -> tuple[int, int]:
    """Return (lo, hi): rows [lo, hi) begin with ``bound``, those before lo are below it."""
    entities, attributes, _ = leaf.views
    lo, hi = 0, len(entities)
    if not bound or not hi:
        return lo, hi
    if order is Order.EAVT:
        lo, hi = _span(entities, bound[0], lo, hi)
        if lo < hi and len(bound) > 1:
            lo, hi = _span(attributes, bound[1], lo, hi)
    else:
        # One attribute a leaf: all of it lies on one side.
        here, wanted = attributes[0], bound[0]
        if here != wanted:
            return (hi, hi) if here < wanted else (lo, lo)
        if len(bound) > 1:
            if order is Order.AVET:
                lo, hi = _span_of_value(leaf, bound[1], lo, hi)
            else:
                lo, hi = _span(entities, bound[1], lo, hi)
    if lo < hi and len(bound) > 2:
        if order is Order.AVET:
            lo, hi = _span(entities, bound[2], lo, hi)
        else:
            lo, hi = _span_of_value(leaf, bound[2], lo, hi)
        if lo < hi and len(bound) > 3:
            times = leaf.rows.slice(lo, hi).t.tolist()
            lo, hi = lo + bisect_left(times, bound[3]), lo + bisect_right(times, bound[3])
    return lo, hi


def _span(column: Any, wanted: Any, lo: int, hi: int) -> tuple[int, int]:
    lo = bisect_left(column, wanted, lo, hi)
    # Most often there is one: look before searching.
    if lo == hi or column[lo] != wanted:
        return lo, lo
    if lo + 1 == hi or column[lo + 1] != wanted:
        return lo, lo + 1
    return lo, bisect_right(column, wanted, lo + 2, hi)


def _span_of_value(leaf: Leaf, wanted: Any, lo: int, hi: int) -> tuple[int, int]:
    column, view = leaf.rows.v, leaf.views[2]
    kind = type(wanted)
    if column.kind == INT and kind is int:
        return _span(view, wanted, lo, hi)
    if column.kind == INSTANT and kind is datetime:
        return _span(view, micros(wanted), lo, hi)
    if column.kind == CODED and kind is str:
        dictionary = column.dictionary
        assert dictionary is not None
        assert view is not None
        if dictionary.is_text:
            # Strings sort as they are, and in one dictionary equal ones have one code.
            values = dictionary.listed
            lo = bisect_left(view, wanted, lo, hi, key=values.__getitem__)
            if lo == hi or values[view[lo]] != wanted:
                return lo, lo
            if lo + 1 == hi or view[lo + 1] != view[lo]:
                return lo, lo + 1
            return lo, bisect_right(view, wanted, lo + 2, hi, key=values.__getitem__)
    key, span = sort_key(wanted), range(hi)

    def key_at(i: int) -> Key:
        return sort_key(column.value(i))

    lo = bisect_left(span, key, lo, hi, key=key_at)
    return lo, bisect_right(span, key, lo, hi, key=key_at)


def encode(node: Node) -> bytes:
    """Encode a node; every child of a branch must have its address."""
    if isinstance(node, Leaf):
        return codec.seal([0, codec.encode_rows(node.rows)])
    blobs: dict[str, int] = {}
    slots = []
    for address in node.addresses:
        assert address is not None, "children are flushed before their parent"
        blob = blobs.setdefault(address.blob, len(blobs))
        slots.append([blob, *address.to_data()[1:]])
    return codec.seal([node.level, list(node.keys), node.counts, list(blobs), slots, *node.also()])


def decode(data: bytes | memoryview, branch: Callable[..., Branch] | None = None) -> Node:
    """Decode a stored node. Raises CorruptData or UnsupportedFormat.

    ``branch`` makes a branch of its parts, where an index has branches of its own.
    """
    plain = codec.unseal(data)
    try:
        level, *rest = plain
        if level == 0:
            (rows,) = rest
            return Leaf(codec.decode_rows(rows))
        return (branch or read_branch)(level, *rest)
    except (
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise CorruptData(f"Stored bytes are no index node: {error}") from error


def read_branch(level: Any, keys: Any, counts: Any, blobs: Any, slots: Any) -> Branch:
    """Return the branch of decoded parts; errors are the caller's to translate."""
    if not len(keys) == len(counts) == len(slots) > 0:
        raise ValueError("the slots of a branch differ in number")
    if type(level) is not int or not 0 < level < 64:
        raise ValueError(f"{level!r} is no level")
    if not all(type(key) is tuple and len(key) == 4 for key in keys):
        raise ValueError("a key of a branch is none")
    if any(not low < high for low, high in pairwise(keys)):
        raise ValueError("the keys of a branch do not rise")
    if set(map(type, counts)) != {int} or min(counts) < 1:
        raise ValueError("a child of a branch counts no rows")
    if set(map(type, blobs)) != {str}:
        raise ValueError("a blob has no name")
    addresses: list[Address | None] = []
    for blob, offset, length, crc, *digest in slots:
        where = offset, length, crc
        if set(map(type, where)) != {int} or min(where) < 0:
            raise ValueError("a child of a branch has no address")
        if digest and (len(digest) > 1 or type(digest[0]) is not bytes):
            raise ValueError("a child of a branch has no hash")
        addresses.append(Address(blobs[blob], *where, *digest))
    return Branch(level, list(keys), list(counts), [None] * len(keys), addresses)


def take_rows(rows: Rows, lo: int, hi: int) -> Rows:
    """Return rows [lo, hi), the very object where that is all of them."""
    return rows if lo == 0 and hi == len(rows) else rows.slice(lo, hi)
