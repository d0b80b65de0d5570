"""Forging: changing what a store holds, so that every checksum is right afterwards.

What is changed is written elsewhere, and all that leads to it anew, up to the heads. Hashes are
left as they are, but where a forger makes them anew.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Column, Rows
from datahike_async.index.levels.filters import Making
from datahike_async.index.levels.nodes import FILTER, RUN
from datahike_async.index.persistent_set.node import Leaf, encode
from datahike_async.index.registry import index_factory
from datahike_async.index.source import Address
from datahike_async.konserve import opening as stores
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.head import Recent
from datahike_async.storage.branches.read import BranchState, read_branch, write_head
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import checkpoint_key, node_key, pack_key, segment_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.log.reader import fetch_segment
from datahike_async.storage.log.records import (
    decode_record,
    encode_record,
    encode_segment,
    entries_of,
)
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.nodes.sinks import packed
from datahike_async.storage.nodes.store import read_raw

FACTORY: Any = index_factory()

Change = Callable[[Any], bytes]


@asynccontextmanager
async def store_of(config: Mapping[str, Any]):  # type: ignore[no-untyped-def]
    store = await stores.connect_store(dict(config["store"]))
    try:
        yield store
    finally:
        await stores.release_store(store)


async def state_of(store: Store, branch: str = "db") -> BranchState:
    state = await read_branch(store, branch, None)
    assert state is not None
    return state


async def publish(
    store: Store, state: BranchState, base: Checkpoint, tail: Sequence[bytes] | None = None
) -> None:
    """Write a head, and the checkpoint that it has a copy of."""
    base = base.with_encoding()
    await write_blobs(store, [(checkpoint_key(base.id), base.encoded)])
    records = state.tail.records if tail is None else tail
    head = replace(
        state.head,
        base=base,
        tail=tuple(records),
        generation=state.generation + 1,
        recent=Recent(uuid4().bytes),
    )
    await write_head(store, head, state.revision)


async def before(store: Store, base: Checkpoint) -> Checkpoint:
    """Return the checkpoint before another."""
    key = checkpoint_key(base.back[0].id)
    data = await store.bget(key)
    assert data is not None
    return decode_checkpoint(data, key)


# -- nodes -------------------------------------------------------------------------------------


async def planted(store: Store, data: bytes, hash: bytes) -> Address:
    """Write a node, and return its address with the hash that it should have."""
    crc = zlib.crc32(data)
    if layout_of(store.capabilities) is Layout.PACKS:
        key, blob = pack_key(uuid4(), 0), packed([data], [(0, len(data), crc)])
    else:
        key, blob = node_key(uuid4(), 0), data
    await write_blobs(store, [(key, blob)])
    return Address(key, 0, len(data), crc, hash)


async def decoded(store: Store, address: Address) -> Any:
    [(_, data)] = await read_raw(store, [address])
    assert isinstance(data, bytes)
    return FACTORY.decode(data)


async def changed(store: Store, address: Address, change: Callable[[Any], Any]) -> Address:
    """Return where a tree lies that differs from another one: ``change`` is told of each node.

    It returns the bytes of another leaf, the addresses of other children, or None: then a child is
    changed.
    """
    node = await decoded(store, address)
    made = change(node)
    if made is None:
        children = [child.address for child in FACTORY.below(node)]
        at = len(children) // 2
        made = [*children[:at], await changed(store, children[at], change), *children[at + 1 :]]
    data = made if isinstance(made, bytes) else FACTORY.moved(node, made)
    return await planted(store, data, address.hash)


def with_root(base: Checkpoint, name: str, address: Address) -> Checkpoint:
    roots = dict(base.trees["roots"])
    places = {top.child.address: top.child.address for top in FACTORY.tops(roots[name])}
    places[root_of(base, name)] = address
    roots[name] = FACTORY.rooted(roots[name], places)
    return replace(base, trees={**base.trees, "roots": roots})


def root_of(base: Checkpoint, name: str) -> Address:
    """Return where the largest part of an index lies, be it a run or not."""
    tops = FACTORY.tops(base.trees["roots"][name])
    found: Address = max(tops, key=lambda top: top.child.size).child.address
    return found


def another_value(node: Any) -> bytes | None:
    """Return the bytes of a leaf in which one text is another one."""
    if FACTORY.below(node):
        return None
    rows = FACTORY.rows(node)
    values = rows.v.tolist()
    at = next(i for i, v in enumerate(values) if isinstance(v, str))
    values[at] = values[at][:-1] + "~"
    # The first byte says whose a node is, and here they are all alike.
    return RUN + encode(Leaf(Rows(rows.e, rows.a, Column.of(values), rows.t, rows.until)))


def swapped(node: Any) -> list[Address] | None:
    """Return the children of a node above leaves, two of them in one another's place."""
    children = FACTORY.below(node)
    if not children[0].leaf:
        return None
    a, b, *rest = [child.address for child in children]
    return [b._replace(hash=a.hash), a._replace(hash=b.hash), *rest]


