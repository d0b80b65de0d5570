"""Canaries: the two variants of an async test really run on two event loops."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest
import sniffio
import trio.lowlevel
from blockbuster import BlockingError

from datahike_async import env

pytestmark = pytest.mark.anyio


async def test_the_variant_runs_on_the_loop_it_names(anyio_backend: str) -> None:
    assert sniffio.current_async_library() == anyio_backend
    if anyio_backend == "trio":
        assert trio.lowlevel.in_trio_run()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
    else:
        assert not trio.lowlevel.in_trio_run()
        assert asyncio.get_running_loop().is_running()


def _called_by_us(call: Callable[[], object]) -> object:
    """Call with a frame of ours on the stack, which is what the detector looks for."""
    code = compile("result = call()", env.__file__, "exec")
    scope: dict[str, object] = {"call": call}
    exec(code, scope)
    return scope["result"]


@pytest.mark.parametrize("call", [lambda: time.sleep(0.001), lambda: os.listdir(".")])
async def test_a_blocking_call_of_ours_fails_the_test(call: Callable[[], object]) -> None:
    with pytest.raises(BlockingError):
        _called_by_us(call)
