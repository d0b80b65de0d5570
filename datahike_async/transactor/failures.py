"""The errors that the writer answers with. Each caller gets one of its own: tracebacks grow."""

from __future__ import annotations

from datahike_async.errors import (
    ConnectionClosed,
    DatahikeError,
    HeadConflict,
    StorageError,
    TransactionError,
    TransactionOutcomeUnknown,
    WriterError,
    WriterFenced,
)
from datahike_async.konserve.errors import KonserveError
from datahike_async.storage.translate import translate

__all__ = [
    "again",
    "as_ours",
    "closed",
    "conflict",
    "fenced",
    "loop_ended",
    "mismatch",
    "read_only",
    "shut_down",
    "unfinished",
    "unknown",
    "unpurgeable",
]

_FATAL = ":fatal-commit-error"


def as_ours(error: BaseException) -> DatahikeError:
    """Return an error of ours for whatever ended the writer."""
    if isinstance(error, DatahikeError):
        return error
    if isinstance(error, KonserveError):
        return translate(error)
    made = StorageError(f"The writer failed: {error!r}", error=_FATAL)
    made.__cause__ = error
    return made


def again(error: DatahikeError) -> DatahikeError:
    """Return a fresh error that says the same."""
    made = type(error)(str(error))
    made.data.update(error.data)
    made.__cause__ = error
    return made


def closed() -> ConnectionClosed:
    """Return the error for a call that the end of its connection overtook."""
    return ConnectionClosed(
        "The connection was released meanwhile.", error=":connection-has-been-released"
    )


def loop_ended() -> ConnectionClosed:
    """Return the error for what the end of the event loop overtook."""
    return ConnectionClosed(
        "The event loop of the connection ended before it was released.",
        error=":connection-has-been-released",
    )


def mismatch(expected: int, found: int) -> TransactionError:
    """Return the error for a transaction whose basis is not the state it came to."""
    # The keyword is ours: Datahike has no expected basis.
    return TransactionError(
        f"The transaction expects the database at transaction {expected}, and it is at {found}; "
        "nothing was written. Read again and decide anew.",
        error=":transact/basis-mismatch",
        expected=expected,
        found=found,
    )


def unpurgeable() -> TransactionError:
    """Return the error for a transaction that purges where commits are hashes."""
    return TransactionError(
        "Nothing was purged: this database was created with :crypto-hash?, so each commit is a "
        "hash of all before it, and none of that can be taken out. Load what may stay into a new "
        "database.",
        error=":transact/purge",
    )


def read_only(branch: str, wanted: bool) -> WriterError:
    """Return the error for a transaction where nothing may be written, as ``wanted`` or not."""
    # The keyword is ours: Datahike has no such connections.
    why = (
        "the connection was opened with read_only=True. Open another one to write"
        if wanted
        else "this process may not write where its store lies. Make the medium writable, and "
        "connect again"
    )
    return WriterError(
        f"Branch :{branch} can only be read here, and nothing was written: {why}.",
        error=":writer/read-only",
        branch=branch,
    )


def shut_down(cause: DatahikeError | None) -> WriterError:
    """Return the error for a transaction that comes after the writer closed itself."""
    made = WriterError(
        f"The writer is shut down: {cause} Nothing was written. Release all connections to this "
        "database and connect again.",
        error=":writer-shut-down",
    )
    made.__cause__ = cause
    return made


def unfinished(error: BaseException) -> TransactionOutcomeUnknown:
    """Return the error for a commit in the middle of which the writer failed."""
    made = TransactionOutcomeUnknown(
        f"The writer failed while it published the commit: {error!r} Connect again and read before "
        "you retry.",
        error=_FATAL,
    )
    made.__cause__ = error
    return made


def unknown(error: BaseException) -> TransactionOutcomeUnknown:
    """Return the error for a commit of which the store does not say whether it became durable."""
    made = TransactionOutcomeUnknown(
        "The store did not say whether the commit became durable, and its head could not be read "
        f"in time: {error} Connect again and read before you retry.",
        error=_FATAL,
    )
    made.__cause__ = error
    return made


def fenced(branch: str) -> WriterFenced:
    """Return the error for an exclusive writer that is not alone."""
    return WriterFenced(
        f"Another writer took over branch :{branch}, and :writer-ownership is :exclusive here; "
        "nothing was written. Connect again to go on from its state.",
        error=_FATAL,
        branch=branch,
    )


def conflict(branch: str) -> HeadConflict:
    """Return the error for a group that lost every race for the head."""
    return HeadConflict(
        f"Writers of branch :{branch} that do not take turns with this one were faster each time; "
        "nothing was written. Retry.",
        error=_FATAL,
        branch=branch,
    )