# -- the forgeries: each takes a store, and changes what branch :db is ---------------------------


async def swap_nodes(store: Store) -> None:
    state = await state_of(store)
    base = state.head.base
    address = await changed(store, root_of(base, "eavt"), swapped)
    await publish(store, state, with_root(base, "eavt", address))


async def change_value(store: Store) -> None:
    state = await state_of(store)
    base = state.head.base
    address = await changed(store, root_of(base, "eavt"), another_value)
    await publish(store, state, with_root(base, "eavt", address))


async def change_root_node(store: Store) -> None:
    """Forge a node of a root alone: what it says of its first child, which is another one."""
    state = await state_of(store)
    base = state.head.base
    root = root_of(base, "eavt")
    node = await decoded(store, root)
    children = [child.address for child in FACTORY.below(node)]
    at = len(children) // 2
    first = await changed(store, children[at], another_value)
    children[at] = first._replace(hash=bytes(32))
    address = await planted(store, FACTORY.moved(node, children), root.hash)
    await publish(store, state, with_root(base, "eavt", address))


async def blind_filter(store: Store) -> None:
    """Have the filter of a run say of everything that it is not there."""
    state = await state_of(store)
    base = state.head.base
    roots = dict(base.trees["roots"])
    name = next(name for name, root in roots.items() if root["runs"])
    runs = [dict(run) for run in roots[name]["runs"]]
    at = next(i for i, run in enumerate(runs) if run["adds"]["count"])
    old = Address(*runs[at]["filter"])
    address = await planted(store, FILTER + Making(0).made().encode(), old.hash)
    runs[at]["filter"] = address.to_data()
    roots[name] = {**roots[name], "runs": runs}
    await publish(store, state, replace(base, trees={**base.trees, "roots": roots}))


async def older_root(store: Store) -> None:
    state = await state_of(store)
    base = state.head.base
    older = await before(store, base)
    roots = {**base.trees["roots"], "eavt": older.trees["roots"]["eavt"]}
    await publish(store, state, replace(base, trees={**base.trees, "roots": roots}))


async def older_roots_hashed(store: Store) -> None:
    """Put all roots of an older checkpoint in the place of the newest, with the hash they need."""
    state = await state_of(store)
    base = state.head.base
    older = await before(store, base)
    trees = {**base.trees, "roots": older.trees["roots"]}
    await publish(store, state, replace(base, trees=trees).bound())


async def exchange_checkpoint(store: Store) -> None:
    """Put what an older checkpoint holds under the name of the one before the newest."""
    state = await state_of(store)
    one = await before(store, state.head.base)
    older = await before(store, one)
    forged = replace(
        older, id=one.id, back=one.back, trees={**older.trees, "max-tx": one.trees["max-tx"]}
    )
    data = forged.with_encoding().encoded
    await write_blobs(store, [(checkpoint_key(one.id), data)])


async def exchange_checkpoint_whole(store: Store) -> None:
    """The same, with a hash that is right for its commit: but no log leads from there."""
    state = await state_of(store)
    one = await before(store, state.head.base)
    older = await before(store, one)
    trees = {**older.trees, "max-tx": one.trees["max-tx"]}
    forged = replace(older, id=one.id, back=one.back, trees=trees).bound()
    await write_blobs(store, [(checkpoint_key(one.id), forged.encoded)])


