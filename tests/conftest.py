"""Fixtures of the whole test suite: async tests run on asyncio and on trio, and never block them."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator

import blockbuster.blockbuster as blockbuster
import pytest
import trio.lowlevel


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _running_loop() -> object:
    # blockbuster asks asyncio whether a loop runs in this thread; trio's must count too.
    return True if trio.lowlevel.in_trio_run() else asyncio.get_running_loop()


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which our code makes a blocking call on the event loop."""
    if "anyio_backend" not in request.fixturenames or "may_block" in request.keywords:
        yield
        return
    seen = types.SimpleNamespace(get_running_loop=_running_loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster, "asyncio", seen)
        with blockbuster.blockbuster_ctx("datahike_async"):
            yield
