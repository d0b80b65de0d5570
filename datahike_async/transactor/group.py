"""Group: transactions applied one after another that share a publication.

Refused ones stay in the group until it is published: if another writer was faster, all are applied
again, and what was refused on the old state may be right on the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from datahike_async.beside import HUGE, apply_beside
from datahike_async.collector import set_aside
from datahike_async.errors import DatahikeError, SnapshotExpired
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.log.records import Commit, encode_entry, tx_of_commit
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.committer import Sent
from datahike_async.transactor.failures import mismatch, unpurgeable
from datahike_async.transactor.messages import Transact
from datahike_async.tx.answers import Answer, first_answer
from datahike_async.tx.apply import Applied, apply
from datahike_async.tx.forms import LARGE

__all__ = ["APPLYING", "Group", "Wrap"]

Wrap = Callable[[Snapshot], Any]

APPLYING: ContextVar[Branch | None] = ContextVar("applying", default=None)
"""The branch whose transaction function is running here; it must not wait for that branch."""


class _Outcome(NamedTuple):
    """What became of a message: ``applied``, ``error``, or the ``answer`` it had before."""

    message: Transact
    applied: Applied | None
    error: BaseException | None
    answer: Answer | None = None


class Group:
    """Transactions on top of a branch's durable state. ``size`` counts bytes of the log.

    ``bulk`` is a transaction that changed the trees, or what they say: better none comes after it.
    What was before one that purges is not written any more. ``expired`` says that one of them needs
    what was collected of an old state.
    """

    def __init__(self, branch: Branch, wrap: Wrap) -> None:
        self.size = 0
        self.bulk: Applied | None = None
        self.expired = False
        self._branch = branch
        self._wrap = wrap
        self._state = branch.snapshot
        self._instant = branch.instant
        self._messages: list[Transact] = []
        self._outcomes: list[_Outcome] = []
        self._entries: list[bytes] = []
        self._txs: list[int] = []
        self._parents: tuple[UUID, ...] = ()
        # From which transaction on the log is written; None: all of it.
        self._purged: int | None = None
        # The commit that the first of them was applied to; the ids of theirs, once there are any.
        self._before = branch.committer.commit
        self._ids: Sequence[UUID] = ()

    async def apply(self, message: Transact) -> None:
        """Apply one more message; what it raises is kept for its caller."""
        self._messages.append(message)
        await (self._apply_all(message) if message.rest else self._apply(message))

    async def _apply_all(self, message: Transact) -> None:
        """Apply a message and the rest of it, or nothing."""
        before, parents, purged = self._state, self._parents, self._purged
        others = self._instant, self.size, self.bulk
        counts = len(self._outcomes), len(self._entries)
        for place, one in enumerate((message, *message.rest)):
            await self._apply(one)
            error = self._outcomes[-1].error
            if error is not None:
                # The state before is still good: whoever goes on from it forks the memtable.
                self._state, self._parents, self._purged = before, parents, purged
                self._instant, self.size, self.bulk = others
                del self._outcomes[counts[0] :]
                del self._entries[counts[1] :], self._txs[counts[1] :]
                error.add_note(f"In transaction {place + 1} of {len(message.rest) + 1}.")
                if isinstance(error, DatahikeError):
                    error.data[":transaction"] = place
                self._outcomes.append(_Outcome(message, None, error))
                return

    async def _apply(self, message: Transact) -> None:
        data, state, branch = message.tx_data, self._state, self._branch

        call = partial(
            apply,
            state,
            data,
            tx_meta=message.tx_meta,
            env=branch.env,
            owner=branch.owner,
            wrap=self._wrap,
            last_instant=self._instant,
            key=message.key,
            tempids=message.tempids,
            more_ids=branch.more_ids,
            foreign=message.foreign,
            # So that a commit's transaction is newer than those of all that it was made on.
            above=max(map(tx_of_commit, message.parents)) if message.parents else 0,
        )
        applied: Applied
        token = APPLYING.set(branch)
        try:
            # The key first: what was done once is answered, though its basis is long past.
            if message.key is not None:
                answer = await first_answer(state, message.key)
                if answer is not None:
                    self._outcomes.append(_Outcome(message, None, None, answer))
                    return
            if message.basis is not None and message.basis != state.max_tx:
                raise mismatch(message.basis, state.max_tx)
            applied = await apply_beside(state, data, call)
            if applied.purged is not None and branch.committer.base.is_hashed:
                raise unpurgeable()
            done = len(applied.done)
            if done >= LARGE:
                with set_aside() if done >= HUGE else nullcontext():
                    entry = await in_thread(encode_entry, applied)
            else:
                entry = encode_entry(applied)
        except Exception as error:
            self._state = getattr(error, "base", state)
            self.expired |= isinstance(error, SnapshotExpired)
            self._outcomes.append(_Outcome(message, None, error))
            return
        finally:
            APPLYING.reset(token)
        self._state = applied.after
        self._instant = applied.instant
        self._entries.append(entry)
        self._txs.append(applied.tx)
        self._parents = message.parents
        self._outcomes.append(_Outcome(message, applied, None))
        self.size += len(entry)
        if applied.bulk or applied.reblocked or applied.purged is not None:
            self.bulk = applied
        if applied.purged is not None:
            self._purged = len(self._entries) - 1

    async def publish(self) -> None:
        """Make the group durable, if there is anything to write. Raises what ``Branch`` raises."""
        branch = self._branch
        self._before = branch.committer.commit
        if not self._entries:
            # Nothing to write; the state may still be a fresh copy of the old one.
            branch.snapshot = self._state
            return
        sent = Sent(self._entries[self._purged or 0 :], self._txs, self._parents)
        if self.bulk is not None:
            self._ids = await branch.publish_trees(
                sent, self._state, self._instant, anew=self._purged is not None
            )
            if self.bulk.after is self._state:
                # The report must not keep alive what now lies in the store.
                self.bulk.after = branch.snapshot
        else:
            self._ids = await branch.publish(sent, self._state)
        branch.instant = self._instant

    def __len__(self) -> int:
        return len(self._outcomes)

    async def on_what_is_there(self) -> Group:
        """Return the group applied anew, since what it needs of an old state was collected."""
        with suppress(Exception):  # what is wrong shows when it is published
            await self._branch.refresh()
            return await self.again()
        return self

    async def again(self) -> Group:
        """Return the same messages applied to what the branch is now."""
        group = Group(self._branch, self._wrap)
        for message in self._messages:
            await group.apply(message)
        return group

    def answer(self) -> list[Transact]:
        """Reply to everyone after the publication; return those who succeeded."""
        before, last, ids = self._before, self._branch.committer.commit, self._ids
        left = len(ids)
        committed = []
        for message, applied, error, answer in self._outcomes:
            if applied is not None:
                left -= 1
                commit = Commit(ids[~left], (before.id, *message.parents)) if left else last
                message.succeed(applied, before, commit)
                before = commit
                committed.append(message)
            elif answer is not None:
                message.repeat(answer)
            else:
                assert error is not None
                message.fail(error)
        return committed

    def fail(self, make: Callable[..., BaseException], on: Any) -> None:
        """Reply that nothing came of it: to each its own error, or ``make(on)``."""
        for message, _, error, _ in self._outcomes:
            message.fail(make(on) if error is None else error)
