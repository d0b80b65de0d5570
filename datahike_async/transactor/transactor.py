"""Transactor: the actor that owns one branch on one event loop.

It takes whatever is queued, applies it in order, publishes once and answers everyone (a group
commit); it never waits for company when it is idle. In between it starts flushes, which run beside
it, and publishes what they wrote. One bad transaction costs its caller an error; a failing store
costs all waiting callers one, after which the transactor takes nothing more.

Everything here runs on one event loop and changes state only between awaits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import anyio
import anyio.abc
from anyio.to_thread import run_sync

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import DatahikeError, TransactionOutcomeUnknown, WriterError
from datahike_async.index.registry import index_factory
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.store import Store
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.codec import encode_entry
from datahike_async.storage.node_store import NodeStore
from datahike_async.storage.open import BranchState
from datahike_async.storage.translate import translate
from datahike_async.transactor.branch import Branch, Prepared
from datahike_async.transactor.committer import Committer, Moved
from datahike_async.transactor.failures import (
    as_ours,
    conflict,
    fenced,
    shut_down,
    unfinished,
    unknown,
)
from datahike_async.transactor.mailbox import Mailbox
from datahike_async.transactor.messages import Transact
from datahike_async.transactor.offload import LARGE, run_in_thread, runs_anywhere
from datahike_async.tx.apply import Applied, apply
from datahike_async.tx.forms import normalize

__all__ = ["Limits", "Subscriber", "Transactor", "Wrap"]

_log = logging.getLogger("datahike_async.transactor")

Wrap = Callable[[Snapshot], Any]
Subscriber = Callable[[list[Transact]], None]


class Limits(NamedTuple):
    """When to stop taking into a group, and when to flush."""

    group: int = 1024
    group_bytes: int = 1024 * 1024
    group_seconds: float = 0.004
    """Applying is synchronous: a longer group would hold up the event loop."""
    flush_rows: int = 8192
    flush_bytes: int = 32 * 1024
    """Of a tail inside the head, which every commit writes again."""
    flush_journal_bytes: int = 1024 * 1024
    behind: int = 4
    """How many times ``flush_rows`` may gather before commits wait for the flush."""
    close_rows: int = 256
    """Rows from which closing flushes, so that the next open need not replay them."""
    settle_seconds: float = 30.0
    """How long a publication of unknown outcome is asked after."""


class _Outcome(NamedTuple):
    """What became of a message: ``applied`` or ``error``."""

    message: Transact
    applied: Applied | None
    error: BaseException | None


class Transactor:
    """The writer of one branch. ``snapshot`` and ``commit`` are what is durable."""

    def __init__(
        self, branch: Branch, config: Config, wrap: Callable[[Transactor], Wrap], limits: Limits
    ) -> None:
        self.config = config
        self.limits = limits
        self.mailbox: Mailbox[Transact] = Mailbox(config.writer.transaction_queue_size)
        self.subscribers: dict[object, Subscriber] = {}
        self.fatal: DatahikeError | None = None
        self._branch = branch
        self._wrap = wrap(self)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._may_flush = True
        self._flushing = False
        self._prepared: Prepared | None = None
        self._flush_floor = 0
        self._thread = threading.get_ident()

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
        committer = Committer(store, state, env, env.new_uuid(), limits.settle_seconds)
        branch = Branch(store, source, index_factory(config.index), committer, env)
        await branch.adopt(state)
        return cls(branch, config, wrap, limits)

    @property
    def snapshot(self) -> Snapshot:
        """The newest durable state."""
        return self._branch.snapshot

    @property
    def commit(self) -> UUID:
        """The id of the newest commit."""
        return self._branch.committer.commit

    @property
    def store(self) -> Store:
        """The store."""
        return self._branch.store

    @property
    def store_id(self) -> UUID:
        """The identity of the store."""
        return self._branch.committer.base.store

    # -- callers -------------------------------------------------------------------------------

    async def transact(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None) -> Transact:
        """Send a transaction and wait until it is durable or refused.

        Cancelling before it is sent means it never happened; afterwards it takes its course.
        Raises the transaction's error; WriterError ``:writer-shut-down`` once the writer is closed.
        """
        if threading.get_ident() != self._thread:
            raise WriterError(
                "This connection was opened on the event loop of another thread. Open one here; "
                "connections of several event loops may share a database."
            )
        message = Transact(*normalize(tx_data, tx_meta))
        if self.fatal is not None:
            raise shut_down(self.fatal)
        if not self.mailbox.put_nowait(message):
            await self.mailbox.room()
            if self.fatal is not None:
                raise shut_down(self.fatal)
            self.mailbox.put_after_room(message)
        await message.done.wait()
        if message.error is not None:
            raise message.error
        return message

    def shut(self, cause: DatahikeError) -> None:
        """Take nothing more; whoever waits gets WriterError."""
        if self.fatal is None:
            self.fatal = cause
            name, trace = self.config.branch, cause.__cause__ or cause
            _log.error("the writer of :%s closed itself: %s", name, cause, exc_info=trace)
        for message in self.mailbox.drain():
            message.fail(shut_down(self.fatal))

    # -- the actor -----------------------------------------------------------------------------

    async def run(self, stopping: Callable[[], bool], last: Callable[[], bool]) -> None:
        """Be the actor until ``stopping``; the ``last`` runner first serves everyone who waits.

        Raises nothing but what ends the event loop: errors go to those who wait.
        """
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                while True:
                    if self._prepared is not None:
                        await self._publish_flush()
                    if stopping() and not self._flushing and not (len(self.mailbox) and last()):
                        break
                    # A runner that is about to go starts no flush that it would have to wait for.
                    self._may_flush = not stopping()
                    if not len(self.mailbox) or self._is_behind():
                        if self._prepared is None:
                            await self.mailbox.wait()
                        continue
                    if self.config.writer.commit_wait_time:
                        await anyio.sleep(self.config.writer.commit_wait_time / 1000)
                    await self._group()
        except BaseException as error:
            self.shut(as_ours(error))
            raise
        finally:
            self._tasks = None

    async def _group(self) -> None:
        """Take what is queued, apply it, publish it, answer."""
        messages: list[Transact] = []
        publishing = False
        try:
            outcomes, entries, after = await self._apply_queued(messages)
            publishing = True
            await self._publish(outcomes, entries, after)
        except BaseException as error:
            # A defect of ours, a store that breaks its contract, or the end of the event loop:
            # nobody may wait for ever.
            _log.exception("the writer of :%s failed", self.config.branch)
            self.shut(as_ours(error))
            for message in messages:
                if not message.done.is_set():
                    message.fail(unfinished(error) if publishing else shut_down(self.fatal))
            if not isinstance(error, Exception):
                raise

    async def _apply_queued(
        self, messages: list[Transact]
    ) -> tuple[list[_Outcome], list[bytes], Snapshot]:
        mailbox, limits, branch = self.mailbox, self.limits, self._branch
        monotonic = branch.env.monotonic
        outcomes: list[_Outcome] = []
        entries: list[bytes] = []
        size = 0
        base, instant = branch.snapshot, branch.instant
        until = monotonic() + limits.group_seconds
        while len(mailbox):
            message = mailbox.take()
            messages.append(message)
            outcome, base = await self._apply(message, base, instant, entries)
            outcomes.append(outcome)
            applied = outcome.applied
            if applied is not None:
                instant = applied.instant
                if applied.bulk:
                    break
                size += len(entries[-1])
            if len(outcomes) >= limits.group or size >= limits.group_bytes or monotonic() >= until:
                break
        return outcomes, entries, base

    async def _apply(
        self, message: Transact, base: Snapshot, instant: Any, entries: list[bytes]
    ) -> tuple[_Outcome, Snapshot]:
        def call() -> Any:
            return apply(
                base,
                message.tx_data,
                tx_meta=message.tx_meta,
                env=self._branch.env,
                owner=self._branch.owner,
                wrap=self._wrap,
                last_instant=instant,
            )

        try:
            if len(message.tx_data) >= LARGE and await run_sync(runs_anywhere, message.tx_data):
                applied = await run_in_thread(call)
                entry = await run_sync(encode_entry, applied)
            else:
                applied = await call()
                entry = encode_entry(applied)
        except Exception as error:
            return _Outcome(message, None, error), getattr(error, "base", base)
        entries.append(entry)
        return _Outcome(message, applied, None), applied.after

    async def _publish(
        self, outcomes: list[_Outcome], entries: list[bytes], after: Snapshot
    ) -> None:
        branch, name = self._branch, self.config.branch
        retries = self.config.writer.head_conflict_retries
        while True:
            before = self.commit
            try:
                if not entries:
                    # Nothing to write; the state may still be a fresh copy of the old one.
                    branch.snapshot = after
                    commit = self.commit
                else:
                    last = next(o.applied for o in reversed(outcomes) if o.applied is not None)
                    if last.bulk:
                        commit = await branch.publish_bulk(last, entries)
                    else:
                        commit = await branch.publish(entries, after)
                break
            except Moved as moved:
                if self.config.writer.writer_ownership == "exclusive":
                    self._fail(outcomes, fenced, name)
                    self.shut(fenced(name))
                    return
                await branch.adopt(moved.state)
                retries -= 1
                if retries < 0:
                    self._fail(outcomes, conflict, name)
                    return
                messages = [outcome.message for outcome in outcomes]
                outcomes, entries, after = await self._apply_again(messages)
            except KonserveError as error:
                # Whatever the group appended is not read by anyone: the next one forks the tip.
                self._fail(outcomes, translate, error)
                if not error.retryable:
                    self.shut(translate(error))
                return
            except TransactionOutcomeUnknown as error:
                self._fail(outcomes, unknown, error.__cause__ or error)
                self.shut(error)
                return
        self._answer(outcomes, before, commit)
        await branch.catch_up()
        self._maybe_flush()

    async def _apply_again(
        self, messages: list[Transact]
    ) -> tuple[list[_Outcome], list[bytes], Snapshot]:
        """Apply a group anew on a state that another writer made: all of it, refused ones too."""
        outcomes: list[_Outcome] = []
        entries: list[bytes] = []
        base, instant = self._branch.snapshot, self._branch.instant
        for message in messages:
            outcome, base = await self._apply(message, base, instant, entries)
            outcomes.append(outcome)
            if outcome.applied is not None:
                instant = outcome.applied.instant
        return outcomes, entries, base

    def _answer(self, outcomes: list[_Outcome], before: UUID, commit: UUID) -> None:
        committed = []
        for message, applied, error in outcomes:
            if applied is not None:
                self._branch.instant = applied.instant
                message.succeed(applied, before, commit)
                before = commit
                committed.append(message)
            else:
                assert error is not None
                message.fail(error)
        if committed:
            for subscriber in list(self.subscribers.values()):
                subscriber(committed)

    def _fail(self, outcomes: list[_Outcome], make: Callable[..., BaseException], on: Any) -> None:
        for message, _, error in outcomes:
            message.fail(make(on) if error is None else error)

    # -- flushing ------------------------------------------------------------------------------

    def _is_behind(self) -> bool:
        return self._flushing and self.snapshot.n > self.limits.behind * self.limits.flush_rows

    def _maybe_flush(self) -> None:
        committer, limits = self._branch.committer, self.limits
        if self._flushing or self._prepared is not None or not self._may_flush:
            return
        if self._tasks is None or self.fatal is not None:
            return
        most = limits.flush_journal_bytes if committer.journal else limits.flush_bytes
        if self._flush_floor:
            most *= 2
        if self.snapshot.n >= limits.flush_rows + self._flush_floor or committer.tail_bytes >= most:
            self._flushing = True
            self._tasks.start_soon(self._flush)

    async def _flush(self) -> None:
        try:
            self._prepared = await self._branch.prepare_flush()
        except Exception as error:
            self._flush_failed(as_ours(error))
        finally:
            self._flushing = False
            self.mailbox.wake()

    def _flush_failed(self, error: DatahikeError) -> None:
        if error.retryable:
            # Commits need less room than flushes: they go on, and the flush is tried again later.
            _log.warning("a flush of :%s failed: %s", self.config.branch, error)
            self._flush_floor = self.snapshot.n
        else:
            self.shut(error)

    async def _publish_flush(self) -> None:
        assert self._prepared is not None
        prepared, self._prepared = self._prepared, None
        branch = self._branch
        if self.fatal is not None:
            return
        if not branch.is_current(prepared):
            self._maybe_flush()
            return
        try:
            await branch.publish_flush(prepared)
            await branch.catch_up()
            self._flush_floor = 0
        except Moved as moved:
            await branch.adopt(moved.state)
        except Exception as error:
            self._flush_failed(as_ours(error))

    async def close(self) -> None:
        """Flush if much has gathered. The store stays open; nobody may be running the actor."""
        if self.fatal is None and self.snapshot.n >= self.limits.close_rows:
            await self._flush()
            if self._prepared is not None:
                await self._publish_flush()
