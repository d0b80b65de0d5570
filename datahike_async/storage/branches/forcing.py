"""Having a branch be a database value, whatever it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from datahike_async.env import Env
from datahike_async.index.source import read
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.snapshot.ids import LEAST
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.branching import MovedOn, replace_branch
from datahike_async.storage.branches.registry import Registry, read_registry
from datahike_async.storage.flush import flush
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import Commit, commit_id
from datahike_async.storage.nodes.layout import layout_of
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.tx.apply import newest_instant

__all__ = ["write_value"]

_ATTEMPTS: Final = 20


async def write_value(
    store: Store,
    source: NodeStore,
    value: Snapshot,
    name: str,
    parents: Sequence[UUID],
    like: Checkpoint,
    env: Env,
    require_kept: Callable[[Registry], Awaitable[None]],
) -> UUID | None:
    """Have branch ``name`` be a value of this store, as a commit on ``parents``.

    ``like`` is a checkpoint of the store; ``require_kept`` raises where what the value needs is not
    kept by a registry. Returns by which publication the branch was made that it replaces, if any.
    """
    before: UUID | None = None
    for _ in range(_ATTEMPTS):
        registry = await read_registry(store)
        await require_kept(registry)
        block = registry.block(LEAST)
        base = await _written(store, source, value.in_block(block), name, parents, like, env)
        try:
            replaced = await replace_branch(store, name, base, registry.epoch, env)
            return before or replaced
        except MovedOn as moved:
            before = before or moved.before
    raise RevisionMismatch(f"Collections kept beginning; branch :{name} may be as it was.")


async def _written(
    store: Store,
    source: NodeStore,
    value: Snapshot,
    name: str,
    parents: Sequence[UUID],
    like: Checkpoint,
    env: Env,
) -> Checkpoint:
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
        ).alone()

    flushed = await flush(
        value,
        (),
        None,
        store=store,
        source=source,
        layout=layout_of(store.capabilities),
        id=id_,
        checkpoint=checkpoint,
        hashed=like.is_hashed,
    )
    return flushed.base
