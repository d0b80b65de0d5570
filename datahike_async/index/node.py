"""Nodes of the persistent set: leaves of columns, branches of child slots. Immutable."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import Any, Final

from datahike_async.errors import CorruptData
from datahike_async.index import codec
from datahike_async.index.columns import INSTANT, INT, Rows, micros
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.source import Address
from datahike_async.values.order import sort_key

__all__ = ["Branch", "Key", "Leaf", "Node", "decode", "encode", "first_key", "locate", "top"]

Key = tuple[Any, ...]


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

    __slots__ = ("rows",)

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return self.rows.nbytes + 200


class Branch:
    """Children by slot: the first key of each, how many rows are below, node or address or both."""

    __slots__ = ("addresses", "counts", "keys", "level", "nodes")

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

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, children not counted."""
        return 400 * len(self.keys)

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
    e, a, t = int(rows.e[i]), int(rows.a[i]), int(rows.t[i])
    v = sort_key(rows.v.value(i))
    if order is Order.EAVT:
        return (e, a, v, t)
    return (a, e, v, t) if order is Order.AEVT else (a, v, e, t)


def first_key(rows: Rows, order: Order) -> Key:
    """Return the key of the first row."""
    return row_key(rows, 0, order)


_NAMES: Final = {Order.EAVT: "eavt", Order.AEVT: "aevt", Order.AVET: "avet"}


def locate(rows: Rows, bound: Bound, order: Order) -> tuple[int, int]:
    """Return (lo, hi): rows [lo, hi) begin with ``bound``, those before lo are below it."""
    lo, hi = 0, len(rows)
    for name, wanted in zip(_NAMES[order], bound, strict=False):
        if name == "v":
            lo, hi = _locate_value(rows, wanted, lo, hi)
        elif name == "a" and order is not Order.EAVT:
            here = int(rows.a[lo]) if lo < hi else wanted
            if here != wanted:
                # One attribute a leaf: all of it lies on one side.
                return (hi, hi) if here < wanted else (lo, lo)
        else:
            column = rows.e if name == "e" else rows.a if name == "a" else rows.t
            part = column[lo:hi]
            lo, hi = (
                lo + int(part.searchsorted(wanted, "left")),
                lo + int(part.searchsorted(wanted, "right")),
            )
        if lo == hi:
            break
    return lo, hi


def _locate_value(rows: Rows, wanted: Any, lo: int, hi: int) -> tuple[int, int]:
    column = rows.v
    kind = type(wanted)
    if column.kind == INT and kind is int and -(2**63) <= wanted < 2**63:
        part, x = column.data[lo:hi], wanted
    elif column.kind == INSTANT and kind.__name__ == "datetime":
        part, x = column.data[lo:hi], micros(wanted)
    else:
        key = sort_key(wanted)
        span = range(lo, hi)

        def key_at(i: int) -> Key:
            return sort_key(column.value(i))

        return (
            lo + bisect_left(span, key, key=key_at),
            lo + bisect_right(span, key, key=key_at),
        )
    return lo + int(part.searchsorted(x, "left")), lo + int(part.searchsorted(x, "right"))


def encode(node: Node) -> bytes:
    """Encode a node; every child of a branch must have its address."""
    if isinstance(node, Leaf):
        return codec.seal([0, codec.encode_rows(node.rows)])
    blobs: dict[str, int] = {}
    slots = []
    for address in node.addresses:
        assert address is not None, "children are flushed before their parent"
        blob = blobs.setdefault(address.blob, len(blobs))
        slots.append([blob, address.offset, address.length, address.crc])
    return codec.seal([node.level, list(node.keys), node.counts, list(blobs), slots])


def decode(data: bytes) -> Node:
    """Decode a stored node. Raises CorruptData or UnsupportedFormat."""
    plain = codec.unseal(data)
    try:
        level, *rest = plain
        if level == 0:
            (rows,) = rest
            return Leaf(codec.decode_rows(rows))
        return _decode_branch(level, *rest)
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


def _decode_branch(level: Any, keys: Any, counts: Any, blobs: Any, slots: Any) -> Branch:
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
    for blob, *where in slots:
        if set(map(type, where)) != {int} or min(where) < 0:
            raise ValueError("a child of a branch has no address")
        addresses.append(Address(blobs[blob], *where))
    return Branch(level, list(keys), list(counts), [None] * len(keys), addresses)


def take_rows(rows: Rows, lo: int, hi: int) -> Rows:
    """Return rows [lo, hi), the very object where that is all of them."""
    return rows if lo == 0 and hi == len(rows) else rows.slice(lo, hi)
