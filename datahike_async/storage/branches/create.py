"""Make a new branch in a store: its first head, with the initial transaction in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.index.memtable import Memtable
from datahike_async.index.registry import index_factory
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.memory import memory_of
from datahike_async.snapshot.ids import TX0
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.branches.head import Head, Recent
from datahike_async.storage.branches.read import is_live, read_head, write_head
from datahike_async.storage.branches.registry import (
    Listed,
    Registry,
    change_registry,
    first_registry,
)
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.flush import flush, write_blobs
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import (
    Commit,
    commit_id,
    commit_ids,
    encode_entry,
    encode_record,
)
from datahike_async.storage.log.tail import Tail
from datahike_async.storage.nodes.layout import layout_of
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.tx.apply import Applied, apply
from datahike_async.values.schema import Schema

__all__ = ["NODE_BYTES", "empty_snapshot", "first_head", "write_first_head"]

_ATTEMPTS: Final = 20

NODE_BYTES = 64 * 1024
"""What one node of ``:store-cache-size`` counts for."""


def empty_snapshot(config: Config, *, remote: bool = False) -> Snapshot:
    """Return the state of a database without transactions, which will lie in a ``remote`` store.

    Raises ConfigError where the index or its config is unknown.
    """
    trees = Trees.empty(
        index_factory(config.index),
        config.index_config,
        keep_history=config.keep_history,
        max_eid=0,
        max_tx=TX0,
        remote=remote,
        memory=memory_of(config.memory_limit),
    )
    schema = Schema.empty(config.schema_flexibility)
    return Snapshot(schema, trees, Memtable(), 0, 0, 0, TX0)


async def first_head(
    config: Config, initial_tx: Any, env: Env, *, remote: bool = False
) -> tuple[Snapshot, Applied | None]:
    """Return the empty state and the initial transaction, applied to it.

    Raises TransactionError where the initial transaction is refused.
    """
    snapshot = empty_snapshot(config, remote=remote)
    if initial_tx is None:
        return snapshot, None
    return snapshot, await apply(snapshot, initial_tx, env=env)


async def write_first_head(
    store: Store,
    store_id: UUID,
    config: Config,
    empty: Snapshot,
    initial: Applied | None,
    env: Env,
) -> None:
    """Write the head of a new branch, to a store that can be trusted with it.

    Raises RevisionMismatch where it exists already; konserve's other errors.
    """
    layout = layout_of(store.capabilities)
    factory = index_factory(config.index)
    limit = config.store_cache_size * NODE_BYTES
    source = NodeStore(store, factory.decode, limit, memory_of(config.memory_limit))
    publication, id_ = env.new_uuid(), env.new_uuid()
    entries = [] if initial is None else [encode_entry(initial)]
    # An initial transaction that went into the trees at once is flushed; else it is the tail.
    bulk = initial is not None and initial.bulk
    written = empty if initial is None or not bulk else initial.after
    hashed = entries if config.crypto_hash else None

    def recorded(before: Sequence[UUID]) -> tuple[bytes, tuple[UUID, ...]]:
        txs = () if initial is None else (initial.tx,)
        ids = commit_ids(publication, txs, hashed, before)
        return encode_record(1, publication, entries, ids=ids if config.crypto_hash else ()), ids

    record, ids = recorded(())
    stored = config.stored()
    stored["index-config"] = dict(empty.trees.config)

    def checkpoint(trees: Mapping[str, Any], log: Sequence[Any] | None) -> Checkpoint:
        made = Checkpoint(
            store=store_id,
            branch=config.branch,
            born=publication,
            config=stored,
            schema=written.schema.to_data(),
            trees=trees,
            instant=initial.instant if initial is not None and bulk else None,
            log=log,
            created=env.now(),
            id=id_,
            commit=Commit(ids[0] if bulk else commit_id(publication, written.max_tx)),
        )
        return made.bound() if bulk else made.alone()

    flushed = await flush(
        written,
        [record] if bulk else [],
        None,
        store=store,
        source=source,
        layout=layout,
        id=id_,
        checkpoint=checkpoint,
        hashed=config.crypto_hash,
    )
    tail = Tail()
    if initial is not None and not bulk:
        tail = Tail([recorded((flushed.base.commit.id,))[0]])
    tail, segments = await tail.bounded(env.new_uuid)
    head = Head(
        base=flushed.base,
        generation=1,
        epoch=0,
        recent=Recent(publication.bytes),
        ring=EMPTY,
        tail=tail.stored(),
    )
    key = head_key(config.branch)
    await write_blobs(store, segments)
    there: Head | None = None
    revision: Expected = ABSENT
    if not store.capabilities.compares:
        there, revision = await read_head(store, config.branch)
    listed = Listed(env.now(), None, publication)
    for _ in range(_ATTEMPTS):
        if is_live(there):
            break
        # What is there was read before: who becomes the main branch in our place changes it.
        await _be_main(store, head, listed, there is None)
        if there is not None:
            head = replace(head, generation=there.generation + 1)
        try:
            await write_head(store, head, revision)
            return
        except RevisionMismatch:
            there, revision = await read_head(store, config.branch)
        except OutcomeUnknown:
            found, _ = await read_head(store, config.branch)
            if found is None or found.base.born != publication:
                raise
            return
    raise RevisionMismatch(f"There is a head at {key} already.", expected=ABSENT)


async def _be_main(store: Store, head: Head, listed: Listed, fresh: bool) -> None:
    """Have the branch of a head that is to be written be the main one of its store.

    ``fresh`` says that nothing was there of it, not even that somebody else prevented it.
    Raises RevisionMismatch where the store has a database already.
    """
    name = head.base.branch
    for _ in range(_ATTEMPTS):
        registry = await first_registry(store, name, listed)
        mine = registry.branches.get(registry.main) == listed
        if registry.main == name and (mine or fresh):
            return
        if registry.main != name and not await _prevented(store, registry.main, head):
            break

        async def change(now: Registry, seen: Registry = registry) -> Registry | None:
            if now != seen:
                return None
            kept = now.branches if now.main == name else {}
            return replace(now, main=name, branches={**kept, name: listed}, floors={})

        await change_registry(store, change)
    raise RevisionMismatch(f"There is a database with branch :{registry.main} already.")


async def _prevented(store: Store, name: str, head: Head) -> bool:
    """Return False where a branch is there; else see to it that whoever is creating it will not.

    That one was ended half way, or is slower. It cannot write the head once something else is there
    than it has found before it was registered.
    """
    for _ in range(_ATTEMPTS):
        there, revision = await read_head(store, name)
        if is_live(there):
            return False
        base = replace(head.base, branch=name).with_encoding()
        generation = 1 if there is None else there.generation + 1
        tomb = replace(head, base=base, generation=generation, tail=(), deleted=True)
        with suppress(RevisionMismatch, OutcomeUnknown):
            await write_head(store, tomb, revision)
            return True
    return False
