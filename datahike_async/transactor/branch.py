"""Branch: what the writer knows of its branch, and the three ways to publish something new.

``snapshot`` is always what is durable. Publishing a group appends its record; publishing a flush
replaces the trees under an unchanged state; publishing a bulk load does both at once. Decides
nothing about whom to answer: that is the actor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from datahike_async.env import Env
from datahike_async.index.memtable import Memtable
from datahike_async.index.protocol import IndexFactory
from datahike_async.index.source import Address
from datahike_async.konserve.blob import UNCHANGED, News, Turn
from datahike_async.konserve.store import Store
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.flush import Flushed, flush
from datahike_async.storage.layout import layout_of
from datahike_async.storage.node_store import NodeStore
from datahike_async.storage.open import BranchState, Growth, extend, restore
from datahike_async.storage.tail import Tail
from datahike_async.transactor.committer import Committer

__all__ = ["Branch", "Prepared"]


class Prepared(NamedTuple):
    """A flush whose nodes are durable: ``records`` of the tail went in, up to ``instant``."""

    flushed: Flushed
    records: int
    instant: datetime | None


class Branch:
    """The state of one branch. ``instant`` is that of its newest transaction."""

    def __init__(
        self, store: Store, source: NodeStore, factory: IndexFactory, committer: Committer, env: Env
    ) -> None:
        self.store = store
        self.source = source
        self.factory = factory
        self.committer = committer
        self.env = env
        # Only snapshots of this owner may append to the memtable's tip.
        self.owner = object()
        self.layout = layout_of(store.capabilities)
        self.instant: datetime | None = None
        self.snapshot: Snapshot

    async def adopt(self, state: BranchState | Growth) -> None:
        """Take over what was read from the store: the whole, or what is new."""
        committer = self.committer
        if isinstance(state, Growth):
            snapshot, instant = await extend(self.snapshot, state.records, self.source, self.owner)
            committer.extend(state)
            self.snapshot, self.instant = snapshot, instant or self.instant
            return
        self.snapshot, self.instant = await restore(state, self.factory, self.source, self.owner)
        committer.adopt(state)

    async def catch_up(self) -> None:
        """Take over what others published on top of our last publication, if anything."""
        if self.committer.behind is not None:
            await self.adopt(self.committer.behind)

    async def refresh(self, news: News | None = None) -> None:
        """Read the head, and take it over where others have published: one conditional read.

        ``news`` is what a turn has brought; then nothing is read.
        """
        state = await self.committer.look_again(news)
        if state is not UNCHANGED:
            await self.adopt(state)

    @property
    def name(self) -> str:
        """The name of the branch."""
        return self.committer.base.branch

    def turn(self, *, looking: bool = True) -> AbstractAsyncContextManager[Turn]:
        """Queue for the turn to publish, at stores that have turns; ``looking`` for what is new."""
        committer = self.committer
        return self.store.turn(committer.key, since=committer.revision if looking else None)

    async def warm(self) -> None:
        """Fetch the tops of all indexes in one wave, for every first query needs some."""
        indexes = self.snapshot.trees.current.values()
        tops = [address for index in indexes for address in index.tops()]
        if tops:
            await self.source.fetch(tops)

    # -- publishing: each raises what ``Committer`` raises ---------------------------------------

    async def publish(self, entries: list[bytes], after: Snapshot) -> UUID:
        """Commit encoded transactions, after which the state is ``after``."""
        commit = await self.committer.publish(entries)
        self.snapshot = after
        return commit

    async def publish_trees(
        self, entries: list[bytes], after: Snapshot, instant: datetime | None
    ) -> UUID:
        """Commit transactions that changed the trees, by flushing them with all that they hold."""
        committer = self.committer
        record = committer.bulk_record(entries)
        flushed = await self._write(after, [*committer.tail.stored(), record])
        base = replace(
            committer.base,
            schema=after.schema.to_data(),
            trees=flushed.record,
            instant=instant,
            log=flushed.log,
        ).with_encoding()
        commit = await committer.publish_base(base, Tail(), entries)
        self.snapshot = self._over(flushed, after, Memtable())
        return commit

    async def prepare_flush(self) -> Prepared:
        """Write the nodes of the present state. Transactions may go on meanwhile."""
        tail, instant = self.committer.tail, self.instant
        records = len(tail.records)
        flushed = await self._write(self.snapshot, tail.stored())
        return Prepared(flushed, records, instant)

    def is_current(self, prepared: Prepared) -> bool:
        """Whether the trees are still those that the flush began with.

        A bulk load, a new index and another writer change them; then its nodes are of no use.
        """
        return prepared.flushed.snapshot.trees is self.snapshot.trees

    async def publish_flush(self, prepared: Prepared) -> None:
        """Put the flushed trees under the present state, if they are current."""
        flushed, committer = prepared.flushed, self.committer
        base = replace(
            committer.base,
            schema=flushed.snapshot.schema.to_data(),
            trees=flushed.record,
            instant=prepared.instant,
            log=flushed.log,
        ).with_encoding()
        await committer.publish_base(base, committer.tail.after(prepared.records))
        now = self.snapshot
        mem = now.mem
        if len(mem) != now.n:
            # What a failed publication left at the tip must not come along.
            mem = mem.fork(now.n)
        self.snapshot = self._over(flushed, now, mem.rest(flushed.snapshot.n))

    def _over(self, flushed: Flushed, state: Snapshot, mem: Memtable) -> Snapshot:
        mem.owner = self.owner
        return Snapshot(
            state.schema,
            flushed.trees,
            mem,
            len(mem),
            len(mem.e),
            state.max_eid,
            state.max_tx,
            state.state,
        )

    async def _write(self, snapshot: Snapshot, records: Sequence[bytes | Address]) -> Flushed:
        return await flush(
            snapshot,
            records,
            self.committer.base.log,
            store=self.store,
            source=self.source,
            layout=self.layout,
            id=self.env.new_uuid(),
        )
