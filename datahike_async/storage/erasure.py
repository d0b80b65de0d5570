"""Erasure: which blobs of a branch hold more than it needs, and where in a store values still are.

What was purged is in no tree any more, but the packs of nodes that are needed may hold nodes that
are not. And a search that did not decode would prove nothing: blobs are compressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from datahike_async.edn.types import Keyword
from datahike_async.index.codec import unpack
from datahike_async.index.columns import Rows
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.source import read
from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.blob import UNCHANGED
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.branches.head import decode_head
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.log.records import decode_record, decode_segment
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.nodes.sinks import parts_of
from datahike_async.values.types import typed_key

__all__ = ["Kept", "Searched", "Sought", "search", "wasteful_blobs"]

_AT_ONCE: Final = 4
_RENEWED: Final = 32 * 1024 * 1024
"""Bytes of nodes that are written anew in one flush: they are held in memory meanwhile."""


async def wasteful_blobs(store: Store, trees: Trees) -> list[frozenset[str]]:
    """Return the blobs with nodes of trees that hold other nodes, too; some at a time."""
    if layout_of(store.capabilities) is not Layout.PACKS:
        return []
    live: Counter[str] = Counter()

    def count() -> None:
        live.clear()
        for index in trees.indexes():
            for address in index.addresses():
                live[address.blob] += address.length

    await read(count)
    out: list[frozenset[str]] = []
    some: set[str] = set()
    size = 0
    for blob, needed in live.items():
        data = await store.bget(blob)
        parts = [] if data is None else await in_thread(parts_of, data, blob)
        if sum(part.length for part in parts) == needed:
            continue
        if some and size + needed > _RENEWED:
            out.append(frozenset(some))
            some, size = set(), 0
        some.add(blob)
        size += needed
    return [*out, frozenset(some)] if some else out


class Sought:
    """Values that are searched for: equal ones, and texts and bytes that contain them."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._keys: dict[Any, int] = {}
        self._texts: list[tuple[int, str]] = []
        self._raw: list[tuple[int, bytes]] = []
        for i, value in enumerate(values):
            if isinstance(value, Keyword):
                value = value.text
            if isinstance(value, str):
                self._texts.append((i, value))
                self._raw.append((i, value.encode()))
            elif isinstance(value, bytes):
                self._raw.append((i, value))
            else:
                self._keys[typed_key(value)] = i

    def within(self, data: bytes) -> set[int]:
        """Return which values stand in bytes as they are."""
        return {i for i, raw in self._raw if raw in data}

    def among(self, values: Iterable[Any]) -> set[int]:
        """Return which values are among some, at any depth."""
        out: set[int] = set()
        for value in _scalars(values):
            if isinstance(value, Keyword):
                value = value.text
            if isinstance(value, str):
                out.update(i for i, text in self._texts if text in value)
            elif isinstance(value, bytes):
                out |= self.within(value)
            elif self._keys:
                found = self._keys.get(typed_key(value))
                if found is not None:
                    out.add(found)
        return out


def _scalars(values: Any) -> Iterator[Any]:
    waiting = [iter(values)]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, Mapping):
                waiting.append(iter([*value.keys(), *value.values()]))
                break
            if isinstance(value, (list, tuple, set, frozenset)):
                waiting.append(iter(value))
                break
            yield value
        else:
            waiting.pop()


class Kept(NamedTuple):
    """A value that is still in a store: which one, by its place among those that were sought.

    ``key`` is the blob's, ``decoded`` whether it was found by decoding, or in the bytes alone.
    """

    value: int
    key: str
    decoded: bool


@dataclass(slots=True)
class Searched:
    """What was looked at, and what was found there. ``unread`` are blobs that are not ours."""

    blobs: int = 0
    bytes: int = 0
    nodes: int = 0
    datoms: int = 0
    records: int = 0
    unread: list[str] = field(default_factory=list)
    found: list[Kept] = field(default_factory=list)


async def search(store: Store, factory: LevelsFactory, sought: Sought) -> Searched:
    """Decode all that lies in a store, and say where values are. Raises konserve's errors."""
    look = _Search(store, factory, sought)
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            await gather(look.blob, page, _AT_ONCE)
    if store.capabilities.journal:
        for name in (await read_registry(store)).branches:
            await look.journal(head_key(name))
    look.done.found.sort()
    return look.done


