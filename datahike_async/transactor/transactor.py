"""Transactor: the actor that owns one branch on one event loop.

It takes whatever is queued, applies it in order, publishes once and answers everyone (a group
commit); it never waits for company when it is idle. In between it starts flushes, which run beside
it, and publishes what they wrote. One bad transaction costs its caller an error; a failing store
costs all waiting callers one, after which the transactor takes nothing more.

Everything here runs on one event loop and changes state only between awaits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final, TypeVar
from uuid import UUID

import anyio
from anyio.lowlevel import checkpoint

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import (
    DatabaseNotFound,
    DatahikeError,
    FencingUnsupported,
    TransactionError,
    TransactionOutcomeUnknown,
)
from datahike_async.events import BRANCH_GONE, COMMITTED, REFRESHED, RERUN, WRITER_CLOSED
from datahike_async.index.protocol import IndexFactory
from datahike_async.index.registry import index_factory
from datahike_async.konserve.base import close_now
from datahike_async.konserve.errors import KonserveError, OutOfTurn, StoreDenied
from datahike_async.konserve.loops import is_cancellation
from datahike_async.konserve.store import Store
from datahike_async.pausing import BUDGET
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.read import BranchState
from datahike_async.storage.branches.walk import Past
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import Commit
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.storage.probe import Probe
from datahike_async.storage.translate import translate
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.committer import Committer, Moved
from datahike_async.transactor.failures import (
    again,
    as_ours,
    closed,
    conflict,
    fenced,
    loop_ended,
    read_only,
    shut_down,
    unfinished,
    unknown,
)
from datahike_async.transactor.flushing import Flushing
from datahike_async.transactor.group import APPLYING, Group, Wrap
from datahike_async.transactor.limits import Limits
from datahike_async.transactor.mailbox import Mailbox
from datahike_async.transactor.messages import Refresh, Renew, Request, Transact
from datahike_async.transactor.order import Order
from datahike_async.transactor.writer import Subscriber

__all__ = ["Limits", "Transactor", "Wrap"]

_log = logging.getLogger("datahike_async.transactor")
R = TypeVar("R", bound=Request)

_TICKS: Final = 3
"""Of the event loop, within which a caller that commits in a loop sends its next transaction."""
_HELD_UP: Final = 0.02
"""Seconds, after which these ticks have not come because callers hold the loop up."""
_WARY: Final = 16
"""For so many turns after that each is passed on with its first publication."""


class Transactor:
    """The writer of one branch. ``snapshot`` and ``commit`` are what is durable.

    ``lost`` says that the event loop ended before it was told to stop.
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
        self.past = Past(branch.store)
        self.order = Order(branch)
        self._branch = branch
        self._wrap = wrap(self)
        self._stopping = False
        self._ended = False
        self.flushing = Flushing(branch, limits, self.order, self.mailbox.wake, self.shut)
        self._refreshing: list[Refresh] = []
        self._published = False
        self._wary = 0
        # How many messages were accepted, how many answered, and who waits for which number.
        self._accepted = 0
        self._answered = 0
        self._settling: deque[tuple[int, anyio.Event]] = deque()
        # Who waits until nothing is under way any more, and whether nothing ever will be.
        self._stilling: list[anyio.Event] = []
        self._over = False

    @classmethod
    async def open(
        cls,
        store: Store,
        state: BranchState,
        config: Config,
        source: NodeStore,
        env: Env,
        wrap: Callable[[Transactor], Wrap],
        limits: Limits | None = None,
    ) -> Transactor:
        """Return the transactor of a branch that was read; its snapshot is the branch's."""
        limits = limits or Limits()
        trust = config.writer.trusting
        probe = Probe(store, state.head.base.store, config.store["backend"], env, trust=trust)
        committer = Committer(store, state, env, probe, limits)
        branch = Branch(store, source, index_factory(config.index), committer, env)
        await branch.adopt(state)
        if store.capabilities.remote:
            await branch.warm()
        return cls(branch, config, wrap, limits)

    @property
    def snapshot(self) -> Snapshot:
        """The newest durable state."""
        return self._branch.snapshot

    @property
    def commit(self) -> Commit:
        """The newest commit."""
        return self._branch.committer.commit

    @property
    def store(self) -> Store:
        """The store."""
        return self._branch.store

    @property
    def source(self) -> NodeStore:
        """Where index nodes come from."""
        return self._branch.source

    @property
    def factory(self) -> IndexFactory:
        """What makes indexes."""
        return self._branch.factory

    @property
    def env(self) -> Env:
        """Clock, ids and chance."""
        return self._branch.env

    @property
    def line(self) -> tuple[Checkpoint, Sequence[bytes]]:
        """The newest checkpoint of the branch, and the records since."""
        committer = self._branch.committer
        return committer.base, committer.tail.records

    @property
    def store_id(self) -> UUID:
        """The identity of the store."""
        return self._branch.committer.base.store

    def require_writable(self) -> None:
        """Raise WriterError ``:writer/read-only`` where nothing may be written."""
        if self.store.read_only:
            raise read_only(self.config.branch, self.config.read_only)

    @property
    def probe(self) -> Probe:
        """Whether the store compares before it writes."""
        return self._branch.committer.probe

    # -- callers -------------------------------------------------------------------------------

    async def send(self, message: Transact) -> Transact:
        """Send a transaction and wait until it is durable or refused, with those that follow it.

        Cancelling before it is sent means it never happened; afterwards it takes its course.
        Raises the transaction's error; WriterError ``:writer-shut-down`` once the writer is closed,
        and ``:writer/read-only`` where nothing may be written.
        """
        if APPLYING.get() is self._branch:
            raise TransactionError(
                "A transaction function cannot transact on its own branch: the writer would wait "
                "for itself. Return the transaction data instead.",
                error=":transact/syntax",
            )
        self.require_writable()
        if self._is_shut():
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
        self._accepted += 1
        await message.done.wait()
        if message.error is not None:
            raise message.error
        return message

    async def refresh(self) -> None:
        """Take over what other writers have published by now.

        Raises WriterError where the writer is closed, and what reading the head raises.
        """
        await self._asked(Refresh(), self._refreshing)

    async def renew(self, blobs: frozenset[str]) -> None:
        """Write anew what the branch has in some blobs, so that nothing of it is there any more.

        Raises WriterError where the writer is closed, and what writing raises.
        """
        await self._asked(Renew(blobs), self.flushing.renewals)

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
        if self._answered < self._accepted and self.fatal is None:
            event = anyio.Event()
            self._settling.append((self._accepted, event))
            await event.wait()

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
        if self._over or (self._is_shut() and not self.flushing.under_way):
            while self._stilling:
                self._stilling.pop().set()

    def _answer(self, count: int) -> None:
        self._answered += count
        while self._settling and (self._settling[0][0] <= self._answered or self._is_shut()):
            self._settling.popleft()[1].set()

    @property
    def _exclusive(self) -> bool:
        return self.config.writer.writer_ownership == "exclusive"

    def _is_shut(self) -> bool:
        return self.fatal is not None

    def shut(self, cause: DatahikeError) -> None:
        """Take nothing more; whoever waits gets WriterError."""
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
        self._answer(0)

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
        close_now(self.store.blobs)

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
        if self._branch.committer.interrupted:
            self.end()
        return self.lost

    async def _serve(self) -> None:
        while not self._loop_ended():
            self._tell_still()
            if self.flushing.prepared is not None:
                await self._publish_flush()
                if self._loop_ended():
                    break
            if self._refreshing:
                await self._refresh()
            if self.flushing.renewals:
                self._maybe_flush()
            if self._stopping and not self.flushing.under_way and not self.mailbox.busy:
                break
            if not len(self.mailbox) or self.flushing.is_behind:
                if self.flushing.prepared is None and not self._refreshing:
                    await self.mailbox.wait()
                continue
            if self.config.writer.commit_wait_time:
                await anyio.sleep(self.config.writer.commit_wait_time / 1000)
            await self._group()

    async def _refresh(self) -> None:
        requests = list(self._refreshing)
        self._refreshing.clear()
        error: DatahikeError | None = loop_ended()
        try:
            before = self.snapshot.max_tx
            await self._branch.refresh()
            REFRESHED(branch=self._branch.name, tx=self.snapshot.max_tx, before=before)
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
        try:
            async with AsyncExitStack() as turn:
                if self.order.waits:
                    await self.order.wait(turn, refresh=not self._exclusive)
                elif not self._exclusive:
                    await self.order.leave_gap()
                wary = self._wary > 0 and self.order.has_turn
                if wary:
                    self._wary -= 1
                    self.order.last()
                await self._publish(await self._apply_queued(messages), turn)
                if not wary and await self._may_go_on():
                    # The next in the queue need not wait until everyone here is answered.
                    self.order.last()
                    await self._publish(await self._apply_queued(messages), turn)
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
            self._answer(len(messages))

    async def _may_go_on(self) -> bool:
        """Whether there is more to publish in this turn: what callers send at once when answered.

        Passing a turn on takes about as long as publishing does, so each is worth two groups.
        """
        if not self.order.has_turn or self._loop_ended() or self.fatal is not None:
            return False
        began = self._branch.env.monotonic()
        for _ in range(_TICKS):
            if len(self.mailbox):
                break
            await checkpoint()
        if self._branch.env.monotonic() - began > _HELD_UP:
            # Whoever is next has waited for all that a caller did with its answer.
            self._wary = _WARY
        return len(self.mailbox) > 0 and self.flushing.prepared is None

    async def _apply_queued(self, messages: list[Transact]) -> Group:
        mailbox, limits = self.mailbox, self.limits
        monotonic = self._branch.env.monotonic
        began, left = monotonic(), limits.group_seconds
        group = Group(self._branch, self._wrap)
        while len(mailbox):
            if mailbox.first.parents and messages:
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
            if spent >= BUDGET:
                await checkpoint()
                began, left = monotonic(), left - spent
        return group

    async def _publish(self, group: Group, turn: AsyncExitStack) -> None:
        branch, name = self._branch, self.config.branch
        retries = self.config.writer.head_conflict_retries
        group = group if self._exclusive else await group.on_what_is_there()
        began = branch.env.monotonic()
        while True:
            before, revision = self.commit, branch.committer.revision
            sent = branch.env.monotonic()
            try:
                publication = await group.publish()
                self.order.published(branch.env.monotonic() - sent)
                break
            except OutOfTurn:
                # Nothing was written. An exclusive writer learns from a conflict alone that it is
                # not alone.
                retries -= 1
                if retries < 0:
                    group.fail(conflict, name)
                    return
                await self.order.wait(turn, refresh=not self._exclusive)
                await self.order.give_way()
                if branch.committer.revision != revision:
                    group = await self._again(group, retries)
            except Moved as moved:
                if self._loop_ended():
                    # Nothing of the group was written, and nothing more will be.
                    return
                if self._exclusive and not moved.is_fence:
                    group.fail(fenced, name)
                    self.shut(fenced(name))
                    return
                try:
                    await branch.adopt(moved.state)
                except Exception as error:
                    # Nothing of the group was written, and nothing could be on what is there now.
                    self.shut(as_ours(error))
                    group.fail(shut_down, self.fatal)
                    return
                if moved.is_fence:  # nobody competes
                    group = await group.again()
                    continue
                retries -= 1
                if retries < 0:
                    group.fail(conflict, name)
                    return
                await self.order.wait(turn)
                group = await self._again(group, retries)
            except FencingUnsupported as error:
                group.fail(again, error)
                return
            except KonserveError as error:
                # Whatever the group appended is not read by anyone: the next one forks the tip.
                group.fail(translate, error)
                if not error.retryable and not isinstance(error, StoreDenied):
                    self.shut(translate(error))
                return
            except TransactionOutcomeUnknown as error:
                group.fail(unknown, error.__cause__ or error)
                self.shut(error)
                return
            except DatahikeError as error:
                # Nothing was written, and nothing can be on what is there now.
                self.shut(error)
                group.fail(shut_down, self.fatal)
                return
        self._loop_ended()
        committed = group.answer(before, publication, self.commit)
        if committed:
            self._published = True
            if COMMITTED.wanted:
                COMMITTED(
                    branch=name,
                    tx=self.snapshot.max_tx,
                    transactions=len(committed),
                    seconds=round(branch.env.monotonic() - began, 6),
                )
            for subscriber in list(self.subscribers.values()):
                subscriber(committed)
        with suppress(Exception):  # what is wrong shows to the next publication
            await branch.catch_up()
        self._maybe_flush()

    async def _again(self, group: Group, retries: int) -> Group:
        self.order.overtaken(len(group), retries)
        made = await group.again()
        RERUN(branch=self._branch.name, transactions=len(made), basis=self.snapshot.max_tx)
        return made

    # -- flushing ------------------------------------------------------------------------------

    def _maybe_flush(self) -> None:
        # What ends starts no flush that it would have to wait for.
        if self.fatal is None and not self._stopping:
            self.flushing.begin()

    async def _publish_flush(self) -> None:
        if self.fatal is not None:
            self.flushing.prepared = None
            return
        await self.flushing.publish(exclusive=self._exclusive)
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
            await self.flushing.prepare()
            if self.flushing.prepared is not None:
                await self._publish_flush()
