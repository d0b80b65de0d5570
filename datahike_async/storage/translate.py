"""The border to konserve: its errors become ours here, with the keyword that Datahike uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datahike_async.errors import (
    ConfigError,
    ConnectionClosed,
    CorruptData,
    DatabaseExists,
    DatabaseNotFound,
    DatahikeError,
    FencingUnsupported,
    HeadConflict,
    StorageError,
    TransactionOutcomeUnknown,
    UnsupportedFormat,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreNotFound,
    UnsupportedEncoding,
    UnsupportedOperation,
)
from datahike_async.konserve.errors import (
    FencingUnsupported as TheirFencingUnsupported,
)

__all__ = ["konserve_errors", "translate"]

# The first class that fits counts.
_CLASSES: tuple[tuple[type[KonserveError], type[DatahikeError], str | None], ...] = (
    (CorruptValue, CorruptData, None),
    (UnsupportedEncoding, UnsupportedFormat, ":db-was-written-with-newer-konserve-version"),
    (StoreNotFound, DatabaseNotFound, ":backend-does-not-exist"),
    (StoreExists, DatabaseExists, ":db-already-exists"),
    (StoreConfigError, ConfigError, None),
    (TheirFencingUnsupported, FencingUnsupported, None),
    (UnsupportedOperation, ConfigError, None),
    (StoreClosed, ConnectionClosed, ":connection-has-been-released"),
    (OutcomeUnknown, TransactionOutcomeUnknown, None),
    (RevisionMismatch, HeadConflict, None),
)


def translate(error: KonserveError) -> DatahikeError:
    """Return our error for one of konserve's; it keeps the message, ``retryable`` and data."""
    cls: type[DatahikeError] = StorageError
    keyword = error.data.get("error")
    for theirs, ours, default in _CLASSES:
        if isinstance(error, theirs):
            cls, keyword = ours, keyword or default
            break
    text = str(error)
    if cls is DatabaseNotFound:
        text += " connect(config, create=True) does so; on the command line, transact --create."
    made = cls(text, error=keyword)
    for key, value in error.data.items():
        if key != "error":
            made.data.setdefault(":" + key.replace("_", "-"), value)
    made.retryable = made.retryable or error.retryable
    made.__cause__ = error
    return made


@contextmanager
def konserve_errors() -> Iterator[None]:
    """Translate konserve's errors that leave the block."""
    try:
        yield
    except KonserveError as error:
        raise translate(error) from error
