"""Nodes of levels as they are stored: the first byte says whose they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from datahike_async.errors import CorruptData
from datahike_async.index.levels.filters import Filter
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.source import Address, NodeSink, NodeSource

__all__ = ["BASE", "FILTER", "RUN", "SETS", "Tagged", "decode", "parted"]

SETS: Final = PersistentSetFactory()
"""What makes the sets of runs."""

RUN: Final = b"R"
BASE: Final = b"B"
FILTER: Final = b"F"


class Tagged:
    """A sink that says of nodes whose they are."""

    __slots__ = ("_sink", "_tag")

    def __init__(self, sink: NodeSink, tag: bytes) -> None:
        self._sink = sink
        self._tag = tag

    @property
    def source(self) -> NodeSource:
        """The source that finds the nodes again."""
        return self._sink.source

    def put(self, data: bytes, node: Any) -> Address:
        """Take an encoded node, and return its address."""
        return self._sink.put(self._tag + data, node)


def parted(data: bytes) -> tuple[bytes, bytes]:
    """Return what says whose a stored node is, and the node."""
    return data[:1], data[1:]


def decode(data: bytes | memoryview, base: Callable[[bytes | memoryview], Any]) -> Any:
    """Decode a stored node; ``base`` decodes those of the index below the runs.

    Raises CorruptData or UnsupportedFormat.
    """
    tag, rest = data[:1], data[1:]
    if tag == BASE:
        return base(rest)
    if tag == RUN:
        return SETS.decode(rest)
    if tag == FILTER:
        return Filter.decode(rest)
    raise CorruptData("Stored bytes are no index node.")
