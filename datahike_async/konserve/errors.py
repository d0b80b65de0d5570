"""Errors of the key-value layer. Their root is separate: nothing behind the wall knows Datahike."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BadArgument",
    "CorruptValue",
    "FencingUnsupported",
    "KonserveError",
    "NotAnAppendLog",
    "OutOfTurn",
    "OutcomeUnknown",
    "RevisionMismatch",
    "StoreBusy",
    "StoreClosed",
    "StoreConfigError",
    "StoreDenied",
    "StoreExists",
    "StoreFull",
    "StoreIOError",
    "StoreNotFound",
    "StoreUnavailable",
    "UnknownBackend",
    "UnsupportedEncoding",
    "UnsupportedOperation",
    "shown",
]

_SHOWN = 160


def shown(value: object) -> str:
    """Return the repr of a value for a message, cut short; its type where it cannot be printed."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class KonserveError(Exception):
    """Root of the key-value layer's errors.

    ``retryable`` says whether the same call may succeed later; ``data`` holds details by name.
    """

    retryable: bool = False

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


class BadArgument(KonserveError, TypeError, ValueError, IndexError):
    """A key, a value, a path or an option is not what the call takes; nothing was written.

    Also what Python raises for such mistakes: a TypeError, a ValueError, an IndexError.
    """


class StoreConfigError(KonserveError):
    """A store configuration has an unknown key or a bad value."""


class UnknownBackend(StoreConfigError):
    """No backend is known under this name; the message says what is, or what to install."""


class StoreExists(KonserveError):
    """``create_store`` was called for a store that is already there."""


class StoreNotFound(KonserveError):
    """``connect_store`` was called for a store that is not there."""


class StoreClosed(KonserveError):
    """The store was released, or closed itself after an I/O error it cannot judge."""


class RevisionMismatch(KonserveError):
    """The key's revision is not the expected one; nothing was written.

    ``expected`` and ``found`` are revisions (``found`` is None where the backend does not say).
    """

    def __init__(self, message: str, *, expected: object = None, found: object = None) -> None:
        super().__init__(message, expected=expected, found=found)
        self.expected = expected
        self.found = found


class OutOfTurn(RevisionMismatch):
    """Another writer has the turn of this key and is about to change it; nothing was written."""


class OutcomeUnknown(KonserveError):
    """A write may or may not have become durable; read the key again before acting."""


class StoreDenied(KonserveError):
    """The store refused access: credentials or permissions. Nothing was written."""


class StoreFull(KonserveError):
    """No space (ENOSPC, EDQUOT). Nothing was published; the store stays usable."""

    retryable = True


class StoreBusy(KonserveError):
    """Another process kept the store's lock for longer than a caller waits; nothing was written.

    ``data`` has its ``pid`` and ``host``, where they are known.
    """

    retryable = True


class StoreIOError(KonserveError):
    """The medium failed (EIO or the like)."""


class StoreUnavailable(KonserveError):
    """The store did not take the request: throttled, or out of reach. Nothing was written."""

    retryable = True


class CorruptValue(KonserveError):
    """Stored bytes do not match their checksum or are no envelope of ours."""


class UnsupportedEncoding(KonserveError):
    """A value names a format version, serializer or compressor that is not known here."""


class UnsupportedOperation(KonserveError):
    """The backend does not declare the capability that this call needs."""


class NotAnAppendLog(KonserveError):
    """``append`` or ``log`` was called on a key that holds another kind of value."""


class FencingUnsupported(KonserveError):
    """The store accepts conditional writes but ignores the condition."""
