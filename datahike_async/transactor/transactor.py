"""Transactor: the actor that owns one branch on one event loop.

It takes whatever is queued, applies it in order, publishes once and answers everyone (a group
commit); it never waits for company when it is idle. In between it starts flushes, which run beside
it, and publishes what they wrote. One bad transaction costs its caller an error; a failing store
costs all waiting callers one, after which the transactor takes nothing more.

Everything here runs on one event loop and changes state only between awaits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import (
    DatabaseNotFound,
    DatahikeError,
    TransactionError,
)
from datahike_async.events import BRANCH_GONE, COMMITTED, REFRESHED, WAITED, WRITER_CLOSED
from datahike_async.konserve.loops import is_cancellation
from datahike_async.pausing import BUDGET, of_the_writer
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.read import BranchState
from datahike_async.storage.log.records import Commit
from datahike_async.storage.opened import Opened
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.failures import (
    as_ours,
    closed,
    loop_ended,
    read_only,
    shut_down,
    unfinished,
)
from datahike_async.transactor.flushing import Flushing
from datahike_async.transactor.group import APPLYING, Group, Wrap
from datahike_async.transactor.limits import Limits
from datahike_async.transactor.mailbox import Mailbox
from datahike_async.transactor.messages import Refresh, Renew, Request, Transact
from datahike_async.transactor.order import Order
from datahike_async.transactor.publishing import Publishing
from datahike_async.transactor.settling import Settling
from datahike_async.transactor.writer import Subscriber

__all__ = ["Limits", "Transactor", "Wrap"]

_log = logging.getLogger("datahike_async.transactor")
R = TypeVar("R", bound=Request)


class Transactor:
    """The writer of one branch. ``snapshot`` and ``commit`` are what is durable.

    ``branch`` is what is known of it, and the store and nodes that it is made of. ``lost`` says
    that the event loop ended before it was told to stop.
    """

    def __init__(
        self, branch: Branch, config: Config, wrap: Callable[[Transactor], Wrap], limits: Limits
    ) -> None:
        self.config = config
        self.limits = limits
        self.mailbox: Mailbox[Transact] = Mailbox(config.writer.transaction_queue_size)
        self.subscribers: dict[object, Subscriber] = {}
        self.fatal: DatahikeError | None = None
        self.lost = False
        self.order = Order(branch)
        self.branch = branch
        self._wrap = wrap(self)
        self._exclusive = config.writer.writer_ownership == "exclusive"
        self._read_only = branch.store.read_only
        self._stopping = False
        self._ended = False
        self.flushing = Flushing(
            branch,
            limits,
            self.order,
            self.mailbox.wake,
            self.shut,
            exclusive=self._exclusive,
        )
        self._publishing = Publishing(branch, config, self.order, self.shut, self._loop_ended)
        self._refreshing: list[Refresh] = []
        self._published = False
        self._settling = Settling()
        # Who waits until nothing is under way any more, and whether nothing ever will be.
        self._stilling: list[anyio.Event] = []
        self._over = False
        # Since when transactions that are queued wait for a flush, if they do.
        self._waiting: float | None = None

    @classmethod
    async def open(
        cls,
        opened: Opened,
        state: BranchState,
        config: Config,
        env: Env,
        wrap: Callable[[Transactor], Wrap],
        limits: Limits | None = None,
    ) -> Transactor:
        """Return the transactor of a branch that was read; its snapshot is the branch's."""
        limits = limits or Limits()
        branch = await Branch.open(opened, state, config, env, limits)
        return cls(branch, config, wrap, limits)

    @property
    def snapshot(self) -> Snapshot:
        """The newest durable state."""
        return self.branch.snapshot

    @property
    def commit(self) -> Commit:
        """The newest commit."""
        return self.branch.committer.commit

    def require_writable(self) -> None:
        """Raise WriterError ``:writer/read-only`` where nothing may be written."""
        if self._read_only:
            raise read_only(self.config.branch, self.config.read_only)

    # -- callers -------------------------------------------------------------------------------

    async def send(self, message: Transact) -> Transact:
        """Send a transaction and wait until it is durable or refused, with those that follow it.

        Cancelling before it is sent means it never happened; afterwards it takes its course.
        Raises the transaction's error; WriterError ``:writer-shut-down`` once the writer is closed,
        and ``:writer/read-only`` where nothing may be written.
        """
        if APPLYING.get() is self.branch:
            raise TransactionError(
                "A transaction function cannot transact on its own branch: the writer would wait "
                "for itself. Return the transaction data instead.",
                error=":transact/syntax",
            )
        self.require_writable()
        if self.fatal is not None:
            raise shut_down(self.fatal)
        if self._ended:
            # Released while the caller was reading its input: nobody takes messages any more.
            raise closed()
        if not self.mailbox.put_nowait(message):
            await self.mailbox.room()
            if self._is_shut():
                self.mailbox.give_up_room()
                raise shut_down(self.fatal)
            self.mailbox.put_after_room(message)
        self._settling.accepted += 1
        await message.done.wait()
        if message.error is not None:
            raise message.error
        return message

    async def refresh(self) -> None:
        """Take over what other writers have published by now.

        Raises WriterError where the writer is closed, and what reading the head raises.
        """
        await self._asked(Refresh(), self._refreshing)

    async def renew(self, blobs: frozenset[str], *, anew: bool = False) -> None:
        """Write anew what the branch has in some blobs, so that nothing of it is there any more.

        Nothing leads to the checkpoints before then; nor does it with ``anew``, if there are no
        blobs. Raises WriterError where the writer is closed, and what writing raises.
        """
        await self._asked(Renew(blobs, anew=anew), self.flushing.renewals)

    async def compact(self) -> None:
        """Flush, and merge all runs into the indexes.

        Raises WriterError where the writer is closed, and what writing raises.
        """
        await self._asked(Renew(frozenset(), compact=True), self.flushing.renewals)

    async def _asked(self, request: R, waiting: list[R]) -> None:
        if self.fatal is not None:
            raise shut_down(self.fatal)
        if self._ended:
            raise closed()
        waiting.append(request)
        self.mailbox.wake()
        await request.done.wait()
        if request.error is not None:
            raise request.error

    async def settled(self) -> None:
        """Wait until every transaction that was sent by now is answered."""
        if self.fatal is None:
            await self._settling.wait()

    async def still(self) -> None:
        """Wait, after ``shut``, until nothing is being written any more, for a while at most."""
        if self._over:
            return
        event = anyio.Event()
        self._stilling.append(event)
        self.mailbox.wake()
        with anyio.move_on_after(self.limits.close_seconds):
            await event.wait()

    def _tell_still(self) -> None:
        if self._over or (self.fatal is not None and not self.flushing.under_way):
            while self._stilling:
                self._stilling.pop().set()

    def _is_shut(self) -> bool:
        return self.fatal is not None

    def shut(self, cause: DatahikeError) -> DatahikeError:
        """Take nothing more; whoever waits gets WriterError. Returns the first cause."""
        if self.fatal is None:
            self.fatal = cause
            if cause.error == ":branch-does-not-exist":
                BRANCH_GONE(branch=self.config.branch)  # somebody wanted that: no failure
            elif not self.lost:
                WRITER_CLOSED(
                    branch=self.config.branch, error=cause, trace=cause.__cause__ or cause
                )
        for message in self.mailbox.drain():
            message.fail(shut_down(self.fatal))
        for request in self._refreshing:
            request.answer(shut_down(self.fatal))
        self._refreshing.clear()
        self.flushing.give_up(shut_down(self.fatal))
        self._settling.end()
        return self.fatal

    # -- the actor -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Have the actor end once everything that was sent is answered."""
        self._stopping = True
        self.mailbox.wake()

    def end(self) -> None:
        """Have the actor end with what is under way, for the event loop does: take nothing more."""
        if not self.lost:
            self.lost = True
            self.shut(loop_ended())
            self.stop()

    def abandon(self) -> None:
        """Close what is open without an event loop, on which nobody can be answered any more."""
        self.lost = True
        self.fatal = loop_ended()
        self.branch.opened.abandon()

    async def run(self) -> None:
        """Be the actor until ``stop``, or until the event loop ends.

        Raises nothing but what ends the process: errors go to those who wait.
        """
        cancelled = anyio.get_cancelled_exc_class()
        try:
            await self._serve()
        except cancelled:
            # Nobody cancels the actor but the end of its event loop.
            self.end()
        except BaseException as error:
            self.shut(as_ours(error))
            if not isinstance(error, Exception):
                raise
        finally:
            self._over = True
            self._tell_still()

    def _loop_ended(self) -> bool:
        """Whether the event loop ends, which the committer may have been told in its place."""
        if self.branch.committer.interrupted:
            self.end()
        return self.lost

    async def _serve(self) -> None:
        mailbox, flushing = self.mailbox, self.flushing
        wait = self.config.writer.commit_wait_time / 1000
        while not self._loop_ended():
            if self._stilling:
                self._tell_still()
            if flushing.prepared is not None:
                await self._publish_flush()
                if self._loop_ended():
                    break
            if self._refreshing:
                await self._refresh()
            if flushing.renewals:
                self._maybe_flush()
            if self._stopping and not flushing.under_way and not mailbox.busy:
                break
            behind = flushing.is_behind or self._would_add_a_run()
            if not mailbox.queue or behind:
                if behind and mailbox.queue and self._waiting is None:
                    self._waiting = self.branch.env.monotonic()
                if flushing.prepared is None and not self._refreshing:
                    await mailbox.wait()
                continue
            if self._waiting is not None:
                self._tell_waited(self._waiting)
            if wait:
                await anyio.sleep(wait)
            await self._group()

    def _tell_waited(self, since: float) -> None:
        self._waiting = None
        WAITED(
            branch=self.branch.name,
            rows=self.snapshot.n,
            seconds=round(self.branch.env.monotonic() - since, 6),
        )

    async def _refresh(self) -> None:
        requests = list(self._refreshing)
        self._refreshing.clear()
        error: DatahikeError | None = loop_ended()
        try:
            before = self.snapshot.max_tx
            await self.branch.refresh()
            REFRESHED(branch=self.branch.name, tx=self.snapshot.max_tx, before=before)
            error = None
        except Exception as failed:
            error = as_ours(failed)
            if isinstance(error, DatabaseNotFound):
                self.shut(error)
        finally:
            for request in requests:
                request.answer(error)

    async def _group(self) -> None:
        """Take what is queued, apply it, publish it, answer."""
        messages: list[Transact] = []
        order = self.order
        self.branch.committing = True
        try:
            try:
                if order.waits:
                    await order.wait(refresh=not self._exclusive)
                elif order.leaves_gaps and not self._exclusive:
                    await order.leave_gap()
                twice = order.has_turn and order.takes_two()
                await self._publish(await self._apply_queued(messages))
                if twice and await self._has_more():
                    order.last()
                    await self._publish(await self._apply_queued(messages))
            finally:
                if order.has_turn:
                    await order.leave()
        except BaseException as error:
            if is_cancellation(error):
                # Between publications, or the committer would have found out what became of it.
                self.end()
                return
            # A defect of ours, a store that breaks its contract, or the end of the process: nobody
            # may wait for ever.
            _log.exception("the writer of :%s failed", self.config.branch)
            self.shut(as_ours(error))
            for message in messages:
                if not message.done.is_set():
                    message.fail(unfinished(error))
            if not isinstance(error, Exception):
                raise
        finally:
            for message in messages:
                if not message.done.is_set():
                    message.fail(shut_down(self.fatal))
            self._settling.answered(len(messages))
            self.branch.committing = False

    async def _has_more(self) -> bool:
        """Whether there is more to publish in the same turn."""
        if self._loop_ended() or self.fatal is not None:
            return False
        return await self.order.comes_more(self.mailbox.queue) and self.flushing.prepared is None

    async def _apply_queued(self, messages: list[Transact]) -> Group:
        mailbox, limits = self.mailbox, self.limits
        queue, monotonic = mailbox.queue, self.branch.env.monotonic
        began, left = monotonic(), limits.group_seconds
        group = Group(self.branch, self._wrap)
        while queue:
            if queue[0].parents and messages:
                break  # its record says so of its first transaction alone
            message = mailbox.take()
            messages.append(message)
            await group.apply(message)
            spent = monotonic() - began
            if (
                group.bulk is not None
                or message.parents
                or len(messages) >= limits.group
                or group.size >= limits.group_bytes
                or spent >= left
            ):
                break
            if spent >= BUDGET or (spent >= BUDGET / 2 and spent >= of_the_writer()):
                await checkpoint()
                began, left = monotonic(), left - spent
        return group

    def _would_add_a_run(self) -> bool:
        """Whether the next message waits: there are many runs, and it may add another one."""
        queue = self.mailbox.queue
        return bool(queue) and self.flushing.has_many_runs and queue[0].is_bulk

    async def _publish(self, group: Group) -> None:
        began = self.branch.env.monotonic() if COMMITTED.wanted else 0.0
        published = await self._publishing.publish(group)
        if published is None:
            return
        self._loop_ended()
        committed = published.answer()
        if committed:
            self._published = True
            if COMMITTED.wanted:
                COMMITTED(
                    branch=self.branch.name,
                    tx=self.snapshot.max_tx,
                    transactions=len(committed),
                    seconds=round(self.branch.env.monotonic() - began, 6),
                )
            if self.subscribers:
                for subscriber in list(self.subscribers.values()):
                    subscriber(committed)
        if self.branch.committer.behind is not None:
            with suppress(Exception):  # what is wrong shows to the next publication
                await self.branch.catch_up()
        self._maybe_flush()

    # -- flushing ------------------------------------------------------------------------------

    def _maybe_flush(self) -> None:
        # What ends starts no flush that it would have to wait for.
        if self.fatal is None and not self._stopping:
            self.flushing.begin()

    async def _publish_flush(self) -> None:
        if self.fatal is not None:
            self.flushing.forget()
            return
        await self.flushing.publish()
        self._maybe_flush()

    async def close(self) -> None:
        """Flush if much has gathered. The store stays open; nobody may be running the actor.

        What others wrote is theirs to flush: a process that only reads publishes nothing.
        """
        self._ended = True
        for request in self._refreshing:
            request.answer(closed())
        self._refreshing.clear()
        self.flushing.give_up(closed())
        wrote = self._published and self.fatal is None
        if wrote and self.snapshot.n >= self.limits.close_rows:
            if self.flushing.prepared is None:
                await self.flushing.prepare()
            if self.flushing.prepared is not None:
                await self._publish_flush()
