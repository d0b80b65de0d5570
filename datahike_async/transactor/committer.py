"""Committer: publish by compare-and-set, and find out how a publication went that nobody confirmed.

The protocol, as a table of what a failed publication does next:

    the head, read again, names our publication   → it was ours: Published
    its revision is still the expected one        → send the identical request again
    it moved on without us                        → Moved: reload, run the transactions again
    it cannot be read, or remembers too little,
    or is not there any more                      → Unknown, if a sending got no answer

Nothing is applied here: the actor hands in encoded records and takes the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import anyio

from datahike_async.env import Env
from datahike_async.errors import DatahikeError, StorageError, TransactionOutcomeUnknown
from datahike_async.konserve.blob import (
    UNCHANGED,
    News,
    Revision,
    Unchanged,
)
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    OutOfTurn,
    RevisionMismatch,
    StoreClosed,
    StoreIOError,
)
from datahike_async.konserve.loops import is_cancellation, is_interruption
from datahike_async.konserve.store import Assoc, Store
from datahike_async.storage.branches.head import Head, Recent, encode_head
from datahike_async.storage.branches.read import (
    BranchState,
    Growth,
    Known,
    deleted_branch,
    reread_branch,
)
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import commit_ids, encode_record, last_of, newest
from datahike_async.storage.log.tail import Tail
from datahike_async.storage.probe import Probe
from datahike_async.transactor.failures import unknown
from datahike_async.transactor.limits import Limits

__all__ = ["Committer", "Moved", "Sent"]


Send = Callable[[], Awaitable[Revision]]

_LOOP_ENDED: Final = OutcomeUnknown("The event loop ended meanwhile.")


class Sent(NamedTuple):
    """Encoded transactions, and their numbers, to be published together.

    ``parents`` are commits that the first of them has beside the one before it.
    """

    entries: Sequence[bytes]
    txs: Sequence[int]
    parents: tuple[UUID, ...] = ()


class Moved(Exception):
    """Another writer replaced the head or appended to it; ``state`` is what it is now."""

    def __init__(self, state: BranchState | Growth) -> None:
        super().__init__("the head has moved")
        self.state = state

    @property
    def is_fence(self) -> bool:
        """Whether nobody has written anything: a collection of garbage has begun."""
        return isinstance(self.state, Growth) and self.state.is_fence


class Committer:
    """The head of one branch as this writer last published or read it."""

    def __init__(
        self, store: Store, state: BranchState, env: Env, probe: Probe, limits: Limits
    ) -> None:
        self.store = store
        self.probe = probe
        self.env = env
        self.writer = env.new_uuid()
        self.conditional = store.capabilities.compares
        self.key = head_key(state.head.base.branch)
        self.journal = store.capabilities.journal
        self.limits = limits
        self._until = math.inf
        self.interrupted = False
        """Whether the event loop ended during a publication."""
        # Whether it takes its place among the writers that compete, and who lost theirs to it;
        # and where it knows of none, after how many further publications it leaves a gap.
        self.in_ring = False
        self.gap: int | None = None
        self.gone: Collection[UUID] = ()
        self.adopt(state)

    def adopt(self, state: BranchState) -> None:
        """Go on from a head that was read."""
        self.base: Checkpoint = state.head.base
        self.hashed = self.base.is_hashed
        self.revision: Revision = state.revision
        self.generation = state.generation
        self.commit = state.commit
        self.epoch = state.head.epoch
        self.extra = state.head.extra
        self.recent = state.recent
        self.ring = state.head.ring
        self.tail = state.tail
        # Others published on top of ours: nothing more is published before that is taken over.
        self.behind: BranchState | Growth | None = None

    def extend(self, growth: Growth) -> None:
        """Go on from records that others appended."""
        self.revision = growth.revision
        self.generation = growth.generation
        self.commit = newest(growth.records, self.commit)
        self.recent = growth.recent
        self.ring = growth.ring
        if growth.epoch is not None:
            self.epoch = growth.epoch
        if growth.tail is not None:
            self.tail = growth.tail
        else:
            for record in growth.encoded:
                self.tail.append(record)
        self.behind = None

    async def look_again(self, news: News | None = None) -> BranchState | Growth | Unchanged:
        """Read what is new of the branch: one conditional read, or what a turn has brought.

        Raises StorageError where its head has vanished, DatabaseNotFound where it was deleted.
        """
        base = self.base
        known = Known(
            base.born,
            self.revision,
            self.generation,
            self.commit,
            self.recent,
            self.extra,
            base.encoded,
            self.tail,
        )
        state = await reread_branch(self.store, base.branch, base.store, known, news)
        if state is None:
            raise await self._gone()
        return state

    async def _gone(self) -> DatahikeError:
        """Return why there is no head any more."""
        name = self.base.branch
        try:
            listed = (await read_registry(self.store)).branches.get(name)
            deleted = listed is None or listed.publication != self.base.born
        except (DatahikeError, KonserveError):
            deleted = False  # nothing is there
        # A collection removes what is left of a branch that was deleted.
        return deleted_branch(name) if deleted else _vanished(name)

    async def publish(self, sent: Sent) -> Sequence[UUID]:
        """Make encoded transactions durable together, and return the ids of their commits.

        Raises Moved; TransactionOutcomeUnknown; konserve's error where nothing was written.
        """
        id_ = self.env.new_uuid()
        generation = self.generation + 1
        record, ids = self.recorded(id_, sent)
        if self.journal:
            await self._send(self._appender(record), generation, id_)
            self.tail.append(record)
        else:
            recent, tail = self.recent.after(id_), self.tail.plus(record)
            await self._send_head(self.base, generation, recent, tail, id_)
        self.commit = last_of(ids, self.commit.id, sent.parents)
        return ids

    def recorded(self, id_: UUID, sent: Sent) -> tuple[bytes, Sequence[UUID]]:
        """Return the record of the next publication, and the ids of the commits it makes."""
        entries = sent.entries if self.hashed else None
        ids = commit_ids(id_, sent.txs, entries, (self.commit.id,), sent.parents)
        said = ids if self.hashed else ()
        return encode_record(self.generation + 1, id_, sent.entries, sent.parents, said), ids

    async def publish_base(self, base: Checkpoint, tail: Tail) -> None:
        """Publish new trees: ``base`` names them, ``tail`` is what they do not hold."""
        id_ = self.env.new_uuid()
        await self._send_head(base, self.generation + 1, self.recent.after(id_), tail, id_)
        self.base = base

    async def publish_bulk(self, base: Checkpoint, id_: UUID) -> None:
        """Publish trees that hold transactions which are not committed yet, and commit them.

        ``id_`` is the publication's; its record must be in ``base.log``.
        """
        recent = self.recent.after(id_)
        await self._send_head(base, self.generation + 1, recent, Tail(), id_)
        self.base, self.commit = base, base.commit

    def _appender(self, record: bytes) -> Send:
        append = self.store.journal_append
        return partial(append, self.key, record, expected_revision=self.revision)

    async def _send_head(
        self, base: Checkpoint, generation: int, recent: Recent, tail: Tail, id_: UUID
    ) -> None:
        tail, segments = await tail.bounded(self.env.new_uuid)
        ring = self.ring
        if self.gap is not None and not self.in_ring:
            ring = ring.alone(self.writer, generation, self.gap)
        elif self.in_ring or self.writer in ring:
            ring = ring.after(self.writer, generation, self.gone)
        head = Head(
            base,
            generation,
            self.epoch,
            recent,
            ring,
            tail.stored(),
            self.extra,
        )
        if segments and not self.store.capabilities.atomic_multi:
            await self.probe.check()
            # What a head names is durable before it.
            await write_blobs(self.store, segments)
            try:
                await self._send(self._sender(encode_head(head)), generation, id_)
            except (Moved, KonserveError):
                # It was not published, and will not be: nobody ever names them.
                with suppress(KonserveError):
                    await self.store.multi_dissoc([key for key, _ in segments])
                raise
        else:
            await self._send(self._sender(encode_head(head), segments), generation, id_)
        self.tail, self.ring = tail, ring

    def _sender(self, data: bytes, segments: Sequence[tuple[str, bytes]] = ()) -> Send:
        store, key = self.store, self.key
        revision = self.revision if self.conditional else None

        if not segments:
            return partial(store.assoc, key, data, expected_revision=revision)

        async def send() -> Revision:
            items = [Assoc(name, segment, binary=True) for name, segment in segments]
            items.append(Assoc(key, data, expected_revision=revision))
            return (await store.multi_assoc(items))[-1]

        return send

    async def _send(self, send: Send, generation: int, id_: UUID) -> None:
        if self.behind is not None:
            # The revision is theirs, and what was to be published has nothing of them.
            raise Moved(self.behind)
        if not self.probe.passed:
            await self.probe.check()
        try:
            self.revision = await send()
        except OutOfTurn:
            raise
        except BaseException as error:
            await self._find_out(send, generation, id_, error)
        self.generation = generation
        self.recent = self.recent.after(id_)

    async def _find_out(self, send: Send, generation: int, id_: UUID, error: BaseException) -> None:
        """Return where a publication has succeeded that ended with an error; raise what it is."""
        try:
            if is_cancellation(error):
                error = self._interruption(error)
            if not isinstance(error, (RevisionMismatch, OutcomeUnknown)):
                raise error
            await self._settle(send, generation, id_, error)
        except anyio.get_cancelled_exc_class() as stopped:
            self._have_until(anyio.current_time())
            raise unknown(_LOOP_ENDED) from stopped

    def _interruption(self, cancelled: BaseException) -> OutcomeUnknown:
        """Return the doubt about what was under way when the event loop ended.

        Raises the cancellation again where nothing more can be asked.
        """
        if not is_interruption():
            raise cancelled
        self._have_until(anyio.current_time() + self.limits.close_seconds)
        return _LOOP_ENDED

    def _have_until(self, deadline: float) -> None:
        self._until = min(self._until, deadline)
        self.interrupted = True

    async def _settle(
        self,
        send: Send,
        generation: int,
        id_: UUID,
        error: KonserveError,
    ) -> None:
        pause = 0.005
        cancelled = anyio.get_cancelled_exc_class()
        # What was refused was not written; what got no answer may have been.
        doubtful = isinstance(error, OutcomeUnknown)
        with anyio.move_on_after(self.limits.settle_seconds) as patience:
            while True:
                patience.deadline = min(patience.deadline, self._until)
                try:
                    state = await self.look_again()
                    if state is not UNCHANGED:
                        if id_ in state.recent:
                            self.revision = state.revision
                            if state.generation != generation:
                                if isinstance(state, Growth):
                                    state = state.without(generation)
                                self.behind = state
                            return
                        if doubtful and state.generation - len(state.recent) >= generation:
                            raise unknown(error)
                        raise Moved(state)
                except (StoreClosed, StoreIOError) as failed:
                    if not doubtful:
                        raise
                    raise unknown(failed) from failed
                except TransactionOutcomeUnknown:
                    raise
                except DatahikeError as failed:
                    # What is there now is no head, or that of another database.
                    if not doubtful:
                        raise
                    raise unknown(failed) from failed
                except KonserveError as failed:
                    error = failed
                except cancelled as stopped:
                    error = self._interruption(stopped)
                else:
                    # While it is under way the deadline may come.
                    before, doubtful = doubtful, True
                    try:
                        self.revision = await send()
                        return
                    except (StoreClosed, StoreIOError) as failed:
                        raise unknown(failed) from failed
                    except KonserveError as again:
                        # Never a definite failure: what was sent first may still land.
                        error = again
                        doubtful = before or isinstance(again, OutcomeUnknown)
                    except cancelled as stopped:
                        error = self._interruption(stopped)
                try:
                    # Jitter: writers that collided must not collide again.
                    await anyio.sleep(pause * (0.5 + self.env.random()))
                except cancelled as stopped:
                    self._interruption(stopped)
                pause = min(pause * 2, 1.0)
        raise unknown(error) if doubtful else error


def _vanished(branch: str) -> StorageError:
    return StorageError(
        f"The head of branch :{branch} vanished from the store; the database may have been "
        "deleted.",
        error=":branch-head-does-not-exist-in-store",
        branch=branch,
    )
