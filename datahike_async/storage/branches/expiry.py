"""Telling what a collection has removed from what is damaged.

Where no collection ever ran, a missing node is damage. Where one did, it is damage if the branch as
it is now still needs it; else the value that needs it is older than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from datahike_async.errors import CorruptData, DatabaseNotFound, DatahikeError
from datahike_async.index.protocol import IndexFactory
from datahike_async.konserve.store import Store
from datahike_async.memory import Memory
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.retained import expired
from datahike_async.storage.nodes.mark import Marking
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["why_missing"]

_CACHE: Final = 1024 * 1024


async def why_missing(
    store: Store, branch: str, factory: IndexFactory, memory: Memory, error: CorruptData
) -> DatahikeError:
    """Return what to raise for a node of some value of a branch that is not in the store.

    Reads the inner nodes of the branch as it is now.
    """
    if not (await read_registry(store)).epoch:
        return error
    wanted, named = str(error.data.get(":blob")), False

    def note(blobs: Iterable[str]) -> None:
        nonlocal named
        named = named or wanted in set(blobs)

    try:
        state = await read_branch(store, branch, None)
        if state is not None:
            roots = state.head.base.trees["roots"].values()
            tops = [top.address for root in roots if (top := factory.top(root)) is not None]
            # What is missing there is asked for again; a source of its own raises what it finds.
            source = NodeStore(store, factory.decode, _CACHE, memory)
            await Marking(source, factory.below, note).mark(tops)
    except DatabaseNotFound:
        pass  # the branch was deleted, and what it had was collected
    except CorruptData:
        return error
    return error if named else expired(f"{wanted}, which this database value needs,")
