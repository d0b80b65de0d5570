"""The configuration of an S3 store, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from datahike_async.konserve import StoreConfigError

__all__ = ["KEYS", "PUBLIC", "Settings", "settings_of"]

KEYS: Final = frozenset(
    {
        "bucket",
        "prefix",
        "region",
        "endpoint",
        "endpoint-override",
        "path-style",
        "path-style?",
        "access-key",
        "secret",
        "session-token",
        "profile",
        "create-bucket",
        "requests-at-once",
        "multipart-bytes",
        "timeout",
        "retry-seconds",
        "x-ray?",
    }
)

PUBLIC: Final = (KEYS - {"access-key", "secret", "session-token"}) | {
    "protocol",
    "hostname",
    "port",
}
"""What may be seen: all but credentials, and the parts of ``endpoint-override``."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,254}")
_LEAST_PART: Final = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a store lies and how to talk to it; ``prefix`` ends with a slash.

    ``timeout`` (seconds) is for one request to make progress, ``retry_seconds`` for all attempts
    at one that may be repeated. ``multipart_bytes`` is the size from which a value goes in parts.
    """

    bucket: str
    prefix: str
    region: str | None = None
    endpoint: str | None = None
    path_style: bool = False
    access_key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    create_bucket: bool = False
    requests_at_once: int = 64
    multipart_bytes: int = 64 * 1024 * 1024
    timeout: float = 20.0
    retry_seconds: float = 30.0

    @property
    def place(self) -> str:
        """Where the store lies, for messages."""
        return self.place_of("")

    def place_of(self, name: str) -> str:
        """Where an object of the store lies, for messages."""
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.bucket}/{self.prefix}{name}{at}"


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings of a configuration. Raises StoreConfigError naming key and value."""
    if config.get("x-ray?"):
        raise StoreConfigError('"x-ray?" is not supported; leave it out.', key="x-ray?")
    endpoint = _endpoint(config)
    made = Settings(
        bucket=_bucket(config.get("bucket")),
        prefix=_prefix(config),
        region=_text(config, "region"),
        endpoint=endpoint,
        # Most servers that are not Amazon's know buckets by path alone.
        path_style=_flag(config, "path-style", "path-style?", default=endpoint is not None),
        access_key=_text(config, "access-key"),
        secret=_text(config, "secret"),
        session_token=_text(config, "session-token"),
        profile=_text(config, "profile"),
        create_bucket=_flag(config, "create-bucket", default=False),
        requests_at_once=_whole(config, "requests-at-once", 64, 1, 1024),
        multipart_bytes=_whole(config, "multipart-bytes", 64 << 20, _LEAST_PART, 5 << 30),
        timeout=_seconds(config, "timeout", 20.0),
        retry_seconds=_seconds(config, "retry-seconds", 30.0),
    )
    if (made.access_key is None) != (made.secret is None):
        raise StoreConfigError(
            'An S3 store takes "access-key" and "secret" together, or neither: then the usual '
            "chain of environment, files and instance role is asked."
        )
    return made


def _bucket(value: Any) -> str:
    if not isinstance(value, str) or not _BUCKET.fullmatch(value):
        raise StoreConfigError(
            f'An S3 store needs a "bucket", a name of two characters or more, not {value!r}.'
        )
    return value


def _prefix(config: Mapping[str, Any]) -> str:
    value = config.get("prefix")
    if value is None:
        id_ = config.get("id")
        if not isinstance(id_, UUID):
            raise StoreConfigError(
                'An S3 store needs a "prefix" of its own in the bucket, or an "id", which then '
                "is its prefix.",
                error=":missing-id",
            )
        return f"{id_}/"
    if not isinstance(value, str) or not value.strip("/") or len(value) > 512:
        raise StoreConfigError(
            f'The "prefix" of an S3 store is a path within the bucket, not {value!r}.'
        )
    return value.strip("/") + "/"


def _endpoint(config: Mapping[str, Any]) -> str | None:
    value = config.get("endpoint")
    override = config.get("endpoint-override")
    if value is None and isinstance(override, Mapping):
        plain = {str(getattr(k, "text", k)).removeprefix(":"): v for k, v in override.items()}
        protocol = str(getattr(plain.get("protocol"), "text", plain.get("protocol") or "https"))
        port = f":{plain['port']}" if plain.get("port") else ""
        value = f"{protocol.removeprefix(':')}://{plain.get('hostname')}{port}"
    elif override is not None:
        raise StoreConfigError('Give "endpoint" or a map as "endpoint-override", not both.')
    if value is None:
        return None
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise StoreConfigError(
            'The "endpoint" of an S3 store is a URL such as "http://localhost:9000"; the one given '
            "is none."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not shown: there may be a secret in it.
        raise StoreConfigError(
            'The "endpoint" of an S3 store is scheme, host and port alone; give credentials as '
            '"access-key" and "secret".'
        )
    return str(value).rstrip("/")


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is None:
        return None
    value = getattr(value, "text", value)
    if not isinstance(value, str) or not value:
        # The value is not shown: it may be a secret in the wrong place.
        raise StoreConfigError(f'The "{key}" of an S3 store is a string.', key=key)
    return value


def _flag(config: Mapping[str, Any], *keys: str, default: bool) -> bool:
    for key in keys:
        value = config.get(key)
        if value is not None:
            if not isinstance(value, bool):
                raise StoreConfigError(f'"{key}" is true or false, not {value!r}.', key=key)
            return value
    return default


def _whole(config: Mapping[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise StoreConfigError(
            f'"{key}" is a whole number from {least} to {most}, not {value!r}.', key=key
        )
    return value


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 3600:
        raise StoreConfigError(f'"{key}" is a number of seconds, not {value!r}.', key=key)
    return float(value)
