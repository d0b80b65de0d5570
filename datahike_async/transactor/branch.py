"""Branch: what the writer knows of its branch, and the three ways to publish something new.

``snapshot`` is always what is durable. Publishing a group appends its record; publishing a flush
replaces the trees under an unchanged state; publishing a bulk load does both at once. Decides
nothing about whom to answer: that is the actor's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import DatahikeError
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.memtable import Memtable, Rest
from datahike_async.index.registry import index_factory
from datahike_async.index.source import Address
from datahike_async.konserve.blob import UNCHANGED, News, Turn
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.branches.read import BranchState, Growth, extend, restore
from datahike_async.storage.branches.registry import take_block, thin_packs
from datahike_async.storage.flush import Flushed, Merge, flush
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import Commit, last_of
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.storage.opened import Opened
from datahike_async.storage.probe import Probe
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.committer import Committer, Sent
from datahike_async.transactor.limits import Limits

__all__ = ["Branch", "Prepared"]

_FEW: Final = 512
"""Operations since a flush began that are taken in as fast as a thread is had."""

_ROUNDS: Final = 4


class Prepared(NamedTuple):
    """A flush whose nodes are durable: ``records`` of the tail went in.

    ``epoch`` is that of the branch when its first node was written; ``rest`` what came since: the
    memtable over the new trees, as far as it is made.
    """

    flushed: Flushed
    records: int
    epoch: int
    rest: Rest


class Branch:
    """The state of one branch. ``instant`` is that of its newest transaction.

    ``committing`` says that callers wait for what is being applied and published.
    """

    def __init__(
        self,
        opened: Opened,
        source: NodeStore,
        factory: LevelsFactory,
        committer: Committer,
        env: Env,
    ) -> None:
        self.opened = opened
        self.store = opened.store
        self.source = source
        self.factory = factory
        self.committer = committer
        self.env = env
        # Only snapshots of this owner may append to the memtable's tip.
        self.owner = object()
        self.layout = layout_of(self.store.capabilities)
        self.instant: datetime | None = None
        self.committing = False
        self.snapshot: Snapshot
        # Entity ids that were taken for a transaction which was not published.
        self._held: range | None = None

    @classmethod
    async def open(
        cls,
        opened: Opened,
        state: BranchState,
        config: Config,
        env: Env,
        limits: Limits,
    ) -> Branch:
        """Return a branch that was read, in the state that it was found in."""
        store, trust = opened.store, config.writer.trusting
        probe = Probe(store, state.head.base.store, config.store["backend"], env, trust=trust)
        committer = Committer(store, state, env, probe, limits)
        branch = cls(opened, opened.source(config), index_factory(config.index), committer, env)
        await branch.adopt(state)
        if store.capabilities.remote:
            await branch.warm()
        return branch

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
        """Take over what others published on top of our last publication, if anything.

        Where it fails, the next publication raises Moved with it.
        """
        if self.committer.behind is not None:
            await self.adopt(self.committer.behind)

    async def refresh(self, news: News | None = None) -> None:
        """Read the head, and take it over where others have published: one conditional read.

        ``news`` is what a turn has brought; then nothing is read.
        """
        if self.committer.behind is not None:
            # The news, if there are any, are those since then.
            await self.catch_up()
        state = await self.committer.look_again(news)
        if state is not UNCHANGED:
            await self.adopt(state)

    @property
    def line(self) -> tuple[Checkpoint, Sequence[bytes]]:
        """The newest checkpoint of the branch, and the records since."""
        return self.committer.base, self.committer.tail.records

    @property
    def store_id(self) -> UUID:
        """The identity of the store."""
        return self.committer.base.store

    @property
    def probe(self) -> Probe:
        """Whether the store compares before it writes."""
        return self.committer.probe

    @property
    def name(self) -> str:
        """The name of the branch."""
        return self.committer.base.branch

    async def more_ids(self, block: range, count: int) -> range:
        """Take another block of entity ids for the branch, for ``count`` new entities at least.

        One that was taken already serves again until something is published that has ids of it: who
        fails or is overtaken time and again must not use up those of all branches.
        """
        with konserve_errors():
            await self.committer.probe.check()
            held = self._held
            if held is None or held == block or len(held) < count:
                held = self._held = await take_block(self.store, block, count)
        return held

    def turn(self, *, looking: bool = True) -> AbstractAsyncContextManager[Turn]:
        """Queue for the turn to publish, at stores that have turns; ``looking`` for what is new."""
        committer = self.committer
        return self.store.turn(committer.key, since=committer.revision if looking else None)

    async def warm(self) -> None:
        """Fetch the tops of all indexes in one wave, for every first query needs some."""
        indexes = self.snapshot.trees.current.values()
        tops = [child.address for index in indexes for child in index.at_depth(0) or ()]
        if tops:
            await self.source.fetch(tops)

    # -- publishing: each raises what ``Committer`` raises ---------------------------------------

    async def publish(self, sent: Sent, after: Snapshot) -> Sequence[UUID]:
        """Commit encoded transactions, after which the state is ``after``; return their ids."""
        ids = await self.committer.publish(sent)
        self._have(after)
        return ids

    async def publish_trees(
        self, sent: Sent, after: Snapshot, instant: datetime | None, *, anew: bool = False
    ) -> Sequence[UUID]:
        """Commit transactions that changed the trees, by flushing them with all that they hold.

        With ``anew`` the log and the checkpoints begin with them: nothing leads to those before.
        """
        committer = self.committer
        publication = self.env.new_uuid()
        record, ids = committer.recorded(publication, sent)
        commit = last_of(ids, committer.commit.id, sent.parents)
        records = [record] if anew else [*committer.tail.stored(), record]
        flushed = await self._write(
            after, records, commit, instant, anew=anew, merging=Merge.LITTLE
        )
        await committer.publish_bulk(flushed.base, publication)
        self._have(self._over(flushed, after, Memtable()))
        return ids

    def _have(self, after: Snapshot) -> None:
        """Go on from what was published."""
        self.snapshot = after
        if after.trees.ids == self._held:
            self._held = None

    async def prepare_flush(
        self,
        renewing: Collection[str] = (),
        merging: Merge = Merge.DUE,
        anew: bool = False,
        over: Trees | None = None,
    ) -> Prepared:
        """Write the nodes of the present state. Transactions may go on meanwhile.

        Nodes that lie in blobs that are ``renewing`` are written anew, though they are stored; then
        nothing leads any more to the checkpoints before, which name those blobs. With ``anew``
        nothing does in any case. ``over`` is as for `flush`.
        """
        anew = anew or bool(renewing)
        committer = self.committer
        tail, epoch = committer.tail, committer.epoch
        records = len(tail.records)
        commit, instant = committer.commit, self.instant
        flushed = await self._write(
            self.snapshot,
            () if anew else tail.stored(),
            commit,
            instant,
            anew=anew,
            renewing=renewing,
            merging=merging,
            over=over,
        )
        rest = flushed.snapshot.mem.rest(flushed.snapshot.n)
        for _ in range(_ROUNDS):
            # In a thread, for publishing it stops the loop and all commits.
            now = self.snapshot
            if now.mem is not rest.mem or now.n - rest.stop < _FEW:
                break
            await in_thread(rest.until, now.n)
        return Prepared(flushed, records, epoch, rest)

    async def taken_over(self, prepared: Prepared) -> Prepared | None:
        """Return a flush of what the branch is now, with the runs that another flush has merged.

        For one that is not current, since loads have put further runs there. None where more than
        that has come between, or it had more than runs to merge.
        """
        flushed = prepared.flushed
        before = flushed.snapshot
        if before.n or prepared.epoch != self.committer.epoch:
            return None
        trees = self.snapshot.trees.taking_over(flushed.trees, before.trees)
        if trees is None:
            return None
        return await self.prepare_flush(merging=Merge.NONE, over=trees)

    def is_current(self, prepared: Prepared) -> bool:
        """Whether the trees are still those that the flush began with.

        A bulk load, a new index and another writer change them; then its nodes are of no use. And
        whether no collection has begun since, which knows nothing of nodes that nothing names yet.
        """
        same = prepared.flushed.snapshot.trees is self.snapshot.trees
        return same and prepared.epoch == self.committer.epoch

    async def publish_flush(self, prepared: Prepared) -> None:
        """Put the flushed trees under the present state, if they are current."""
        flushed, committer = prepared.flushed, self.committer
        await committer.publish_base(flushed.base, committer.tail.after(prepared.records))
        now = self.snapshot
        rest = prepared.rest
        if now.mem is not rest.mem:
            rest = now.mem.rest(flushed.snapshot.n)
        # Not what a failed publication left at the tip.
        self.snapshot = self._over(flushed, now, rest.until(now.n))

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

    async def _write(
        self,
        snapshot: Snapshot,
        records: Sequence[bytes | Address],
        commit: Commit,
        instant: datetime | None,
        *,
        anew: bool = False,
        renewing: Collection[str] = (),
        merging: Merge = Merge.DUE,
        over: Trees | None = None,
    ) -> Flushed:
        """Write what ``snapshot`` holds after ``commit``, and the checkpoint that says so."""
        base, id_ = self.committer.base, self.env.new_uuid()

        def checkpoint(trees: Mapping[str, Any], log: Sequence[Any] | None) -> Checkpoint:
            made = base.begun_anew if anew else base.followed
            return made(
                id=id_,
                trees=trees,
                schema=snapshot.schema.to_data(),
                instant=instant,
                log=log,
                commit=commit,
            )

        thin: Collection[str] = renewing
        epoch = self.committer.epoch
        if epoch and self.layout is Layout.PACKS and over is None:
            # The last collection says in which packs little is left; without it nothing is lost.
            with suppress(DatahikeError, KonserveError):
                thin = {*renewing, *await thin_packs(self.store, epoch)}
        return await flush(
            snapshot,
            records,
            None if anew else base.log,
            store=self.store,
            source=self.source,
            layout=self.layout,
            id=id_,
            checkpoint=checkpoint,
            thin=thin,
            hurries=lambda: self.committing,
            hashed=base.is_hashed,
            merging=merging,
            over=over,
        )
