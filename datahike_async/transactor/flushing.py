"""Flushing: when the memtable is merged into the trees, beside the actor, and what comes of it.

A flush runs in a task of its own while transactions go on. What it has written is published by the
actor, between two groups, if the trees are still those that it began with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from datahike_async.errors import DatahikeError, SnapshotExpired
from datahike_async.events import FLUSH_FAILED, FLUSHED
from datahike_async.konserve.errors import OutOfTurn
from datahike_async.konserve.loops import start
from datahike_async.transactor.branch import Branch, Prepared
from datahike_async.transactor.committer import Moved
from datahike_async.transactor.failures import as_ours, fenced
from datahike_async.transactor.limits import Limits
from datahike_async.transactor.messages import Renew
from datahike_async.transactor.order import Order

__all__ = ["Flushing"]


class Flushing:
    """The flushes of one branch. ``renewals`` are requests that the next one fulfils.

    ``wake`` is called when one has ended; ``shut`` with what nothing more can be written after.
    """

    def __init__(
        self,
        branch: Branch,
        limits: Limits,
        order: Order,
        wake: Callable[[], None],
        shut: Callable[[DatahikeError], None],
    ) -> None:
        self.under_way = False
        # What was written and is not published yet.
        self.prepared: Prepared | None = None
        self.renewals: list[Renew] = []
        # Those that the flush under way, or the one that is prepared, fulfils.
        self._renewed: list[Renew] = []
        self._branch = branch
        self._limits = limits
        self._order = order
        self._wake = wake
        self._shut = shut
        # After a failure: how much there was; a flush is worth trying when there is more.
        self._floor = 0
        # How many times as much gathers before the next one, since the last rewrote much.
        self._wait = 1.0

    @property
    def is_behind(self) -> bool:
        """Whether so much has gathered during a flush that commits wait for it."""
        rows = self._limits.behind * self._limits.flush_rows
        return self.under_way and self._branch.snapshot.n > rows * self._wait

    def begin(self) -> None:
        """Start a flush if enough has gathered and none is under way."""
        committer, limits = self._branch.committer, self._limits
        if self.under_way or self.prepared is not None:
            return
        most = limits.flush_journal_bytes if committer.journal else limits.flush_bytes
        if self._floor:
            most *= 2
        rows, share = limits.flush_rows + self._floor, self._order.share * self._wait
        much = self._branch.snapshot.n >= rows * share or committer.tail.bytes >= most * share
        if much or self.renewals:
            self.under_way = True
            start(self.prepare, f"a flush of :{self._branch.name}", unbegun=self._ended)

    async def prepare(self) -> None:
        """Write the nodes of the present state."""
        self._renewed = list(self.renewals)
        blobs = frozenset[str]().union(*(renewal.blobs for renewal in self._renewed))
        try:
            self.prepared = await self._branch.prepare_flush(blobs)
            self._wait = min(self.prepared.flushed.spread, self._limits.flush_wait)
        except Exception as error:
            self._failed(as_ours(error))
        finally:
            self._ended()

    def _ended(self) -> None:
        self.under_way = False
        self._wake()

    def _failed(self, error: DatahikeError) -> None:
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

    async def publish(self, *, exclusive: bool) -> None:
        """Publish what was prepared. With ``exclusive`` no other writer may have come between."""
        assert self.prepared is not None
        prepared, self.prepared = self.prepared, None
        branch, order = self._branch, self._order
        queued = order.waits
        async with AsyncExitStack() as turn:
            if queued:
                await order.wait(turn, refresh=not exclusive)
            if not branch.is_current(prepared):
                return
            try:
                await branch.publish_flush(prepared)
                flushed = prepared.flushed.snapshot
                FLUSHED(branch=branch.name, tx=flushed.max_tx, rows=flushed.n)
                self._floor = 0
                self._answer(None)
                with suppress(Exception):  # what is wrong shows to the next publication
                    await branch.catch_up()
            except OutOfTurn:
                self.prepared, order.waits = prepared, True
                if queued:
                    await order.give_way()
            except Moved as moved:
                if exclusive and not moved.is_fence:
                    self._shut(fenced(branch.name))
                    return
                try:
                    await branch.adopt(moved.state)
                except Exception as error:
                    self._shut(as_ours(error))
            except Exception as error:
                self._failed(as_ours(error))
