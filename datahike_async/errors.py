"""Errors: one root, named by what the caller can do.

Every error carries ``data``, a dict whose ``":error"`` entry is Datahike's keyword as a string
(``":transact/schema"``), for callers that dispatch on it. ``retryable`` says whether the same call
may succeed later without a change. This module imports nothing of ours.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConfigError",
    "ConnectionClosed",
    "CorruptData",
    "DatabaseExists",
    "DatabaseNotFound",
    "DatahikeError",
    "EdnError",
    "FencingUnsupported",
    "HeadConflict",
    "QueryError",
    "SnapshotExpired",
    "StorageError",
    "TransactionError",
    "TransactionOutcomeUnknown",
    "UnsupportedFormat",
    "WriterError",
    "WriterFenced",
]


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


class ConfigError(DatahikeError):
    """A configuration names an unknown key, a bad value, or does not match the database."""


class FencingUnsupported(ConfigError):
    """The store accepts conditional writes and ignores the condition: writers would collide."""


class DatabaseExists(DatahikeError):
    """``create_database`` was called for a database that is already there."""


class DatabaseNotFound(DatahikeError):
    """There is no store or no database at this configuration."""


class ConnectionClosed(DatahikeError):
    """The connection was released; open a new one with ``connect``."""


class EdnError(DatahikeError):
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


class TransactionError(DatahikeError):
    """The transaction was refused; nothing of it was written."""


class QueryError(DatahikeError):
    """A query, rule or pull pattern is malformed or cannot be answered."""


class WriterError(DatahikeError):
    """The writer of a branch could not do what was asked."""


class WriterFenced(WriterError):
    """Another writer took over the branch; this exclusive writer is closed."""


class HeadConflict(WriterError):
    """Other writers kept winning the race for the head; nothing was written."""

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
