"""Verify: whether all that a store's heads name is there, whole, and says one thing.

First what the heads name is surveyed; then every blob is read once and looked at, and its leaves
are summed up; in the end the sums of indexes that should hold the same datoms are compared, and
with ``deep`` those of the log with what it led to, and leaves with the filters that tell what is in
them. Nothing is written and nothing is held: whoever writes goes on, and what comes meanwhile is
not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, Final, NamedTuple

import anyio
import numpy as np
import numpy.typing as npt

from datahike_async.collector import set_aside, spare
from datahike_async.errors import CorruptData
from datahike_async.index.columns import Column, Rows
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.protocol import Order
from datahike_async.index.source import Address
from datahike_async.index.sums import in_order, sum_of, sums_by
from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.blob import UNCHANGED
from datahike_async.konserve.envelope import BINARY
from datahike_async.konserve.errors import CorruptValue, UnsupportedEncoding
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.definitions import Definitions, differs
from datahike_async.storage.filtering import Filtered
from datahike_async.storage.keys import OURS, checkpoint_key
from datahike_async.storage.log.checkpoint import decode_checkpoint
from datahike_async.storage.log.records import Record, decode_record, decode_segment
from datahike_async.storage.nodes.sinks import parts_of
from datahike_async.storage.survey import (
    Node,
    Root,
    Seen,
    Stop,
    Survey,
    checked_segment,
    is_forged,
    wrong_bytes,
)
from datahike_async.values.types import typed_key

__all__ = ["Checked", "Finding", "verify_store"]

_AT_ONCE: Final = 8
_KEPT: Final = 1000
_BLOCK: Final = 8192
_MASK: Final = 2**64 - 1

Total = dict[int, tuple[int, int]]
"""How many datoms, and their sum, of each attribute; of all together under ``_ALL``."""
_ALL: Final = -1


class Finding(NamedTuple):
    """Something that is wrong: ``missing``, ``corrupt`` or ``mismatch``, where, and what."""

    kind: str
    place: str
    message: str


@dataclass(slots=True)
class Checked:
    """What a look at a store has counted and found. ``more`` counts findings beyond those kept."""

    branches: int = 0
    checkpoints: int = 0
    segments: int = 0
    nodes: int = 0
    datoms: int = 0
    blobs: int = 0
    bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    def complain(self, kind: str, place: str, message: str) -> None:
        """Note what is wrong; each thing once."""
        finding = Finding(kind, place, message)
        if len(self.findings) >= _KEPT:
            self.more += 1
        elif finding not in self.findings:
            self.findings.append(finding)


@dataclass(slots=True)
class _Log:
    """What a segment of the log did: to present datoms, and to intervals of each attribute."""

    present: list[int]
    past: Total
    last: Record | None
    schema: Definitions = field(default_factory=Definitions)


async def verify_store(
    store: Store,
    branches: Sequence[str] = (),
    *,
    deep: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Checked:
    """Look at a whole store. ``branches`` are those to go by where no registry can be read.

    ``progress`` is told how many blobs have been read, and of how many. Raises konserve's errors
    where the store cannot be reached; UnsupportedFormat where a newer version wrote it.
    """
    return await _Look(store, deep, progress).run(branches)


class _Look:
    def __init__(
        self, store: Store, deep: bool, progress: Callable[[int, int], object] | None
    ) -> None:
        self._store = store
        self._deep = deep
        self._progress = progress
        self._found = Checked()
        self._seen = Seen()
        self._nodes: dict[str, list[Address]] = {}
        self._segments: dict[str, list[Address]] = {}
        self._sums: dict[Address, Total] = {}
        # Leaves where there might be entities of which a checkpoint says that there are none.
        self._doubtful: dict[Address, dict[range, None]] = {}
        self._logs: dict[Address, _Log] = {}
        self._filtered = Filtered({}, {})
        self._said: set[tuple[str, str]] = set()
        # What the heads as they are name and is not there, in order; and the sizes of what was.
        self._missing: dict[Finding, None] = {}
        self._read: dict[str, int] = {}
        self._done = 0
        self._computing = anyio.Lock()

    async def run(self, branches: Sequence[str]) -> Checked:
        found = self._found
        # Before the heads are read: what is listed and not named by them is named by none.
        names = await self._names()
        try:
            found.findings += [Finding("corrupt", *fault) for fault in await self._store.faults()]
        except CorruptValue as error:
            found.complain("corrupt", "the store", str(error))
        missed: set[str] = set()
        with set_aside():
            await self._round(names, branches)
            while await self._is_overtaken(missed):
                missed |= {place for _, place, _ in self._missing}
                await self._round((), branches)
        for finding in self._missing:
            found.complain(*finding)
        seen = self._seen
        found.branches, found.checkpoints = len(seen.branches), len(seen.stops)
        found.segments, found.nodes = len(seen.segments), len(seen.nodes)
        used = set(map(name_of_key, seen.blobs))
        orphans = [size for name, size in self._read.items() if name not in used]
        found.blobs, found.bytes = len(self._read), sum(self._read.values())
        found.orphans, found.orphan_bytes = len(orphans), sum(orphans)
        return found

    async def _round(self, names: Sequence[str], branches: Sequence[str]) -> None:
        """Look by the heads as they are now at what was not looked at, and at what was missing."""
        self._missing, self._said = {}, set()
        survey = Survey(self._store, self._complain, self._seen)
        self._seen = await survey.run()
        if self._seen.registry is None:
            self._seen = await survey.run(branches)
        # A blob that was read before need not be complained of again.
        said = [*self._found.findings, *self._missing]
        self._said = {(kind, place) for kind, place, _ in said if kind != "mismatch"}
        if self._deep:
            self._filtered = await Filtered.read(self._store, self._seen)
        await self._blobs(names)
        await in_thread(self._compare)

    async def _is_overtaken(self, missed: Set[str]) -> bool:
        """Say whether something that is missing may have been collected while it was looked for.

        Not what was ``missed`` before: the heads as they were after that name it all the same.
        """
        registry = self._seen.registry
        if registry is None or all(place in missed for _, place, _ in self._missing):
            return False
        return (await read_registry(self._store)).epoch != registry.epoch

    async def _names(self) -> list[str]:
        names: list[str] = []
        async with listing(self._store.blobs.names()) as pages:
            async for page in pages:
                names += page
        return names

    # -- blobs ---------------------------------------------------------------------------------

    async def _blobs(self, listed: Sequence[str]) -> None:
        names, used = await in_thread(self._in_use, listed)
        await gather(lambda name: self._blob(name, used.get(name), len(names)), names, _AT_ONCE)

    def _complain(self, kind: str, place: str, message: str) -> None:
        if (kind, place) in self._said:
            return
        if kind == "missing":
            self._missing[Finding(kind, place, message)] = None
        else:
            self._found.complain(kind, place, message)

    def _in_use(self, listed: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return all names that are to be read, and the keys of those that are referred to."""
        seen = self._seen
        self._nodes, self._segments, self._doubtful = seen.by_blob(), {}, {}
        for stop in seen.stops.values():
            for root, unused in product(stop.roots, stop.unused):
                for address in root.addresses if root.order is Order.EAVT else ():
                    self._doubt(address, unused)
        for address in seen.segments:
            self._segments.setdefault(address.blob, []).append(address)
        new = {at.blob for at, node in seen.nodes.items() if node.leaf and at not in self._sums}
        new |= {at.blob for at in seen.segments if at not in self._logs}
        used = {name_of_key(key): key for key in seen.blobs}
        todo = [name for name in used if used[name] in new or name not in self._read]
        new |= {at.blob for at in self._doubtful}
        self._done = 0
        return list(dict.fromkeys([*listed, *todo])), used

    def _doubt(self, address: Address, unused: range) -> None:
        """Note the leaves below a node where entities with ``unused`` ids would lie."""
        node = self._seen.nodes.get(address)
        if node is None or not node.plain:
            return
        start, stop = (_before(e, node.factory) for e in (unused.start, unused.stop))
        if (node.until is not None and not start < node.until) or not (
            node.key is None or node.key < stop
        ):
            return
        if node.children is None:
            self._doubtful.setdefault(address, {})[unused] = None
            return
        self._used(address, node.added, unused)
        for child in node.children:
            self._doubt(child, unused)

    def _used(self, address: Address, eids: npt.NDArray[Any], unused: range) -> None:
        wrong = eids[(eids >= unused.start) & (eids < unused.stop)]
        if len(wrong):
            what = f"the node at {address.offset} has entity {wrong[0]}, an id that no entity has"
            self._found.complain("mismatch", address.blob, f"{what} as a checkpoint says")

    async def _blob(self, name: str, key: str | None, count: int) -> None:
        try:
            blob = await self._store.blobs.read_latest(name)
        except CorruptValue as error:
            self._complain("corrupt", key or name, str(error))
            blob = None
        else:
            if blob is None and key is not None:
                self._complain("missing", key, "it is not in the store, and is referred to")
        if blob is not None and blob is not UNCHANGED:
            # Several threads that compute would keep the event loop waiting for each of them.
            async with self._computing:
                await in_thread(self._look_at, name, key, blob.data)
            self._read[name] = len(blob.data)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, count)

    def _look_at(self, name: str, key: str | None, data: bytes) -> None:
        encoding = self._store.encoding
        try:
            envelope = encoding.open(name, data)
            named = encoding.meta(envelope).get("key")
            if name_of_key(named) != name:
                self._complain("mismatch", key or name, f"it says that it is {named!r}")
                return
            value = encoding.value(named, envelope)
        except UnsupportedEncoding:
            raise
        except Exception as error:
            self._complain("corrupt", key or name, str(error))
            return
        if not isinstance(named, str) or not named.startswith(OURS):
            return
        if envelope.kind != BINARY or not isinstance(value, bytes):
            return  # a head, which the survey has read
        try:
            self._decode(named, value)
        except CorruptData as error:
            self._complain("corrupt", named, str(error))

    def _decode(self, key: str, value: bytes) -> None:
        """Look at the value of one of our keys. Raises CorruptData."""
        if key.startswith("pack/"):
            parts_of(value, key)
        elif key.startswith("commit/"):
            base = decode_checkpoint(value, key)
            if checkpoint_key(base.id) != key:
                self._complain("mismatch", key, f"it holds the checkpoint {base.id}")
        elif key.startswith("log/"):
            for address in self._segments.get(key, ()):
                self._logs[address] = self._log(address, value)
            if key not in self._segments:
                decode_segment(value, key)
        for address in self._nodes.get(key, ()):
            node = self._seen.nodes[address]
            data = value[address.offset : address.offset + address.length]
            wrong = wrong_bytes(address, data)
            if wrong:
                what = f"the node at {address.offset} {wrong}"
                self._complain("corrupt", key, what)
            elif node.children is None:
                self._leaf(address, node, data)
                spare()

    # -- leaves --------------------------------------------------------------------------------

    def _leaf(self, address: Address, node: Node, data: bytes) -> None:
        factory = node.factory
        leaf = factory.decode(data)
        if not node.plain:
            # A filter, of which no more is known.
            self._sums[address] = {}
            if is_forged(address, factory, data, leaf):
                what = f"the filter at {address.offset} does not have the hash that is said of it"
                self._found.complain("mismatch", address.blob, what)
            return
        rows = factory.rows(leaf)
        where = f"the leaf at {address.offset}"
        wrong = []
        if is_forged(address, factory, data, leaf):
            wrong.append("does not have the hash that is said of it")
        if not len(rows) or len(rows) != node.count:
            wrong.append(f"has {len(rows)} datoms where {node.count} are counted")
        elif not in_order(rows, node.order):
            wrong.append("is not in order")
        elif (rows.until is not None) != node.temporal:
            wrong.append("belongs to another index")
        else:
            first = factory.first(rows, node.order)
            last = factory.first(rows.slice(len(rows) - 1, len(rows)), node.order)
            if node.key is not None and first < node.key:
                wrong.append("begins before its place")
            if node.until is not None and not last < node.until:
                wrong.append("ends behind its place")
            if node.order is not Order.EAVT and rows.a.min() != rows.a.max():
                wrong.append("has datoms of several attributes")
        missed = self._filtered.missed(address, node, rows)
        if missed:
            wrong.append(f"has {missed} datoms that the filter of its run says are not there")
        for what in wrong:
            self._found.complain("mismatch", address.blob, f"{where} {what}")
        if node.order is Order.EAVT:
            self._sums[address] = {_ALL: (len(rows), sum_of(rows))}
            for unused in self._doubtful.get(address, ()):
                self._used(address, rows.e, unused)
        else:
            self._sums[address] = sums_by(rows)

    # -- the log -------------------------------------------------------------------------------

    def _log(self, address: Address, data: bytes) -> _Log:
        """Look at the records of a segment, and sum up what they did."""
        out = _Log([0, 0], {}, None)
        for item in checked_segment(address, data).items:
            if not isinstance(item, bytes):
                continue
            record = out.last = decode_record(item, address.blob)
            if self._deep:
                for entry in record.entries:
                    out.schema.attributes += entry.new_attrs
                    self._sum_up(entry.operations, entry.tx, out)
        return out

    def _sum_up(self, operations: Iterable[Any], tx: int, out: _Log) -> None:
        todo = iter(operations)
        met: set[tuple[int, int, Any]] = set()
        while part := list(islice(todo, _BLOCK)):
            e, a, v, t, added = zip(*part, strict=True)
            rows = Rows(
                np.array(e, np.int64),
                np.array(a, np.int32),
                Column.of(list(v)),
                np.array(t, np.int64),
            )
            mask = np.array(added, np.bool_)
            new, gone = rows.take(mask), rows.take(~mask)
            out.schema.did(rows, mask)
            out.present[0] += len(new) - len(gone)
            out.present[1] = (out.present[1] + sum_of(new) - sum_of(gone)) & _MASK
            gone = gone.take(_once(gone, tx, met))
            _add(out.past, sums_by(gone, np.full(len(gone), tx, np.int64)))

    # -- comparing -----------------------------------------------------------------------------

    def _compare(self) -> None:
        for stop in sorted(self._seen.stops.values(), key=lambda stop: (stop.depth, stop.tx)):
            totals = {root.name: self._total(root) for root in stop.roots}
            if None in totals.values():
                continue  # what is wrong has been said
            for prefix in ("", "temporal-"):
                if prefix + "eavt" in totals:
                    self._indexes(stop, prefix, totals)
            if self._deep:
                self._replay(stop, totals)

    def _total(self, root: Root) -> Total | None:
        """Return what an index holds; None where some of it could not be read."""
        out: Total = {}
        for top in root.tops:
            below = self._below(top.child.address) if top.sign else {}
            if below is None:
                return None
            _add(out, below, top.sign)
        return {a: part for a, part in out.items() if part != (0, 0)}

    def _below(self, address: Address) -> Total | None:
        known = self._sums.get(address)
        if known is not None:
            return known
        node = self._seen.nodes.get(address)
        if node is None or node.children is None:
            return None
        out: Total = {}
        for child in node.children:
            below = self._below(child)
            if below is None:
                return None
            _add(out, below)
        for sums, sign in zip(node.buffered or (), (1, -1), strict=False):
            known = dict(sums)
            if node.order is Order.EAVT and known:
                known = {_ALL: _whole(known)}
            _add(out, {a: (sign * count, sign * total) for a, (count, total) in known.items()})
        self._sums[address] = {a: total for a, total in out.items() if total != (0, 0)}
        return out

    def _indexes(self, stop: Stop, prefix: str, totals: dict[str, Total | None]) -> None:
        """Compare the three indexes of a checkpoint, and what it counts."""
        key = checkpoint_key(stop.id)
        eavt, aevt, avet = ((totals[prefix + o.value] or {}) for o in Order)
        whole = eavt.get(_ALL, (0, 0))
        for root in stop.roots:
            if root.name.removeprefix(prefix) not in ("eavt", "aevt", "avet"):
                continue
            counted = _whole(totals[root.name] or {})[0]
            if root.size != counted:
                what = f"{root.name} has {counted} datoms, and {root.size} are counted"
                self._found.complain("mismatch", key, what)
        self._found.datoms = max(self._found.datoms, whole[0])
        if _whole(aevt) != whole:
            what = f"{prefix}eavt and {prefix}aevt hold different datoms ({_differ(eavt, aevt)})"
            self._found.complain("mismatch", key, what)
        for a in sorted((aevt.keys() & stop.indexed) | avet.keys()):
            if a in stop.indexed and aevt.get(a) != avet.get(a):
                what = f"{prefix}aevt and {prefix}avet hold different datoms of attribute {a}"
                self._found.complain("mismatch", key, what)

    def _replay(self, stop: Stop, totals: dict[str, Total | None]) -> None:
        """Compare a checkpoint with the one before it and what the log says was done since."""
        key = checkpoint_key(stop.id)
        base: Stop | None = None
        before: dict[str, Total | None] = {}
        if not stop.logged or not (stop.back or (stop.hashed and stop.log)):
            return  # nothing is known of before: also where a purge has begun the log anew
        if stop.before is not None:
            base = self._seen.stops.get(stop.before)
            if base is None:
                return  # it has been said that it is missing
            before = {root.name: self._total(root) for root in base.roots}
        logs = [self._logs.get(at) for at in self._segments_of(stop)]
        if None in logs or None in before.values():
            return
        present = list(_whole(before.get("eavt") or {}))
        past: Total = dict(before.get("temporal-aevt") or {})
        last: Record | None = None
        for log in logs:
            assert log is not None
            present[0] += log.present[0]
            present[1] = (present[1] + log.present[1]) & _MASK
            _add(past, log.past)
            last = log.last or last
        if tuple(present) != _whole(totals["eavt"] or {}):
            what = f"the log leads to {present[0]} datoms, which are not those of the indexes"
            self._found.complain("mismatch", key, what)
        if last is not None and last.commit != stop.commit.id:
            what = f"the log ends with commit {last.commit}, and not with {stop.commit.id}"
            self._found.complain("mismatch", key, what)
        if stop.hashed:
            done = [log.schema for log in logs if log is not None]
            wrong = differs(base.schema if base else None, done, stop.schema)
            if wrong:
                what = f"the log leads to another schema: {wrong}"
                self._found.complain("mismatch", key, what)
        if "temporal-aevt" not in totals:
            return
        forgetful = stop.forgetful | (base.forgetful if base else frozenset())
        now = totals["temporal-aevt"] or {}
        for a in sorted((past.keys() | now.keys()) - forgetful):
            if past.get(a, (0, 0)) != now.get(a, (0, 0)):
                what = f"the log leads to another past of attribute {a} than the indexes hold"
                self._found.complain("mismatch", key, what)

    def _segments_of(self, stop: Stop) -> list[Address]:
        out: list[Address] = []
        for at in self._seen.log_of(stop):
            link = self._seen.segments.get(at)
            out += [*(link.parts if link else ()), at]
        return out


