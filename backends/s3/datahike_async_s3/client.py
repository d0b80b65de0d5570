"""Opening a client: one connection pool that runs on asyncio and on trio, and sends once.

Retries are the store's: only it knows which request may be sent again. Importing the driver and
reading its models takes long, so this module is imported and models are read in a worker thread.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from anyio.lowlevel import RunVar
from botocore.loaders import create_loader

from datahike_async.konserve import in_thread
from datahike_async_s3.redact import redact
from datahike_async_s3.settings import Settings

__all__ = ["open_client"]

_SPARE_CONNECTIONS: Final = 8
"""For conditional writes and reads of heads, which wait for no other request."""


_sessions: RunVar[dict[str | None, AioSession]] = RunVar("datahike_async_s3.sessions")
"""One a profile and event loop: credentials that are renewed have a lock of the loop's."""


@cache
def _loader(data_path: str | None) -> Any:
    # One for all loops: it keeps the service's model.
    return create_loader(data_path)


def _session(profile: str | None) -> AioSession:
    try:
        known = _sessions.get()
    except LookupError:
        known = {}
        _sessions.set(known)
    if profile not in known:
        known[profile] = AioSession(profile=profile)
    return known[profile]


def _read(session: AioSession) -> None:
    """Let a session read its files."""
    session.get_scoped_config()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))


async def open_client(settings: Settings) -> Any:
    """Return an open client; end it with ``await client.__aexit__(None, None, None)``.

    Raises botocore's errors, among them those of missing or partial credentials.
    """
    config = AioConfig(
        http_session_cls=HttpxSession,
        warm_up_loader_caches=True,
        # One attempt: a put that is sent again by itself would lose against its own first sending.
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=settings.timeout,
        read_timeout=settings.timeout,
        max_pool_connections=settings.requests_at_once + _SPARE_CONNECTIONS,
        connector_args={
            "keepalive_timeout": 30,
            "write_timeout": settings.timeout,
            "pool_timeout": settings.timeout,
        },
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        # Every value has a checksum of ours; look-alikes stumble over those in the trailer.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    redact(settings.access_key, settings.secret, settings.session_token)
    region = settings.region
    if region is None and settings.endpoint is not None:
        region = "us-east-1"
    session = _session(settings.profile)
    await in_thread(_read, session)
    made = session.create_client(
        "s3",
        region_name=region,
        endpoint_url=settings.endpoint,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret,
        aws_session_token=settings.session_token,
        config=config,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return await made.__aenter__()