async def drop_record(store: Store) -> None:
    """Take a record out of the newest segment of the log, and number those after it anew."""
    state = await state_of(store)
    base = state.head.base
    assert base.log is not None
    parts = await fetch_segment(store, Address(*base.log), "here")
    records = [item for item in parts.items if isinstance(item, bytes)]
    assert len(records) > 2
    kept = [records[0], *map(renumbered, records[2:])]
    data = encode_segment(parts.previous, kept, parts.last)
    key = segment_key(uuid4())
    await write_blobs(store, [(key, data)])
    log = Address(key, 0, len(data), zlib.crc32(data)).to_data()
    await publish(store, state, replace(base, log=log))


def renumbered(data: bytes) -> bytes:
    record = decode_record(data, "here")
    return encode_record(
        record.generation - 1, record.publication, entries_of(data), record.parents, record.ids
    )


async def drop_record_of_tail(store: Store) -> None:
    state = await state_of(store)
    first, _, *rest = state.tail.records
    assert rest
    await publish(store, state, state.head.base, [first, *map(renumbered, rest)])


async def change_parent(store: Store) -> None:
    """Have the merge in the tail be of another commit."""
    state = await state_of(store)
    tail = list(state.tail.records)
    at = next(i for i, data in enumerate(tail) if decode_record(data, "here").parents)
    record = decode_record(tail[at], "here")
    parents = [UUID(int=state.head.base.commit.id.int)]
    tail[at] = encode_record(
        record.generation, record.publication, entries_of(tail[at]), parents, record.ids
    )
    await publish(store, state, state.head.base, tail)


async def change_entry(store: Store) -> None:
    """Have a transaction of the tail say another text."""
    state = await state_of(store)
    tail = list(state.tail.records)
    record = decode_record(tail[0], "here")
    entries = [entry.replace(b"late", b"lass") for entry in entries_of(tail[0])]
    assert entries != entries_of(tail[0])
    tail[0] = encode_record(
        record.generation, record.publication, entries, record.parents, record.ids
    )
    await publish(store, state, state.head.base, tail)


async def other_schema(store: Store) -> None:
    """Have the newest checkpoint say that an attribute was never declared unique."""
    state = await state_of(store)
    base = state.head.base
    entities = [
        [e, [pair for pair in props if pair[0] != Keyword("db/unique")]]
        for e, props in base.schema["entities"]
    ]
    assert entities != base.schema["entities"]
    await publish(store, state, replace(base, schema={**base.schema, "entities": entities}))


async def hide_entity(store: Store) -> None:
    """Have the newest checkpoint say of an entity that nobody has its id: then nobody looks."""
    state = await state_of(store)
    base = state.head.base
    root = root_of(base, "eavt")
    while children := FACTORY.below(await decoded(store, root)):
        root = children[len(children) // 2].address
    hidden = int(FACTORY.rows(await decoded(store, root)).e[0])
    trees = {**base.trees, "max-eid": hidden - 1, "ids": [hidden, hidden + 1]}
    await publish(store, state, replace(base, trees=trees))


async def other_schema_hashed(store: Store) -> None:
    """Exchange the names of two attributes in the newest checkpoint, with the hash it needs."""
    state = await state_of(store)
    base = state.head.base
    names = {Keyword("n"): Keyword("id"), Keyword("id"): Keyword("n")}

    def renamed(data: Any) -> Any:
        if isinstance(data, (list, tuple)):
            return type(data)(map(renamed, data))
        return names.get(data, data) if isinstance(data, Keyword) else data

    schema = {key: renamed(value) for key, value in base.schema.items()}
    await publish(store, state, replace(base, schema=schema).bound())


SHALLOW: Sequence[Callable[[Store], Awaitable[None]]] = (
    change_root_node,
    older_root,
    exchange_checkpoint,
    exchange_checkpoint_whole,
    drop_record,
    drop_record_of_tail,
    change_parent,
    change_entry,
    other_schema,
)
DEEP: Sequence[Callable[[Store], Awaitable[None]]] = (
    swap_nodes,
    change_value,
    older_roots_hashed,
    hide_entity,
    other_schema_hashed,
)
