"""Messages to the actor, and the reply each of them carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from datahike_async.konserve.loops import Signal
from datahike_async.storage.log.records import Commit
from datahike_async.tx.answers import Answer
from datahike_async.tx.apply import Applied
from datahike_async.tx.bulk import LEAST
from datahike_async.tx.forms import is_large
from datahike_async.tx.table import Table

__all__ = ["Refresh", "Renew", "Request", "Transact"]


class Transact:
    """A transaction to be run. ``done`` is set once ``applied`` or ``error`` is there.

    ``commit`` is what it became, ``before`` the commit that it was applied to. ``basis`` is the
    transaction it must be applied on, ``key`` its idempotency key, ``parents`` what its commit has
    for parents beside the one before, ``foreign`` whether it may state ids of other branches' new
    entities; ``answer`` stands for ``applied`` where the key was known. ``tempids`` are kept with
    the key for those of this transaction, where it is one made again. ``rest`` are transactions
    that follow this one in one publication, each with a reply of its own: all of them, or none.
    """

    __slots__ = (
        "answer",
        "applied",
        "basis",
        "before",
        "commit",
        "done",
        "error",
        "foreign",
        "key",
        "parents",
        "rest",
        "tempids",
        "tx_data",
        "tx_meta",
    )

    def __init__(
        self,
        tx_data: Any,
        tx_meta: Mapping[Any, Any] | None,
        basis: int | None = None,
        key: str | None = None,
        parents: tuple[UUID, ...] = (),
        foreign: bool = False,
        rest: Sequence[Transact] = (),
        tempids: Mapping[Any, int] | None = None,
    ) -> None:
        self.tx_data = tx_data
        self.tx_meta = tx_meta
        self.basis = basis
        self.key = key
        self.parents = parents
        self.foreign = foreign or bool(parents)
        self.rest = rest
        self.tempids = tempids
        self.done = Signal()
        self.applied: Applied | None = None
        self.answer: Answer | None = None
        self.before: Commit | None = None
        self.commit: Commit | None = None
        self.error: BaseException | None = None

    @property
    def is_bulk(self) -> bool:
        """Whether it states so much that it may go past the memtable."""
        data = [message.tx_data for message in (self, *self.rest)]
        return any(isinstance(x, Table | list | tuple) and is_large(x, LEAST) for x in data)

    def succeed(self, applied: Applied, before: Commit, commit: Commit) -> None:
        """Reply that the transaction is durable."""
        self.applied = applied
        self.before = before
        self.commit = commit
        self.done.set()

    def repeat(self, answer: Answer) -> None:
        """Reply what the transaction answered when it was sent for the first time."""
        self.answer = answer
        self.done.set()

    def fail(self, error: BaseException) -> None:
        """Reply that it is not."""
        self.error = error
        self.done.set()


class Request:
    """Something to be done beside transactions; ``done`` is set once it is, or ``error`` there."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = Signal()
        self.error: BaseException | None = None

    def answer(self, error: BaseException | None) -> None:
        """Reply; None where all went well."""
        self.error = error
        self.done.set()


class Refresh(Request):
    """A request to look at the store's head."""

    __slots__ = ()


class Renew(Request):
    """A request to write anew what the branch has in some blobs, which may be removed then.

    ``compact`` asks for all runs to be merged into the indexes, too; ``anew`` for nothing to lead
    to the checkpoints before, which is so where there are blobs.
    """

    __slots__ = ("anew", "blobs", "compact")

    def __init__(self, blobs: frozenset[str], *, compact: bool = False, anew: bool = False) -> None:
        super().__init__()
        self.blobs = blobs
        self.compact = compact
        self.anew = anew
