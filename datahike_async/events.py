"""Life in logs: every event that is told, where, how loud, and with which fields.

A fixed vocabulary, which docs/reference/logging.md shows to users. A record's message is the event
and its fields as ``name=value``; ``record.event`` and ``record.fields`` are the same as data. From
INFO on no field holds what users stored or asked for, and none ever holds a secret. Knows logging
and nothing of ours.
"""

from __future__ import annotations

import logging
from typing import Any, Final

__all__ = ["EVENTS", "Event"]

EVENTS: Final[dict[str, Event]] = {}
"""Every event by its name."""


class Event:
    """Something that happens in a database's life; call it with its fields when it does."""

    __slots__ = ("_logger", "fields", "level", "name")

    def __init__(self, room: str, level: int, name: str, *fields: str) -> None:
        self._logger = logging.getLogger(f"datahike_async.{room}")
        self.level = level
        self.name = name
        self.fields = fields
        EVENTS[name] = self

    @property
    def logger(self) -> str:
        """The name of the logger that it is told on."""
        return self._logger.name

    @property
    def wanted(self) -> bool:
        """Whether anybody listens: for fields that cost something to make."""
        return self._logger.isEnabledFor(self.level)

    def __call__(self, *, trace: BaseException | None = None, **fields: Any) -> None:
        """Tell that it happened, with its fields, and with the traceback of ``trace``."""
        if self._logger.isEnabledFor(self.level):
            told = " ".join(f"{name}={fields[name]}" for name in self.fields)
            self._logger.log(
                self.level,
                "%s: %s",
                self.name,
                told,
                exc_info=trace,
                extra={"event": self.name, "fields": fields},
                stacklevel=2,
            )


_D, _I, _W, _E = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

CREATED: Final = Event("lifecycle", _I, "created", "branch", "store")
DELETED: Final = Event("lifecycle", _I, "deleted", "store")
OPENED: Final = Event("connection", _I, "opened", "branch", "store", "tx", "seconds")
CLOSED: Final = Event("connection", _I, "closed", "branch", "store", "tx")
CONNECTED: Final = Event("connection", _D, "connected", "branch", "connections")
RELEASED: Final = Event("connection", _D, "released", "branch", "connections")
COMMITTED: Final = Event("transactor", _D, "committed", "branch", "tx", "transactions", "seconds")
CONFLICT: Final = Event("transactor", _D, "conflict", "branch", "transactions", "retries")
RERUN: Final = Event("transactor", _D, "rerun", "branch", "transactions", "basis")
NO_TURN: Final = Event("transactor", _D, "no turn", "branch", "error")
COLLECTED: Final = Event("collection", _I, "collected", "epoch", "freed", "bytes", "kept")
COLLECT_FAILED: Final = Event("collection", _W, "collection failed", "branch", "error")
PIN_LOST: Final = Event("collection", _W, "pin not renewed", "pin", "error")
REFRESHED: Final = Event("transactor", _D, "refreshed", "branch", "tx", "before")
FLUSHED: Final = Event(
    "transactor", _D, "flushed", "branch", "tx", "rows", "bytes", "runs", "waiting"
)
FLUSH_FAILED: Final = Event("transactor", _W, "flush failed", "branch", "error")
WAITED: Final = Event("transactor", _I, "commits waited", "branch", "rows", "seconds")
BRANCH_GONE: Final = Event("transactor", _I, "branch gone", "branch")
WRITER_CLOSED: Final = Event("transactor", _E, "writer closed", "branch", "error")
SLOW_QUERY: Final = Event("query", _I, "slow query", "seconds", "query")
