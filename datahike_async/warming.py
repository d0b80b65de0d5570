"""Warming up: nodes of the indexes are read into memory before anybody needs them.

Level by level from the top, of all indexes at once, so that what every look needs comes first and
there are no more waves of reads than levels. Never more than what stays in memory. Knows indexes by
their protocol alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import zip_longest
from math import inf
from typing import Any, ClassVar, Final, NamedTuple

import anyio

from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, shown
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.run import gathered
from datahike_async.index.protocol import Bound, Child, Order
from datahike_async.index.source import NodeMiss, NodeSource, Reading, read
from datahike_async.konserve.threads import in_thread
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.snapshot.datoms import bound_of, order_of
from datahike_async.snapshot.views import View

__all__ = ["Warmed", "warm_datoms", "warm_db", "warm_index"]

_WAVE_NODES: Final = 512
_WAVE_BYTES: Final = 32 * 1024 * 1024
"""What one wave reads: it takes longer to come than to ask for, little is held beside it, and the
event loop has done with it in some milliseconds."""

# Datoms of indexes of which the nodes are gone through in a worker thread.
_LARGE: Final = 1 << 16
# Bytes in memory of what was not decoded yet, rather too many: of a leaf, a row of it, and a byte
# of it as it is stored; and such a byte of other nodes.
_LEAF: Final = 1200
_ROW: Final = 170
_VALUE: Final = 4
_INNER: Final = 40
_SPARE: Final = 1.25
# Waves that read less than this part of what was read already are not worth their time.
_LAST: Final = 16

_DEPTHS: Final = {"interior": False, "with-leaves": True}


@dataclass(frozen=True, slots=True)
class Warmed(Json):
    """What was read into memory: ``nodes``, and their ``bytes`` as they are stored.

    In so many ``waves``, each of which waited for the store once, and ``seconds``. ``by_index``
    says how many nodes each index has got, by its name ("eavt", "temporal-eavt"). ``stopped`` says
    what left some out: "nodes", "bytes" or "seconds" of the budget, or "cache", which would have
    let go of others for them; None where all that was asked for is in memory.
    """

    nodes: int
    bytes: int
    waves: int
    seconds: float
    by_index: Mapping[str, int]
    stopped: str | None

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    def as_json(self) -> dict[str, Any]:
        """Return its parts, by their names."""
        out = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**out, "by_index": dict(self.by_index)}

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in memory."""
        return self.stopped is None


class _Limits(NamedTuple):
    nodes: float = inf
    bytes: float = inf
    seconds: float = inf


class _Part(NamedTuple):
    """One index, and what of it is wanted."""

    name: str
    held: Levels
    lower: Bound = ()
    upper: Bound = ()


async def warm_db(view: View, indexes: Any, depth: Any, budget: Any) -> Warmed:
    """Read the indexes that a view is read from; see :func:`datahike_async.warm_db`."""
    if isinstance(indexes, (str, Keyword, Order)) or not isinstance(indexes, Iterable):
        raise ArgumentError(f"indexes are a list such as [':eavt'], not {shown(indexes)}.")
    orders = dict.fromkeys(map(order_of, indexes))
    return await _warm([part for order in orders for part in _parts(view, order)], depth, budget)


async def warm_index(view: View, index: Any, depth: Any, budget: Any) -> Warmed:
    """Read one index; see :func:`datahike_async.warm_index`."""
    return await _warm(_parts(view, order_of(index)), depth, budget)


async def warm_datoms(
    view: View, index: Any, components: Any, depth: Any, budget: Any, *, unbounded: bool
) -> Warmed:
    """Read what a scan will read; see :func:`datahike_async.warm_datoms`."""
    if not isinstance(components, (list, tuple)):
        raise ArgumentError(
            f"components are a list such as [':person/name', 'Ada'], not {shown(components)}."
        )
    order = order_of(index)
    bound = await read(bound_of, view, order, components)
    if bound is None:
        return await _warm([], depth, budget)
    lower = bound[:3]
    return await _warm(_parts(view, order, lower, () if unbounded else lower), depth, budget)


def _parts(view: View, order: Order, *bounds: Bound) -> list[_Part]:
    trees = view.snapshot.trees
    parts = [_Part(order.value, trees.current[order], *bounds)]
    if view.looks_back:
        parts.append(_Part(f"temporal-{order.value}", trees.past()[order], *bounds))
    return parts


def _depth(depth: Any) -> tuple[float, bool]:
    """Return how many levels are wanted, and whether leaves are."""
    name = depth.text if isinstance(depth, Keyword) else depth
    if isinstance(name, str):
        leaves = _DEPTHS.get(name.removeprefix(":"))
        if leaves is not None:
            return inf, leaves
    elif type(name) is int and name > 0:
        return name, True
    raise ArgumentError(
        "depth is 'with-leaves', 'interior' or a number of levels from the top, not "
        f"{shown(depth)}."
    )