class _Search:
    def __init__(self, store: Store, factory: LevelsFactory, sought: Sought) -> None:
        self.done = Searched()
        self._store = store
        self._factory = factory
        self._sought = sought

    async def blob(self, name: str) -> None:
        blob = await self._store.blobs.read_latest(name)
        if blob is None or blob is UNCHANGED:
            return
        self.done.blobs += 1
        self.done.bytes += len(blob.data)
        await in_thread(self._look, name, blob.data)

    async def journal(self, key: str) -> None:
        found = await self._store.journal(key)
        if isinstance(found, tuple) and len(found) == 3:
            for data in found[1]:
                self._note(key, self._record(data), set())

    def _look(self, name: str, data: bytes) -> None:
        encoding, raw = self._store.encoding, self._sought.within(data)
        key: Any = name
        try:
            envelope = encoding.open(name, data)
            key = encoding.meta(envelope).get("key")
            value = encoding.value(key, envelope)
            found = self._decoded(key, value)
        except Exception:  # whatever is wrong with it, it was not read
            self.done.unread.append(str(key))
            found = set()
        self._note(str(key), found, raw)

    def _note(self, key: str, decoded: set[int], raw: set[int]) -> None:
        self.done.found += [Kept(i, key, True) for i in decoded]
        self.done.found += [Kept(i, key, False) for i in raw - decoded]

    def _decoded(self, key: Any, value: Any) -> set[int]:
        kind = key.partition("/")[0] if isinstance(key, str) else ""
        ways: dict[str, Callable[[str, Any], set[int]]] = {
            "pack": self._pack,
            "node": lambda key, data: self._node(data),
            "log": self._segment,
            "commit": lambda key, data: self._checkpoint(decode_checkpoint(data, key)),
            "head": self._head,
            "tag": self._head,
        }
        way = ways.get(kind)
        return self._other(value) if way is None else way(key, value)

    def _pack(self, key: str, data: bytes) -> set[int]:
        out: set[int] = set()
        for part in parts_of(data, key):
            out |= self._node(data[part.offset : part.offset + part.length])
        return out

    def _node(self, data: bytes) -> set[int]:
        node = self._factory.decode(data)
        below = self._factory.below(node)
        self.done.nodes += 1
        if below:
            waiting = [run for runs in self._factory.buffered(node) for run in runs]
            said = [[run.e.tolist(), run.v.tolist()] for run in waiting]
            return self._sought.among([[child.key for child in below], said])
        rows: Rows = self._factory.rows(node)
        self.done.datoms += len(rows)
        return self._sought.among([rows.e.tolist(), rows.v.tolist()])

    def _segment(self, key: str, data: bytes) -> set[int]:
        out: set[int] = set()
        for item in decode_segment(data, key).items:
            if isinstance(item, bytes):
                out |= self._record(item)
        return out

    def _record(self, data: bytes) -> set[int]:
        self.done.records += 1
        entries = decode_record(data, "the log").entries
        return self._sought.among((entry.new_attrs, list(entry.operations)) for entry in entries)

    def _checkpoint(self, base: Checkpoint) -> set[int]:
        return self._sought.among([base.schema, base.config, base.extra, base.trees])

    def _head(self, key: str, data: bytes) -> set[int]:
        head = decode_head(data, key, None)
        out = self._checkpoint(head.base) | self._sought.among([head.extra])
        for item in head.tail:
            if isinstance(item, bytes):
                out |= self._record(item)
        return out

    def _other(self, value: Any) -> set[int]:
        """Look into what is konserve's, or packed by us, as pins and the registry are."""
        if not isinstance(value, bytes):
            return self._sought.among([value])
        fields = unpack(value)
        out = self._sought.among([fields])
        if isinstance(fields, dict) and "base" in fields:
            out |= self._checkpoint(decode_checkpoint(fields["base"], "a pin"))
            for item in fields.get("tail", ()):
                if isinstance(item, bytes):
                    out |= self._record(item)
        return out