def _before(e: int, factory: LevelsFactory) -> Any:
    """Return a key of EAVT before that of any datom of an entity, and behind all before it."""
    row = Rows(np.array([e]), np.array([-1], np.int32), Column.of([0]), np.array([0]))
    return factory.first(row, Order.EAVT)


def _once(gone: Rows, tx: int, met: set[tuple[int, int, Any]]) -> Any:
    """Say which retractions of a transaction end an interval that is not there yet.

    What it asserted and retracted several times has one. ``met`` are those so far.
    """
    keep = np.ones(len(gone), np.bool_)
    for i in np.flatnonzero(gone.t == tx).tolist():
        said = (int(gone.e[i]), int(gone.a[i]), typed_key(gone.v.value(i)))
        keep[i] = said not in met
        met.add(said)
    return keep


def _add(out: Total, more: Total, sign: int = 1) -> None:
    for a, (count, total) in more.items():
        known = out.get(a, (0, 0))
        out[a] = (known[0] + sign * count, (known[1] + sign * total) & _MASK)


def _whole(total: Total) -> tuple[int, int]:
    count = sum(part[0] for part in total.values())
    return count, sum(part[1] for part in total.values()) & _MASK


def _differ(left: Total, right: Total) -> str:
    return f"{_whole(left)[0]} and {_whole(right)[0]}"
