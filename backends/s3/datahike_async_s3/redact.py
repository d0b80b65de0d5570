"""Keep credentials out of the driver's debug log, which prints the headers of each request."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["redact"]

_HIDDEN: Final = "***"
_LOGGERS: Final = ("botocore.auth", "botocore.endpoint", "botocore.httpsession", "botocore.hooks")
_secrets: set[str] = set()


def _redacted(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    # A copy, made in one step, as other threads add to them. The longest come first, for a secret
    # may begin with another one.
    known = sorted(_secrets, key=len, reverse=True)
    if any(secret in text for secret in known):
        for secret in known:
            text = text.replace(secret, _HIDDEN)
        record.msg, record.args = text, None
    return True


def redact(*secrets: str | None) -> None:
    """Hide these texts from the driver's log from now on, in this process."""
    _secrets.update(secret for secret in secrets if secret)
    for name in _LOGGERS:
        # Added once, however often: a logger knows its filters.
        logging.getLogger(name).addFilter(_redacted)
