"""Survey: everything that the heads of a store name, found without reading what has no names in it.

Heads name checkpoints and segments, checkpoints name others, segments and roots, and nodes name
nodes. Leaves are not read: where one lies stands in the node above. Takes some 300 bytes a node,
which is 2 MB for a million datoms.

Whoever surveys says what becomes of what is missing or damaged: it is noted, or raised.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.errors import CorruptData, DatabaseNotFound, DatahikeError
from datahike_async.index.columns import Rows
from datahike_async.index.levels.factory import LevelsFactory, Top
from datahike_async.index.protocol import Child, Order
from datahike_async.index.registry import index_factory
from datahike_async.index.source import Address
from datahike_async.index.sums import sums_by
from datahike_async.konserve.base import gather
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.branches.pins import Pins, listed_pins, pinned_items, read_pins
from datahike_async.storage.branches.read import BranchState, read_branch
from datahike_async.storage.branches.registry import Floor, Registry, read_registry
from datahike_async.storage.branches.retained import floor_of
from datahike_async.storage.branches.tagging import tagged_head
from datahike_async.storage.hashes import node_hash
from datahike_async.storage.keys import BRANCHES, PINS, checkpoint_key, head_key, pin_key, tag_key
from datahike_async.storage.log.checkpoint import Checkpoint, Pointer, decode_checkpoint
from datahike_async.storage.log.records import Commit, SegmentParts, decode_segment
from datahike_async.storage.log.tail import IN_THREAD
from datahike_async.storage.nodes.store import read_raw
from datahike_async.storage.translate import translate
from datahike_async.values.schema import Schema

__all__ = ["Link", "Node", "Root", "Seen", "Stop", "Survey"]

_AT_ONCE: Final = 16
_WAVE: Final = 128
_NOBODY: Final = np.empty(0, np.int64)
"""Branch nodes that are held at once."""

Sums = Mapping[int, tuple[int, int]]
"""How many datoms there are of each attribute, and their sum."""

Complain = Callable[[str, str, str], None]
"""Told of what is wrong: the kind (``missing``, ``corrupt``, ``mismatch``), where, and what."""


class Root(NamedTuple):
    """A root of an index: the name of its record, what that names, and which index it is."""

    name: str
    tops: tuple[Top, ...]
    order: Order
    temporal: bool

    @property
    def addresses(self) -> list[Address]:
        """Where the nodes lie that it names."""
        return [top.child.address for top in self.tops]

    @property
    def size(self) -> int:
        """How many datoms it says that there are."""
        return sum(top.sign * top.child.size for top in self.tops)


@dataclass(slots=True, eq=False)
class Stop:
    """What is kept of a checkpoint, ``size`` bytes long; ``before`` is the one before it.

    ``hashed`` says that commits are hashes.

    ``back`` says where those before it lie; ``logged``, that the log since the last is kept.
    ``indexed`` are the attributes that are in AVET, ``forgetful`` those without a past. ``unused``
    are the entity ids that it, and copies of it, say no entity has.
    """

    id: UUID
    tx: int
    depth: int
    size: int
    commit: Commit
    roots: list[Root]
    factory: LevelsFactory
    log: Address | None
    before: UUID | None
    schema: Schema
    indexed: frozenset[int]
    forgetful: frozenset[int]
    back: tuple[Pointer, ...]
    hashed: bool
    unused: set[range]
    logged: bool = False


@dataclass(slots=True, eq=False)
class Node:
    """What is known of a node. ``children`` is None of a leaf; ``count`` what is said of it.

    No datom of it comes before ``key``, and all come before ``until``, as the node above says;
    ``leaf``, that it says it is one, so that it was not read. ``buffered`` counts and sums up what
    the node adds to those below it, and what it takes away; ``added`` are the ids of entities in
    what it adds. ``plain`` says that it holds datoms, or leads to some: a filter does not.
    """

    order: Order
    temporal: bool
    count: int
    key: Any
    until: Any
    factory: LevelsFactory
    children: list[Address] | None = None
    leaf: bool = False
    buffered: tuple[Sums, Sums] | None = None
    added: npt.NDArray[Any] = field(default_factory=lambda: _NOBODY)
    plain: bool = True


class Link(NamedTuple):
    """A segment of the log: the one before it, and those that hold records for it."""

    previous: Address | None
    parts: list[Address]


@dataclass(slots=True)
class Seen:
    """What the heads of a store name. ``blobs`` are the keys of all of it.

    ``kept`` are segments that tags and pins name, ``whole`` the checkpoints that were read.
    """

    registry: Registry | None = None
    branches: dict[str, BranchState] = field(default_factory=dict)
    stops: dict[UUID, Stop] = field(default_factory=dict)
    segments: dict[Address, Link] = field(default_factory=dict)
    nodes: dict[Address, Node] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    kept: list[Address] = field(default_factory=list)
    whole: set[UUID] = field(default_factory=set)

    def by_blob(self) -> dict[str, list[Address]]:
        """Return the addresses of nodes by the blob they lie in."""
        out: dict[str, list[Address]] = {}
        for address in self.nodes:
            out.setdefault(address.blob, []).append(address)
        return out

    def log_of(self, stop: Stop) -> list[Address]:
        """Return the segments between the checkpoint before this one and it, the oldest first."""
        if not stop.logged:
            return []
        before = None if stop.before is None else self.stops.get(stop.before)
        end = None if before is None else before.log
        out: list[Address] = []
        at = stop.log
        while at is not None and at != end and at not in out:
            out.append(at)
            link = self.segments.get(at)
            at = None if link is None else link.previous
        return out[::-1]


class Survey:
    """One survey of a store. ``complain`` is told of what is wrong; raising there ends it.

    What never changes and an earlier survey has read, as ``before`` says, is not read again.
    """

    def __init__(self, store: Store, complain: Complain, before: Seen | None = None) -> None:
        self.store = store
        self.seen = Seen()
        self._before = before or Seen()
        self._complain = complain
        self._kept: list[tuple[str, Checkpoint]] = []
        self._schemas: dict[bytes, tuple[frozenset[int], frozenset[int]]] = {}

    async def run(self, branches: Sequence[str] = (), *, pins: bool = True) -> Seen:
        """Look through the whole store, and return what its heads name.

        ``branches`` are those to look at; all that the registry lists, and tags, if none are given,
        and with ``pins`` what readers keep.
        """
        await self.heads(branches)
        if not branches:
            await self.kept(pins=pins)
        await self.checkpoints()
        await self.log()
        await self.nodes()
        return self.seen

    # -- heads ---------------------------------------------------------------------------------

    async def heads(self, branches: Sequence[str] = ()) -> None:
        """Read the registry and the heads that it lists."""
        seen = self.seen
        seen.blobs.add(BRANCHES)
        try:
            seen.registry = await read_registry(self.store)
        except (DatahikeError, KonserveError) as error:
            self._wrong(BRANCHES, error)
        names = sorted(branches or (seen.registry.branches if seen.registry else ()))
        for name in names:
            key = head_key(name)
            seen.blobs.add(key)
            try:
                state = await read_branch(self.store, name, None)
            except DatabaseNotFound:
                if branches:
                    raise
                self._without(name)  # somebody deletes it now, or was ended while doing so
                continue
            except (DatahikeError, KonserveError) as error:
                self._wrong(key, error)
                continue
            if state is None:
                if not branches and name not in (await read_registry(self.store)).branches:
                    self._without(name)
                    continue
                self._complain("missing", key, f"branch :{name} is listed, and has no head")
                continue
            seen.branches[name] = state

    def _without(self, name: str) -> None:
        """Leave a branch out that is deleted meanwhile."""
        assert self.seen.registry is not None
        self.seen.registry = self.seen.registry.without(name)
        self.seen.blobs.discard(head_key(name))

    async def kept(self, *, pins: bool = True) -> None:
        """Read what tags and pins keep of the past, whatever becomes of branches."""
        registry = self.seen.registry
        readers: Pins | None = None
        try:
            readers = await listed_pins(self.store) if pins else None
        except (DatahikeError, KonserveError) as error:
            self._wrong(PINS, error)
        if readers is not None:
            self.seen.blobs.add(PINS)  # the list stays, also where there is no pin any more
        for tagged in registry.tags.values() if registry else ():
            key = tag_key(tagged.publication)
            try:
                head = await tagged_head(self.store, tagged)
            except (DatahikeError, KonserveError) as error:
                self._wrong(key, error)
                continue
            if head is not None:
                self._keep(key, head.base, head.tail)
        for id_ in readers or ():
            key = pin_key(id_)
            try:
                self._keep(key, *await pinned_items(self.store, id_))
            except (DatahikeError, KonserveError) as error:
                if id_ in await read_pins(self.store):
                    self._wrong(key, error)

    def _keep(self, key: str, base: Checkpoint, items: Iterable[bytes | Address]) -> None:
        # The checkpoint itself, too: what is branched from it goes back to it.
        self.seen.blobs |= {key, checkpoint_key(base.id)}
        self._kept.append((key, base))
        self.seen.kept += [x for x in items if isinstance(x, Address)]

    def _wrong(self, place: str, error: Exception) -> None:
        if isinstance(error, KonserveError):
            error = translate(error)
        if isinstance(error, CorruptData):
            missing = "is not in the store" in str(error)
            self._complain("missing" if missing else "corrupt", place, str(error))
        else:
            raise error

    # -- checkpoints ---------------------------------------------------------------------------

    async def checkpoints(self) -> None:
        """Read the checkpoints that heads name, and those before them, down to the floors."""
        registry = self.seen.registry
        for key, base in self._kept:
            self._take(base, key)
        for name, state in self.seen.branches.items():
            self._take(state.head.base, head_key(name))
            floor = floor_of(registry, name, state.head.base) if registry else None
            await self._line(state.head.base.pointer, floor)

    async def _line(self, newest: Pointer, floor: Floor | None) -> None:
        """Go back from a checkpoint in waves: each names several of those before it."""
        collected = self.seen.registry is not None and self.seen.registry.epoch > 0
        wave, met = [newest], {newest.id}
        while wave:
            stops = await gather(self._checkpoint, wave, _AT_ONCE)
            wave = []
            for stop in stops:
                if stop is None or (floor is not None and stop.id == floor.checkpoint):
                    continue
                kept = [pointer for pointer in stop.back if _is_kept(pointer, floor)]
                # Collections keep the log since the one before where that is kept.
                if (kept and kept[0] is stop.back[0]) or not (stop.back or collected):
                    stop.logged = True
                wave += [pointer for pointer in kept if pointer.id not in met]
                met.update(pointer.id for pointer in kept)

    async def _checkpoint(self, pointer: Pointer) -> Stop | None:
        """Return what is kept of a checkpoint, which is read the first time that it is met."""
        key = checkpoint_key(pointer.id)
        known = self.seen.stops.get(pointer.id)
        if known is not None and key in self.seen.blobs:
            return known
        self.seen.blobs.add(key)
        if pointer.id in self._before.whole:
            self.seen.whole.add(pointer.id)
            return self._met(replace(self._before.stops[pointer.id], logged=False), key)
        try:
            data = await self.store.bget(key)
            if data is None:
                self._complain("missing", key, "the checkpoint is not in the store")
                return known
            base = decode_checkpoint(data, key)
        except (DatahikeError, KonserveError) as error:
            self._wrong(key, error)
            return known
        if base.pointer != pointer:
            self._complain(
                "mismatch", key, f"the checkpoint is {base.pointer}, and {pointer} is named"
            )
        stop = self._take(base, key)
        if stop is not None and base.pointer == pointer:
            self.seen.whole.add(pointer.id)
        return stop

    def _take(self, base: Checkpoint, place: str) -> Stop | None:
        """Keep what a checkpoint says."""
        try:
            stop = self._stop(base)
        except (KeyError, TypeError, ValueError, DatahikeError) as error:
            self._complain("corrupt", place, f"the checkpoint names no trees: {error!r}")
            return None
        if base.is_hashed and base.hash != base.binding():
            self._complain("mismatch", place, "the checkpoint does not have the hash that it says")
        return self._met(stop, place)

    def _met(self, stop: Stop, place: str) -> Stop:
        known = self.seen.stops.setdefault(stop.id, stop)
        known.unused |= stop.unused
        if _held(known) != _held(stop):
            self._complain("mismatch", place, "a copy of the checkpoint says otherwise")
        return known

    def _stop(self, base: Checkpoint) -> Stop:
        factory = index_factory(base.config["index"])
        roots = []
        for name, root in base.trees["roots"].items():
            order = Order(name.removeprefix("temporal-"))
            tops = tuple(factory.tops(root))
            roots.append(Root(name, tops, order, name.startswith("temporal-")))
        schema = Schema.from_data(base.schema)
        attrs = schema.attrs
        return Stop(
            base.id,
            base.tx,
            base.pointer.depth,
            len(base.encoded),
            base.commit,
            roots,
            factory,
            None if base.log is None else Address(*base.log),
            base.back[0].id if base.back else None,
            schema,
            frozenset(attr.id for attr in attrs if attr.indexed),
            frozenset(attr.id for attr in attrs if attr.no_history),
            tuple(base.back),
            base.is_hashed,
            {range(base.trees["max-eid"] + 1, base.ids.stop)},
        )

    # -- the log -------------------------------------------------------------------------------

    async def log(self) -> None:
        """Read the segments of the log, those of tails among them, in waves."""
        seen = self.seen
        # Each with where to stop: what lies before that was collected, or belongs to another line.
        wave: dict[Address, set[Address | None]] = {}
        for stop in seen.stops.values():
            before = None if stop.before is None else seen.stops.get(stop.before)
            end = None if before is None else before.log
            if stop.logged and stop.log is not None and stop.log != end:
                wave.setdefault(stop.log, set()).add(end)
        alone = dict.fromkeys(seen.kept)
        for state in seen.branches.values():
            alone.update(dict.fromkeys(x for x in state.head.tail if isinstance(x, Address)))
        for at in alone:
            wave.setdefault(at, set())
        while wave:
            found = await gather(self._segment, list(wave), _AT_ONCE)
            below: dict[Address, set[Address | None]] = {}
            for (at, ends), link in zip(wave.items(), found, strict=True):
                if link is None:
                    continue
                seen.segments[at] = link
                for part in link.parts:
                    below.setdefault(part, set())
                if link.previous is not None and ends - {link.previous}:
                    below.setdefault(link.previous, set()).update(ends - {link.previous})
            wave = {at: ends for at, ends in below.items() if at not in seen.segments}

    async def _segment(self, address: Address) -> Link | None:
        self.seen.blobs.add(address.blob)
        if address in self._before.segments:
            return self._before.segments[address]
        try:
            data = await self.store.bget(address.blob)
            if data is None:
                self._complain("missing", address.blob, "the segment of the log is not there")
                return None
            if len(data) > IN_THREAD:
                parts = await in_thread(checked_segment, address, data)
            else:
                parts = checked_segment(address, data)
        except (DatahikeError, KonserveError) as error:
            self._wrong(address.blob, error)
            return None
        return Link(parts.previous, [x for x in parts.items if isinstance(x, Address)])

    # -- nodes ---------------------------------------------------------------------------------

    async def nodes(self) -> None:
        """Read all nodes that have children, level by level."""
        wave: dict[Address, Node] = {}
        for stop in self.seen.stops.values():
            for root in stop.roots:
                for (address, size, _, _), sign, _ in root.tops:
                    node = Node(root.order, root.temporal, size, None, None, stop.factory)
                    if sign:
                        wave.setdefault(address, node)
                    else:
                        node.plain = False
                        self.seen.nodes[address] = node
                        self.seen.blobs.add(address.blob)
        while wave:
            below: dict[Address, Node] = {}
            addresses = sorted(wave.keys() - self._known(wave, below))
            for start in range(0, len(addresses), _WAVE):
                part = addresses[start : start + _WAVE]
                found = await read_raw(self.store, part)
                await in_thread(self._look_into, found, wave, below)
            wave = below

    def _known(self, wave: Iterable[Address], below: dict[Address, Node]) -> set[Address]:
        """Take over what is known of some nodes, and say of which."""
        seen, before = self.seen, self._before.nodes
        found = {at for at in wave if at in before and before[at].children is not None}
        for address in found:
            node = seen.nodes[address] = before[address]
            seen.blobs.add(address.blob)
            for child in node.children or ():
                if before[child].leaf:
                    seen.nodes[child] = before[child]
                    seen.blobs.add(child.blob)
                elif child not in seen.nodes:
                    below[child] = before[child]
        return found

    def _look_into(
        self,
        found: Iterable[tuple[Address, bytes | Exception | None]],
        wave: Mapping[Address, Node],
        below: dict[Address, Node],
    ) -> None:
        seen = self.seen
        for address, data in found:
            node = wave[address]
            seen.nodes[address] = node
            seen.blobs.add(address.blob)
            if isinstance(data, Exception):
                self._wrong(address.blob, data)
                continue
            wrong = wrong_bytes(address, data)
            if data is None or wrong:
                kind = "missing" if data is None else "corrupt"
                self._complain(kind, address.blob, f"the node at {address.offset} {wrong}")
                continue
            try:
                decoded = node.factory.decode(data)
                children = node.factory.below(decoded)
                buffered = node.factory.buffered(decoded) if children else ((), ())
            except DatahikeError as error:
                self._wrong(address.blob, error)
                continue
            if any(buffered):
                adds, removes = map(Rows.concat, buffered)
                node.buffered, node.added = (sums_by(adds), sums_by(removes)), adds.e
            if is_forged(address, node.factory, data, decoded):
                what = f"the node at {address.offset} does not have the hash that is said of it"
                self._complain("mismatch", address.blob, what)
            if children:
                self._below(address, node, children, below)

    def _below(
        self, address: Address, node: Node, children: Sequence[Child], below: dict[Address, Node]
    ) -> None:
        seen = self.seen
        node.children = [child.address for child in children]
        count = sum(child.size for child in children)
        if node.buffered is not None:
            adds, removes = (sum(n for n, _ in sums.values()) for sums in node.buffered)
            count += adds - removes
        if count != node.count:
            what = f"the node at {address.offset} does not count {node.count} datoms, as is said"
            self._complain("mismatch", address.blob, what)
        keys = [child.key for child in children[1:]]
        for child, until in zip(children, [*keys, node.until], strict=True):
            if child.address in seen.nodes or child.address in below:
                continue
            made = Node(node.order, node.temporal, child.size, child.key, until, node.factory)
            if child.leaf:
                made.leaf = True
                seen.nodes[child.address] = made
                seen.blobs.add(child.address.blob)
            else:
                below[child.address] = made


def _is_kept(pointer: Pointer, floor: Floor | None) -> bool:
    return floor is None or pointer.tx > floor.tx or pointer.id == floor.checkpoint


def _held(stop: Stop) -> Any:
    """Return what a checkpoint and its copies all say."""
    return stop.roots, stop.log, stop.schema.to_data()


def wrong_bytes(address: Address, data: bytes | None) -> str:
    """Say what is wrong with the bytes at an address; nothing where they are as written."""
    if data is None:
        return "is not in the store"
    if len(data) != address.length:
        return f"has {len(data)} of {address.length} bytes"
    return "has a wrong checksum" if zlib.crc32(data) != address.crc else ""


def is_forged(address: Address, factory: LevelsFactory, data: bytes, node: Any) -> bool:
    """Say whether a node, and what it says of those below, is other than its address says."""
    return bool(address.hash) and node_hash(factory, data, node) != address.hash


def checked_segment(address: Address, data: bytes) -> SegmentParts:
    """Decode the segment at an address. Raises CorruptData where it is another one, or damaged."""
    wrong = wrong_bytes(address, data)
    if wrong:
        raise CorruptData(f"{address.blob}, a segment of the log, {wrong}.", blob=address.blob)
    return decode_segment(data, address.blob)
