"""Stores on real servers that speak S3, for all tests of the backend.

By default each server is asked from one loop, so that either has been used by all tests; the long
run asks each from both.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.programs import S3Server
from tests.servers.s3 import HONEST, config_on

FOLDER = Path(__file__).parent
LATER = [{"moto", "trio"}, {"ministack", "asyncio"}]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == FOLDER and hasattr(item, "callspec"):
            params = item.callspec.params
            if {params.get("server"), params.get("anyio_backend")} in LATER:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=HONEST)
def server(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    return servers(request.param)


@pytest.fixture
def store_config(server: S3Server) -> dict[str, Any]:
    return {**config_on(server), "id": str(uuid.uuid4())}
