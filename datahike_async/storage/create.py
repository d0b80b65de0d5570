"""Make a new branch in a store: its first head, with the initial transaction in it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.index.memtable import Memtable
from datahike_async.index.registry import index_factory
from datahike_async.konserve.blob import ABSENT, ConditionalDomain
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.snapshot.snapshot import TX0, Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.codec import encode_entry, encode_record
from datahike_async.storage.flush import flush, write_blobs
from datahike_async.storage.head import Base, Head, Recent, encode_head
from datahike_async.storage.layout import head_key, layout_of
from datahike_async.storage.node_store import NodeStore
from datahike_async.storage.open import read_branch
from datahike_async.storage.ring import EMPTY
from datahike_async.storage.tail import Tail
from datahike_async.tx.apply import Applied, apply
from datahike_async.values.schema import Schema

__all__ = ["NODE_BYTES", "empty_snapshot", "first_head", "write_first_head"]

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
    source = NodeStore(store, factory.decode, config.store_cache_size * NODE_BYTES)
    commit, writer = env.new_uuid(), env.new_uuid()
    record = None if initial is None else encode_record(1, commit, [encode_entry(initial)])
    # An initial transaction that went into the trees at once is flushed; else it is the tail.
    bulk = initial is not None and initial.bulk
    written = empty if initial is None or not bulk else initial.after
    flushed = await flush(
        written,
        [record] if bulk and record is not None else [],
        None,
        store=store,
        source=source,
        layout=layout,
        id=env.new_uuid(),
    )
    stored = config.stored()
    stored["index-config"] = dict(empty.trees.config)
    base = Base(
        store=store_id,
        branch=config.branch,
        config=stored,
        schema=written.schema.to_data(),
        trees=flushed.record,
        instant=initial.instant if initial is not None and bulk else None,
        log=flushed.log,
        created=env.now(),
    ).with_encoding()
    tail = Tail() if record is None or bulk else Tail([record])
    tail, segments = await tail.bounded(env.new_uuid)
    head = Head(
        base=base,
        generation=1,
        commit=commit,
        parents=(),
        writer=writer,
        gc_epoch=0,
        recent=Recent(commit.bytes),
        ring=EMPTY,
        tail=tail.stored(),
    )
    key = head_key(config.branch)
    await write_blobs(store, segments)
    if store.capabilities.conditional is not ConditionalDomain.NONE:
        try:
            await store.assoc(key, encode_head(head), expected_revision=ABSENT)
        except OutcomeUnknown:
            state = await read_branch(store, config.branch, store_id)
            if state is None or state.head.commit != commit:
                raise
    elif await store.exists(key):
        raise RevisionMismatch(f"There is a head at {key} already.", expected=ABSENT)
    else:
        await store.assoc(key, encode_head(head))
