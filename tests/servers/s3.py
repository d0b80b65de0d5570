"""Configurations of S3 stores on the servers of the tests."""

from __future__ import annotations

import uuid
from typing import Any

from tests.servers.programs import S3Server

HONEST = ["moto", "ministack"]


def config_on(server: S3Server, endpoint: str | None = None) -> dict[str, Any]:
    """Return the configuration of a store of its own on a server, or on a proxy before it."""
    return {
        "backend": "s3",
        "bucket": "databases",
        "create-bucket": True,
        "prefix": f"tests/{uuid.uuid4().hex}",
        "endpoint": endpoint or server.endpoint,
        "region": server.region,
        "access-key": server.access_key,
        "secret": server.secret_key,
    }
