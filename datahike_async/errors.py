"""Errors: one root, named by what the caller can do.

Every error carries ``data``, a dict whose ``":error"`` entry is Datahike's keyword as a string
(``":transact/schema"``), for callers that dispatch on it. ``retryable`` says whether the same call
may succeed later without a change. Whose mistake it is says the class: what derives from
:class:`BadInput` is the caller's. docs/reference/errors.md is the page for users. This module
imports nothing of ours.

:func:`shown` is how a message names a value of the caller's, whatever that may be.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "ArgumentError",
    "BadInput",
    "ConfigError",
    "ConnectionClosed",
    "CorruptData",
    "DatabaseExists",
    "DatabaseNotFound",
    "DatahikeError",
    "EdnError",
    "FencingUnsupported",
    "HeadConflict",
    "MergeConflict",
    "MissingLibrary",
    "NameNotFound",
    "NameTaken",
    "NotLoaded",
    "QueryCanceled",
    "QueryError",
    "SnapshotExpired",
    "StorageError",
    "TransactionError",
    "TransactionOutcomeUnknown",
    "UnsupportedFormat",
    "WriterError",
    "WriterFenced",
    "WrongEventLoop",
    "shown",
]

_SHOWN: Final = 160
_COLLECTIONS: Final = frozenset({list, tuple, dict, set, frozenset})


def _cut(value: Any, left: list[int]) -> Any:
    """Return a value without what would not be shown: all of a million elements takes long."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value[: _SHOWN + 1]
    if kind not in _COLLECTIONS:
        return value
    items = []
    for item in value.items() if kind is dict else value:
        if left[0] < 0:
            break
        left[0] -= 1
        items.append(_cut(item, left))
    return kind(items)


def shown(value: object) -> str:
    """Return the repr of a value, cut short; its type where it cannot be printed.

    A value may be nested too deeply, be an int of more digits than Python prints, or have a repr
    that fails; the error that names it must not fail over it.
    """
    try:
        text = repr(_cut(value, [_SHOWN]))
    except Exception:
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class DatahikeError(Exception):
    """Root of every error that this library raises on purpose.

    ``error`` is Datahike's keyword (``":transact/cas"``); further keyword arguments become entries
    of ``data`` under their name with a leading colon and ``_`` turned into ``-``.
    """

    retryable: bool = False

    def __init__(self, message: str, *, error: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.data: dict[str, Any] = {}
        if error is not None:
            self.data[":error"] = error
        for key, value in data.items():
            self.data[":" + key.rstrip("_").replace("_", "-")] = value

    @property
    def error(self) -> str | None:
        """Datahike's keyword for this error, as a string, or None where it has none."""
        return self.data.get(":error")


class BadInput(DatahikeError):
    """What was given is at fault: text, data or arguments. Nothing was written.

    A web application answers these with 4xx and all others with 5xx. ::

        try:
            await conn.transact([{":person/nmae": "Ada"}])
        except d.BadInput as error:
            status, told = 400, str(error)
        assert "Did you mean :person/name?" in told
    """


class ArgumentError(BadInput, TypeError, ValueError):
    """An argument is not what the function takes, before any database is asked.

    Also a TypeError and a ValueError, as such mistakes are in the rest of Python.
    """

    def __init__(self, message: str, *, error: str = ":argument/invalid", **data: Any) -> None:
        super().__init__(message, error=error, **data)


class MissingLibrary(DatahikeError, ImportError):
    """An optional library is not installed; the message says what to install."""

    def __init__(self, message: str, *, error: str = ":library/missing", **data: Any) -> None:
        super().__init__(message, error=error, **data)


class ConfigError(DatahikeError):
    """A configuration names an unknown key, a bad value, or does not match the database."""

    def __init__(self, message: str, *, error: str | None = None, **data: Any) -> None:
        super().__init__(message, error=error or ":config/invalid", **data)


class FencingUnsupported(ConfigError):
    """The store accepts conditional writes and ignores the condition: writers would collide."""


class DatabaseExists(DatahikeError):
    """``create_database`` was called for a database that is already there."""


class DatabaseNotFound(DatahikeError):
    """There is no store or no database at this configuration."""


class NameTaken(BadInput, DatabaseExists):
    """A branch or a tag is to be made under a name that one has."""


class NameNotFound(BadInput, DatabaseNotFound):
    """What was named is no branch, tag, commit or transaction of the database."""


class ConnectionClosed(DatahikeError):
    """The connection was released; open a new one with ``connect``."""


class WrongEventLoop(DatahikeError, RuntimeError):
    """A connection, or a value that has to fetch, was used away from its event loop or process."""

    def __init__(
        self, message: str, *, error: str = ":connection/wrong-event-loop", **data: Any
    ) -> None:
        super().__init__(message, error=error, **data)


class NotLoaded(BadInput):
    """What is asked of an entity was not read yet; the message names the call to await first."""

    def __init__(self, message: str, *, error: str = ":entity/not-loaded", **data: Any) -> None:
        super().__init__(message, error=error, **data)


class EdnError(BadInput):
    """Text is not well-formed EDN. ``line`` and ``column`` count from 1."""

    def __init__(
        self,
        message: str,
        *,
        line: int = 0,
        column: int = 0,
        error: str = ":edn/syntax",
        **data: Any,
    ) -> None:
        where = f"line {line}, column {column}: " if line else ""
        super().__init__(where + message, error=error, line=line, column=column, **data)
        self.line = line
        self.column = column


class TransactionError(BadInput):
    """The transaction was refused; nothing of it was written."""


class MergeConflict(TransactionError):
    """Two branches do not agree; nothing was written. ``report`` says on what.

    It is the value that ``merge_preview`` returns: its ``conflicts`` are data.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str = ":merge/conflict",
        report: Any = None,
        **data: Any,
    ) -> None:
        super().__init__(message, error=error, **data)
        self.report = report


class QueryError(BadInput):
    """A query, rule or pull pattern is malformed, or asks for what cannot be answered."""


class QueryCanceled(DatahikeError):
    """A query was stopped at its timeout or at a budget; ``data[":budget"]`` says at which.

    It is no :class:`BadInput`: how long a query takes and how much it makes depends on what is
    stored and on what else the machine does. ``retryable`` where it was the time.
    """

    def __init__(self, message: str, *, error: str = ":query/canceled", **data: Any) -> None:
        super().__init__(message, error=error, **data)
        self.retryable = data.get("budget") == "seconds"


class WriterError(DatahikeError):
    """The writer of a branch could not do what was asked."""


class WriterFenced(WriterError):
    """Another writer took over the branch; this exclusive writer is closed."""


class HeadConflict(WriterError):
    """Writers that take no turns kept winning the race for the head; nothing was written."""

    retryable = True


class TransactionOutcomeUnknown(WriterError):
    """The store did not say whether the transaction became durable. Read before retrying."""


class StorageError(DatahikeError):
    """The store failed or holds something that cannot be used."""


class CorruptData(StorageError):
    """Stored bytes do not match their checksum or their format."""


class UnsupportedFormat(StorageError):
    """The store was written by a newer version of this library."""


class SnapshotExpired(StorageError):
    """A node of this snapshot was collected; take a new snapshot."""
