"""Having a branch be a database value, whatever it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from datahike_async.env import Env
from datahike_async.index.source import read
from datahike_async.konserve.store import Store
from datahike_async.snapshot.ids import LEAST
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.branching import replace_branch
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.flush import flush
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import Commit, commit_id
from datahike_async.storage.nodes.layout import layout_of
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.tx.apply import newest_instant

__all__ = ["write_value"]


async def write_value(
    store: Store,
    source: NodeStore,
    value: Snapshot,
    name: str,
    parents: Sequence[UUID],
    like: Checkpoint,
    env: Env,
) -> UUID | None:
    """Have branch ``name`` be a value of this store, as a commit on ``parents``.

    ``like`` is a checkpoint of the store. Returns by which publication the branch was made that it
    replaces, if any.
    """
    block = (await read_registry(store)).block(LEAST)
    instant = await read(newest_instant, value) or env.now()
    publication, id_ = env.new_uuid(), env.new_uuid()
    commit = Commit(commit_id(publication, value.max_tx), tuple(parents))

    def checkpoint(trees: Mapping[str, Any], log: Sequence[Any] | None) -> Checkpoint:
        return replace(
            like,
            branch=name,
            born=publication,
            schema=value.schema.to_data(),
            trees=trees,
            instant=instant,
            log=log,
            created=env.now(),
            id=id_,
            commit=commit,
            back=(),
        ).with_encoding()

    flushed = await flush(
        value.in_block(block),
        (),
        None,
        store=store,
        source=source,
        layout=layout_of(store.capabilities),
        id=id_,
        checkpoint=checkpoint,
    )
    return await replace_branch(store, name, flushed.base, env)
