"""Flushing: when the memtable is merged into the trees, beside the actor, and what comes of it.

A flush runs in a task of its own while transactions go on. What it has written is published by the
actor, between two groups, if the trees are still those that it began with:

    at rest     much has gathered, or a renewal was asked for    → writing
    writing     its nodes are durable                            → written
                it failed, or its event loop ended               → failed
    written     the head names them, over runs that came since   → published
                another writer has the turn                      → written
                the trees are others, a collection has begun, or
                another writer was faster                        → stale
                publishing failed                                → failed

At rest is what has not begun, and what is published, stale or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Final

from datahike_async.errors import DatahikeError, SnapshotExpired
from datahike_async.events import FLUSH_FAILED, FLUSHED
from datahike_async.index.levels.policy import MOST
from datahike_async.index.protocol import Order as IndexOrder
from datahike_async.konserve.errors import OutOfTurn
from datahike_async.konserve.loops import start
from datahike_async.storage.flush import Merge
from datahike_async.transactor.branch import Branch, Prepared
from datahike_async.transactor.committer import Moved
from datahike_async.transactor.failures import as_ours, fenced
from datahike_async.transactor.limits import Limits
from datahike_async.transactor.messages import Renew
from datahike_async.transactor.order import Order

__all__ = ["Flushing", "State"]


class State(Enum):
    """Where the newest flush of a branch is; see the module."""

    IDLE = "not begun"
    WRITING = "writing"
    WRITTEN = "written"
    PUBLISHED = "published"
    STALE = "stale"
    FAILED = "failed"


_RESTING: Final = frozenset({State.IDLE, State.PUBLISHED, State.STALE, State.FAILED})
_NEXT: Final[Mapping[State, frozenset[State]]] = {
    **dict.fromkeys(_RESTING, frozenset({State.WRITING})),
    State.WRITING: frozenset({State.WRITTEN, State.FAILED}),
    State.WRITTEN: frozenset({State.WRITTEN, State.PUBLISHED, State.STALE, State.FAILED}),
}


class Flushing:
    """The flushes of one branch. ``renewals`` are requests that the next one fulfils.

    ``prepared`` is what was written and is not published yet. An ``exclusive`` writer has no
    others beside it. ``wake`` is called when a flush has been written or has failed; ``shut`` with
    what nothing more can be written after.
    """

    def __init__(
        self,
        branch: Branch,
        limits: Limits,
        order: Order,
        wake: Callable[[], None],
        shut: Callable[[DatahikeError], object],
        *,
        exclusive: bool,
    ) -> None:
        self.state = State.IDLE
        self.prepared: Prepared | None = None
        self.renewals: list[Renew] = []
        # Those that the flush under way, or the one that is prepared, fulfils.
        self._renewed: list[Renew] = []
        self._branch = branch
        self._limits = limits
        self._order = order
        self._wake = wake
        self._shut = shut
        self._exclusive = exclusive
        # After a failure: how much there was; a flush is worth trying when there is more.
        self._floor = 0

    def _become(self, state: State, prepared: Prepared | None = None) -> None:
        assert state in _NEXT[self.state], (self.state, state)
        self.state, self.prepared = state, prepared

    @property
    def under_way(self) -> bool:
        """Whether one is being written."""
        return self.state is State.WRITING

    @property
    def at_rest(self) -> bool:
        """Whether none is under way, nor waits to be published."""
        return self.state is not State.WRITING and self.state is not State.WRITTEN

    @property
    def is_behind(self) -> bool:
        """Whether so much has gathered during a flush that commits wait for it."""
        if self.state is not State.WRITING:
            return False
        rows = self._limits.behind * self._limits.flush_rows
        return self._branch.snapshot.n > rows

    @property
    def has_many_runs(self) -> bool:
        """Whether a transaction that adds a run had better wait for the flush under way.

        It would merge them itself, again, and what the flush has merged would be of no use.
        """
        if self.state is not State.WRITING:
            return False
        trees = self._branch.snapshot.trees
        sides = (trees.current, trees.temporal or trees.current)
        return any(len(side[IndexOrder.EAVT].runs) >= MOST for side in sides)

    # -- writing -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a flush if enough has gathered, or a renewal waits, and none is under way."""
        if self.at_rest and (self.renewals or self._is_much()):
            self._become(State.WRITING)
            start(self._write, f"a flush of :{self._branch.name}", unbegun=self._ended)

    def _is_much(self) -> bool:
        committer, limits = self._branch.committer, self._limits
        share = self._order.share
        if self._branch.snapshot.n >= (limits.flush_rows + self._floor) * share:
            return True
        most = limits.flush_journal_bytes if committer.journal else limits.flush_bytes
        if self._floor:
            most *= 2
        if committer.tail.bytes >= most * share:
            return True
        # Large transactions leave runs to be merged. After a failure they wait for the next flush.
        return not self._floor and bool(self._branch.snapshot.trees.due)

    async def prepare(self) -> None:
        """Write the nodes of the present state, here and now, and merge no more than needed."""
        self._become(State.WRITING)
        await self._write(Merge.MANY)

    async def _write(self, merging: Merge = Merge.DUE) -> None:
        self._renewed = list(self.renewals)
        blobs = frozenset[str]().union(*(renewal.blobs for renewal in self._renewed))
        every = any(renewal.compact for renewal in self._renewed)
        try:
            merging = Merge.ALL if every else merging
            anew = any(renewal.anew for renewal in self._renewed)
            self.written(await self._branch.prepare_flush(blobs, merging, anew))
        except Exception as error:
            self._failed(as_ours(error))
        finally:
            self._ended()

    def written(self, prepared: Prepared) -> None:
        """Take over what was written, to be published."""
        if self.state is not State.WRITING:
            self._become(State.WRITING)
        self._become(State.WRITTEN, prepared)

    def _ended(self) -> None:
        if self.state is State.WRITING:
            # The event loop has ended meanwhile, or before its first step.
            self._become(State.FAILED)
        self._wake()

    def _failed(self, error: DatahikeError) -> None:
        self._become(State.FAILED)
        self._answer(error)
        if error.retryable or isinstance(error, SnapshotExpired):
            # Commits need less room than flushes: they go on, and the flush is tried again later.
            FLUSH_FAILED(branch=self._branch.name, error=error)
            self._floor = self._branch.snapshot.n
        else:
            self._shut(error)

    def _answer(self, error: DatahikeError | None) -> None:
        for renewal in self._renewed:
            self.renewals.remove(renewal)
            renewal.answer(error)
        self._renewed = []

    def give_up(self, error: DatahikeError) -> None:
        """Fulfil no requests any more."""
        for renewal in self.renewals:
            renewal.answer(error)
        self.renewals, self._renewed = [], []

    # -- publishing ----------------------------------------------------------------------------

    def forget(self) -> None:
        """Leave what is prepared unpublished: nothing is written any more."""
        self._become(State.STALE)

    async def publish(self) -> None:
        """Publish what was prepared, unless it is stale by then."""
        assert self.prepared is not None
        order, queued = self._order, self._order.waits
        try:
            if queued:
                await order.wait(refresh=not self._exclusive)
            await self._publish(self.prepared, queued=queued)
        finally:
            if order.has_turn:
                await order.leave()

    async def _taken_over(self, prepared: Prepared) -> Prepared | None:
        # What is to be written anew, or to lead to nothing before, are not runs alone.
        if any(renewal.blobs or renewal.anew for renewal in self._renewed):
            return None
        return await self._branch.taken_over(prepared)

    async def _publish(self, prepared: Prepared, *, queued: bool) -> None:
        branch, order = self._branch, self._order
        if not branch.is_current(prepared):
            try:
                taken_over = await self._taken_over(prepared)
            except Exception as error:
                self._failed(as_ours(error))
                return
            if taken_over is None:
                self._become(State.STALE)
                return
            prepared = taken_over
        try:
            await branch.publish_flush(prepared)
        except OutOfTurn:
            self._become(State.WRITTEN, prepared)
            order.waits = True
            if queued:
                await order.give_way()
        except Moved as moved:
            self._become(State.STALE)
            if self._exclusive and not moved.is_fence:
                self._shut(fenced(branch.name))
                return
            try:
                await branch.adopt(moved.state)
            except Exception as error:
                self._shut(as_ours(error))
        except Exception as error:
            self._failed(as_ours(error))
        else:
            self._become(State.PUBLISHED)
            flushed = prepared.flushed.snapshot
            runs, waiting = prepared.flushed.trees.runs
            FLUSHED(
                branch=branch.name,
                tx=flushed.max_tx,
                rows=flushed.n,
                bytes=prepared.flushed.bytes,
                runs=runs,
                waiting=waiting,
            )
            self._floor = 0
            self._answer(None)
            with suppress(Exception):  # what is wrong shows to the next publication
                await branch.catch_up()
