"""Stores on real servers that speak S3, for all tests of the backend."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.programs import S3Server
from tests.servers.s3 import HONEST, config_on


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=HONEST)
def server(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    return servers(request.param)


@pytest.fixture
def store_config(server: S3Server) -> dict[str, Any]:
    return {**config_on(server), "id": str(uuid.uuid4())}
