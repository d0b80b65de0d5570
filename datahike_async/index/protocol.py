"""The protocol of a covering index: what persistent-set, hitchhiker-tree and a user's index do.

An index is an immutable sorted sequence of datoms. Bounds are prefixes in the order of the index,
of attribute ids and canonical values: ``(e,)``, ``(e, a)``, ``(e, a, v)`` in EAVT; ``(a,)``,
``(a, e)``, ``(a, e, v)`` in AEVT; ``(a,)``, ``(a, v)``, ``(a, v, e)`` in AVET. A bound takes in
every datom that begins with it; the empty tuple is no bound. All methods are synchronous and raise
``NodeMiss`` where a node is not resident; they may be called again after a fetch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.source import Address, NodeSink, NodeSource

__all__ = ["Bound", "Child", "Index", "IndexFactory", "Order"]

Bound: TypeAlias = tuple[Any, ...]


class Order(Enum):
    """The three sort orders."""

    # Each is itself alone. Hashing their names, as enums do, is a call of Python's in every seek.
    __hash__ = object.__hash__

    EAVT = "eavt"
    AEVT = "aevt"
    AVET = "avet"


class Child(NamedTuple):
    """What a stored node says of one below it: how many datoms there are, and a key.

    No datom below it comes before ``key``, which is as :meth:`IndexFactory.first` gives it, and all
    come before the key of the next child. ``leaf`` says that it holds datoms itself.
    """

    address: Address
    size: int
    key: Any
    leaf: bool


class Index(Protocol):
    """An immutable sorted index of current datoms, or (``temporal``) of retracted ones."""

    @property
    def order(self) -> Order:
        """The sort order."""
        ...

    @property
    def temporal(self) -> bool:
        """Whether rows carry ``until``; they then sort by t and until within equal (e, a, v)."""
        ...

    @property
    def source(self) -> NodeSource | None:
        """Where its stored nodes come from; None as long as none is stored."""
        ...

    def __len__(self) -> int:
        """Return the number of datoms, without reading nodes."""
        ...

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the datoms between two bounds as runs, ascending.

        In AEVT and AVET every run has one attribute. A miss names all missing nodes of a level.
        """
        ...

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        """Iterate leaf by leaf; with ``reverse``, leaves and their rows come descending.

        A miss may name leaves that come later: about as many as there were before, so that who
        reads on waits seldom, and who reads little has little read for him.
        """
        ...

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        """Count the datoms between two bounds, reading only the nodes at its edges."""
        ...

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        """Return about how many datoms lie between two bounds, and whether that is exact.

        Reads nothing and misses nothing: what is not resident is estimated by what is.
        """
        ...

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        """Return entities that part the datoms of one attribute into runs of about ``rows``.

        For AEVT; they ascend, none comes twice, and each is the first of a run but the first one.
        Reads no leaves; a miss names missing nodes of a level.
        """
        ...

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        """Return the rows under each of many bounds, one after another, and where each one's stop.

        Bounds are given as columns, one for each of their one to three components; they ascend, and
        none comes twice. A miss names the nodes of all of them.
        """
        ...

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        """Return sorted rows of this index, and of another of its kind and order.

        They hold every row that only one of the two has, and perhaps others: what two indexes that
        were made of one another share is left out, as far as that can be told without looking at
        it. A miss names missing nodes of a level.
        """
        ...

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Index:
        """Return a new index without ``removes`` and with ``adds``, sharing untouched nodes.

        Both are sorted runs in this index's order, one attribute a run in AEVT and AVET, of which
        there may be several, one after another; so may there be in EAVT. A removed
        row is found by (e, a, v), in temporal indexes by (e, a, v, t, until); one that is not there
        is ignored. An added row that is found so (and not removed) replaces the one that is there.

        ``sure``: the caller knows that every removed row is there as it is given, its transaction
        too, and that no added one is, but for those that are removed. An index may then do without
        looking.
        """
        ...

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> Index:
        """Return a new index without ``rows``, of which none of its nodes says anything any more.

        Nor of ``past``: rows that were there once, in as far as they are not there now. Both are
        runs as ``merge`` takes them; an index that only notes what is removed has to do it now.
        """
        ...

    def flush(self, sink: NodeSink) -> tuple[Index, Mapping[str, Any]]:
        """Write unwritten nodes, children first; return the clean index and its root record."""
        ...

    def loosened(self, blobs: Collection[str]) -> Index:
        """Return the same index, whose nodes in some blobs count as not written yet.

        So the next flush writes them elsewhere, and nothing of it lies there any more.
        """
        ...

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> Sequence[Child] | None:
        """Return the stored nodes of a level that a scan between two bounds reads; 0 is the top.

        Whether they are resident or not. Nodes that are not stored yet are left out, those below
        them are not. None where nothing lies so deep. Needs nodes of the levels above, and misses
        those alone.
        """
        ...

    def addresses(self) -> Iterator[Address]:
        """Iterate over the addresses of all stored nodes (for garbage collection)."""
        ...


class IndexFactory(Protocol):
    """Makes and restores indexes of one kind; what the index registry holds under a name."""

    def check_config(self, config: Mapping[str, Any], *, remote: bool = False) -> Mapping[str, Any]:
        """Return ``config`` completed with defaults; raise ConfigError on a bad key or value.

        ``remote``: the nodes will lie behind a network, where fewer and larger ones are better.
        """
        ...

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> Index:
        """Return an index without datoms."""
        ...

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> Index:
        """Return the index whose root record ``flush`` returned, reading nothing yet."""
        ...

    def decode(self, data: bytes | memoryview) -> Any:
        """Decode one stored node; raise CorruptData where it is none.

        The bytes may be lent, and those of something else as soon as this returns: a node holds
        copies of what it needs, and no view of them.
        """
        ...

    def below(self, node: Any) -> Sequence[Child]:
        """Return the children of a decoded node, in order; none of a leaf."""
        ...

    def rows(self, node: Any) -> Rows:
        """Return the datoms of a decoded leaf."""
        ...

    def buffered(self, node: Any) -> tuple[Sequence[Rows], Sequence[Rows]]:
        """Return runs that a decoded node adds to what lies below it, and those it takes away.

        An index that keeps changes in its upper nodes has some; others return nothing. The rows
        below a node are those of its children, with what is added and without what is taken away,
        and as many: what is taken away is there, and what is added is not.
        """
        ...

    def first(self, rows: Rows, order: Order) -> Any:
        """Return the key of the first datom of a leaf."""
        ...

    def moved(self, node: Any, children: Sequence[Address]) -> bytes:
        """Encode a decoded node that has children, which lie at other addresses now.

        The bytes follow from what the node holds and the addresses, their hashes among them.
        """
        ...

    def top(self, root: Mapping[str, Any]) -> Child | None:
        """Return what a root record names, whose key is not known; None for an empty index."""
        ...

    def rooted(self, root: Mapping[str, Any], address: Address) -> Mapping[str, Any]:
        """Return a root record whose node lies at another address now."""
        ...
