"""Servers that accept conditional writes and ignore the condition are refused, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import datahike_async as d
from tests.servers.programs import S3Server
from tests.servers.s3 import config_on

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["rclone", "s3rver"])
def careless(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    return servers(request.param)


async def test_a_database_is_not_created_there(careless: S3Server) -> None:
    config = {"store": config_on(careless)}
    with pytest.raises(d.FencingUnsupported, match="does not honour conditional writes") as caught:
        await d.create_database(config)
    assert careless.endpoint in str(caught.value)
    assert ":unsafe-unfenced?" in str(caught.value)
    assert not await d.database_exists(config)
