"""What a connection asks of whoever writes its branch.

The transactor of this event loop is one. A connection knows no more of it than this, so that one
elsewhere can stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from datahike_async.config import Config
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.log.records import Commit
from datahike_async.transactor.limits import Limits
from datahike_async.transactor.messages import Transact

__all__ = ["Subscriber", "Writer"]

Subscriber = Callable[[list[Transact]], None]
"""Told of transactions once they are committed, in order."""


class Writer(Protocol):
    """The writer of one branch. ``subscribers`` are told what it commits, by their keys."""

    config: Config
    limits: Limits
    subscribers: dict[object, Subscriber]

    @property
    def snapshot(self) -> Snapshot:
        """The newest durable state."""
        ...

    @property
    def commit(self) -> Commit:
        """The newest commit."""
        ...

    async def send(self, message: Transact) -> Transact:
        """Send a transaction and wait until it is durable or refused, with those that follow it.

        Raises the transaction's error, WriterError.
        """
        ...

    async def refresh(self) -> None:
        """Take over what other writers have published by now."""
        ...
