"""Summary: what a store is made of, without reading the leaves of its indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from datahike_async.index.codec import unpack
from datahike_async.index.levels.factory import runs_of
from datahike_async.index.registry import index_factory
from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.branches.read import BranchState
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import Commit
from datahike_async.storage.survey import Complain, Survey

__all__ = ["BranchSummary", "Summary", "summarize"]

_AT_ONCE: Final = 8


class BranchSummary(NamedTuple):
    """A branch; ``datoms`` is what its indexes hold, ``pending`` counts transactions behind.

    ``runs`` are those over its indexes, of the present and the past, ``waiting`` the rows in them.
    """

    commit: Commit
    tx: int
    instant: datetime | None
    datoms: int
    pending: int
    runs: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a store is made of; ``base`` is the newest checkpoint of the main branch."""

    store: Mapping[str, Any]
    base: Checkpoint
    main: str
    format: int
    software: str
    created: datetime
    branches: Mapping[str, BranchSummary]
    checkpoints: int
    segments: int
    nodes: int
    blobs: int
    bytes: int
    orphans: int
    orphan_bytes: int


async def summarize(store: Store, complain: Complain) -> Summary:
    """Return what a store is made of. ``complain`` raises what is missing or damaged."""
    names: set[str] = set()
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            names.update(page)
    seen = await Survey(store, complain).run()
    assert seen.registry is not None  # or complained of
    orphans = await in_thread(lambda: sorted(names - set(map(name_of_key, seen.blobs))))
    sizes = await gather(lambda name: _size(store, name), orphans, _AT_ONCE)
    main = seen.registry.main
    base = seen.branches[main].head.base
    said = unpack(base.encoded)
    addresses = [*seen.nodes, *seen.segments]
    return Summary(
        store.config,
        base,
        main,
        said["format"],
        said["software"],
        seen.registry.branches[main].created,
        {name: _branch(state) for name, state in seen.branches.items()},
        len(seen.stops),
        len(seen.segments),
        len(seen.nodes),
        len(names),
        sum(stop.size for stop in seen.stops.values())
        + sum(address.length for address in addresses),
        len(orphans),
        sum(sizes),
    )


async def _size(store: Store, name: str) -> int:
    found = await store.blobs.read(name)
    return 0 if found is None else len(found.data)


def _branch(state: BranchState) -> BranchSummary:
    entries = [entry for record in state.records for entry in record.entries]
    base = state.head.base
    roots, factory = base.trees["roots"], index_factory(base.config["index"])
    tops = factory.tops(roots["eavt"])
    of_runs = [runs_of(roots[name]) for name in ("eavt", "temporal-eavt") if name in roots]
    return BranchSummary(
        state.commit,
        entries[-1].tx if entries else base.tx,
        entries[-1].instant if entries else base.instant,
        sum(top.sign * top.child.size for top in tops),
        len(entries),
        sum(runs for runs, _ in of_runs),
        sum(rows for _, rows in of_runs),
    )
