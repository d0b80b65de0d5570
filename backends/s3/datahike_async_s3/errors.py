"""What a failed request means: its error becomes one of konserve's.

The question that matters is whether a write may have happened. A refusal says no. A lost connection
or a server's failure says nothing, and then a conditional write has an unknown outcome.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from botocore import exceptions as b

from datahike_async.konserve import (
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreDenied,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    StoreUnavailable,
    UnsupportedOperation,
)

__all__ = ["is_missing", "is_unchanged", "still_there", "translated"]

_THROTTLED: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
)
_FULL: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
    }
)
_NOT_SENT: Final = (b.EndpointConnectionError, b.ProxyConnectionError, b.SSLError)
_NO_CREDENTIALS: Final = (b.NoCredentialsError, b.CredentialRetrievalError, b.NoAuthTokenError)


def _status(error: b.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: b.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: b.ClientError) -> bool:
    """Whether there is no such object. (No such bucket is another matter.)"""
    return _code(error) in ("NoSuchKey", "404", "NotFound") or (
        _status(error) == 404 and _code(error) not in ("NoSuchBucket", "NoSuchUpload")
    )


def is_unchanged(error: b.ClientError) -> bool:
    """Whether a conditional read found what the caller has."""
    return _status(error) == 304


def still_there(what: str, error: Mapping[str, Any]) -> KonserveError:
    """Return the error for an object that a deletion of many left: what the server says of it."""
    code = str(error.get("Code", ""))
    text = f"{what}: {error.get('Key')} is still there: {code}: {error.get('Message')}"
    return StoreDenied(text) if code in _DENIED else StoreUnavailable(text)


@contextmanager
def translated(what: str, *, writes: bool = False, expected: object = None) -> Iterator[None]:
    """Turn the driver's errors that leave the block into konserve's.

    ``what`` names the request and its place. ``writes`` says that it changes something, so that a
    failure of unknown effect is OutcomeUnknown; ``expected`` is the condition it was sent with.
    """
    try:
        yield
    except KonserveError:
        raise
    except b.ClientError as error:
        raise _refused(error, what, writes, expected) from error
    except _NO_CREDENTIALS as error:
        raise StoreConfigError(
            f"{what}: no credentials were found; give access-key and secret, a profile, or set the "
            "environment up."
        ) from error
    except _NOT_SENT as error:
        raise StoreUnavailable(f"{what}: the server cannot be reached: {_short(error)}") from error
    except (b.HTTPClientError, b.ResponseStreamingError, OSError) as error:
        raise _lost(what, writes, _short(error)) from error
    except b.BotoCoreError as error:
        raise StoreConfigError(f"{what}: {error}") from error
    except Exception as error:
        if isinstance(error.__context__, ssl.SSLError):
            # The driver fails to make its own error of one in the middle of a request.
            raise _lost(what, writes, _short(error.__context__)) from error
        # The transport's own, which the driver lets through while a body is read.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise _lost(what, writes, _short(error)) from error
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise StoreClosed("This store was released; connect to it again.") from error
        raise


def _short(error: BaseException) -> str:
    inner: Any = getattr(error, "kwargs", {}).get("error") or error
    return f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__


def _lost(what: str, writes: bool, why: str) -> KonserveError:
    if writes:
        return OutcomeUnknown(f"{what}: the connection was lost before the answer came ({why}).")
    return StoreUnavailable(f"{what}: the connection was lost ({why}).")


def _refused(error: b.ClientError, what: str, writes: bool, expected: object) -> KonserveError:
    code, status = _code(error), _status(error)
    message = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    if status == 412 or (expected is not None and is_missing(error)):
        return RevisionMismatch(f"{what}: the revision is not {expected}.", expected=expected)
    if code == "NoSuchBucket":
        return StoreNotFound(f"{what}: the bucket does not exist.")
    if code in _FULL or status == 507:
        return StoreFull(f"{what}: {code}: {message}.")
    if code in _DENIED or status in (401, 403):
        return StoreDenied(
            f"{what}: the server refused with {code or status}: {message}. Check the credentials, "
            "the bucket's policy and this machine's clock."
        )
    if code == "EntityTooLarge":
        return UnsupportedOperation(f"{what}: the value is too large for this server.")
    if status == 501 or code == "NotImplemented":
        return UnsupportedOperation(f"{what}: the server answered {status} {code}: {message}.")
    if status >= 500 or status in (408, 409, 429) or code in _THROTTLED or code == "RequestTimeout":
        # Said by the server or by something in front of it, perhaps after the write.
        if writes:
            return OutcomeUnknown(f"{what}: the server answered {status} {code}: {message}.")
        return StoreUnavailable(f"{what}: the server answered {status} {code}: {message}.")
    return StoreIOError(f"{what}: the server refused with {status} {code}: {message}.")