def _limits(budget: Any) -> _Limits:
    if budget is None:
        return _Limits()
    if type(budget) is int:
        budget = {"nodes": budget}
    if not isinstance(budget, Mapping):
        raise ArgumentError(
            "A budget is a number of nodes, or a mapping of nodes, bytes and seconds, not "
            f"{shown(budget)}."
        )
    named = {str(getattr(k, "text", k)).removeprefix(":"): v for k, v in budget.items()}
    for name, value in named.items():
        if name not in _Limits._fields:
            raise ArgumentError(f"Unknown budget {shown(name)}; known: nodes, bytes, seconds.")
        kinds = (int, float) if name == "seconds" else (int,)
        if value is not None and (type(value) not in kinds or not value >= 0):
            raise ArgumentError(f"The budget {name} is a number or None, not {shown(value)}.")
    return _Limits(**{name: value for name, value in named.items() if value is not None})


async def _warm(parts: Sequence[_Part], depth: Any, budget: Any) -> Warmed:
    levels, leaves = _depth(depth)
    limits = _limits(budget)
    start = anyio.current_time()
    source = next((p.held.source for p in parts if p.held.source is not None), None)
    done = _Done(parts, source, limits)
    if source is not None and limits.nodes and limits.bytes and limits.seconds:
        large = sum(len(part.held) for part in parts) > _LARGE
        run = in_thread if large else None
        with anyio.move_on_after(limits.seconds) as scope, Reading() as reading:
            level = 0
            while level < levels and done.stopped is None:
                found = await reading.call(done.level, level, leaves, run=run)
                if found is None:
                    break
                while found and done.stopped is None:
                    found = await done.wave(reading, source, found)
                level += 1
        if scope.cancelled_caught:
            done.stopped = "seconds"
    elif source is not None:
        done.stopped = next(name for name, most in limits._asdict().items() if not most)
    return done.warmed(anyio.current_time() - start)


_Found = list[tuple[int, Child]]


class _Done:
    """What was read, and what there is room for."""

    def __init__(self, parts: Sequence[_Part], source: NodeSource | None, limits: _Limits) -> None:
        self._parts = parts
        self._source = source
        self._limits = limits
        self._room = 0.0 if source is None else float(source.capacity)
        self._nodes = [0] * len(parts)
        self._bytes = 0
        self._waves = 0
        # Bytes of nodes that are there, of leaves (True) and others, and what was expected of them.
        self._decoded = {True: 0, False: 0}
        self._expected = {True: 0, False: 0}
        self.stopped: str | None = None

    def level(self, depth: int, leaves: bool) -> _Found | None:
        """Return what is not resident of a level, each index's turn by turn; None: no such level.

        Whatever is resident takes of the room. Raises NodeMiss where it is not any more.
        """
        found = gathered([partial(p.held.at_depth, depth, p.lower, p.upper) for p in self._parts])
        if all(children is None for children in found):
            return None
        missing: list[list[tuple[int, Child]]] = []
        for i, children in enumerate(found):
            out: _Found = []
            for child in children or ():
                if child.leaf and not leaves:
                    continue
                node = None if self._source is None else self._source.get(child.address)
                if node is None:
                    out.append((i, child))
                else:
                    self._hold(child, node)
            missing.append(out)
        return [each for turn in zip_longest(*missing) for each in turn if each is not None]

    async def wave(self, reading: Reading, source: NodeSource, found: _Found) -> _Found:
        """Read as many nodes as there is room for, and return those that are left."""
        wave = found[: self._fitting(found)]
        if wave:
            self._waves += 1
            try:
                await reading.fetch(NodeMiss(source, [child.address for _, child in wave]))
            finally:
                # What came counts, though the time was up before all of it did.
                self._count(source, wave)
        return found[len(wave) :]

    def _fitting(self, found: _Found) -> int:
        """Return how many of some nodes the next wave reads; note what stops it for good."""
        nodes = self._limits.nodes - sum(self._nodes)
        left = self._limits.bytes - self._bytes
        room = self._room
        read = 0
        for n, (_, child) in enumerate(found):
            read += child.address.length
            room -= self._size(child)
            if n >= nodes or read > left:
                self.stopped = "nodes" if n >= nodes else "bytes"
                return n
            if room < 0:
                # What was read tells how much more there is room for; the last bit is left.
                if n * _LAST <= sum(self._nodes):
                    self.stopped = "cache"
                return n
            if n == _WAVE_NODES or (n and read > _WAVE_BYTES):
                return n
        return len(found)

    def _size(self, child: Child) -> float:
        """Return about how many bytes a node will take, rather too many."""
        decoded, expected = self._decoded[child.leaf], self._expected[child.leaf]
        return _expected(child) * (decoded * _SPARE / expected if expected else 1.0)

    def _count(self, source: NodeSource, wave: _Found) -> None:
        for i, child in wave:
            node = source.get(child.address)
            if node is None:
                continue
            self._nodes[i] += 1
            self._bytes += child.address.length
            self._hold(child, node)

    def _hold(self, child: Child, node: Any) -> None:
        size = node.nbytes
        self._room -= size
        self._decoded[child.leaf] += size
        self._expected[child.leaf] += _expected(child)

    def warmed(self, seconds: float) -> Warmed:
        by_index = {part.name: n for part, n in zip(self._parts, self._nodes, strict=True)}
        return Warmed(sum(self._nodes), self._bytes, self._waves, seconds, by_index, self.stopped)


def _expected(child: Child) -> int:
    """Return how many bytes a node may take, as far as can be told before one is there."""
    length = child.address.length
    return _LEAF + child.size * _ROW + length * _VALUE if child.leaf else length * _INNER
