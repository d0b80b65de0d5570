"""The n-th call of a collection fails: what is retained stays, and the next one finishes.

For some n by default, for every n in the long run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.konserve.backends.memory import _stores
from datahike_async.konserve.errors import KonserveError, StoreIOError
from datahike_async.konserve.testing.faults import Fault, FaultyBlobStore
from tests.collection.garbage import collected, fresh, grown, verify
from tests.indexes import TREE

pytestmark = pytest.mark.anyio


class Stored:
    """A database that can be put back as it was."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self.slower = 4 if kind == "file" else 1
        self._copy = folder / "copy"
        store: dict[str, Any] = {"backend": kind, "id": uuid4()}
        if kind == "file":
            store["path"] = str(folder / "db")
        self.config = fresh(store, **(TREE if kind == "memory" else {}))

    def keep(self) -> None:
        if self._kind == "file":
            shutil.copytree(self.config["store"]["path"], self._copy)
        else:
            self._blobs = dict(_stores[self.config["store"]["id"]])

    def put_back(self) -> None:
        if self._kind == "file":
            shutil.rmtree(self.config["store"]["path"])
            shutil.copytree(self._copy, self.config["store"]["path"])
        else:
            blobs = _stores[self.config["store"]["id"]]
            blobs.clear()
            blobs.update(self._blobs)


STEPS = pytest.mark.parametrize(
    "step", [pytest.param(5, id="some"), pytest.param(0, id="all", marks=pytest.mark.slow)]
)


@pytest.fixture(params=["memory", "file"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend_name: str) -> Stored:
    if request.param == "file" and anyio_backend_name == "trio":
        pytest.skip("files are asked from one loop")
    return Stored(request.param, tmp_path)


async def calls(stored: Stored, *, reads: bool) -> int:
    faulty: list[FaultyBlobStore] = []

    def wrap(blobs: Any) -> Any:
        faulty.append(FaultyBlobStore(blobs, reads=reads))
        return faulty[0]

    done = await collected(stored.config, wrap)
    assert done.freed > 10
    stored.put_back()
    return faulty[0].calls


async def check(stored: Stored, states: Any, there: int) -> None:
    await verify(stored.config, states)
    await collected(stored.config)
    assert await verify(stored.config, states) == there
    assert (await collected(stored.config)).freed == 0
    stored.put_back()


@STEPS
async def test_the_nth_read_fails(stored: Stored, step: int) -> None:
    states = await grown(stored.config)
    stored.keep()
    await collected(stored.config)
    there = await verify(stored.config, states)
    assert 10 <= there < len(states)
    stored.put_back()
    for at in range(0, await calls(stored, reads=True), 3):
        with pytest.raises((d.DatahikeError, StoreIOError)):
            await collected(
                stored.config, lambda blobs, at=at: FaultyBlobStore(blobs, at=at, reads=True)
            )  # type: ignore[misc]
        await check(stored, states, there)


@STEPS
@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize(
    "persistent",
    [pytest.param(False, id="once"), pytest.param(True, id="for good", marks=pytest.mark.slow)],
)
async def test_the_nth_write_fails(
    stored: Stored, fault: Fault, persistent: bool, step: int
) -> None:
    states = await grown(stored.config)
    stored.keep()
    await collected(stored.config)
    there = await verify(stored.config, states)
    stored.put_back()
    failed = 0
    for at in range(0, await calls(stored, reads=False), (step and 2 * stored.slower) or 1):
        faulty: list[FaultyBlobStore] = []

        def wrap(blobs: Any, at: int = at, faulty: Any = faulty) -> Any:
            faulty.append(FaultyBlobStore(blobs, fault=fault, at=at, persistent=persistent))
            return faulty[0]

        try:
            await collected(stored.config, wrap)
        except (d.DatahikeError, KonserveError):
            failed += 1
        await check(stored, states, there)
    assert failed or (fault is not Fault.BEFORE and not persistent)


@STEPS
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_it_is_cancelled_at_the_nth_call(stored: Stored, after: bool, step: int) -> None:
    states = await grown(stored.config)
    stored.keep()
    await collected(stored.config)
    there = await verify(stored.config, states)
    stored.put_back()
    for at in range(0, await calls(stored, reads=True), 2 * step * stored.slower or 1):
        with anyio.CancelScope() as scope:

            class Cancelling(FaultyBlobStore):
                """The n-th call is cancelled, before it is made or after."""

                async def _write(self, call: Any, at: int = at, scope: Any = scope) -> Any:
                    if not after and self.calls == at:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    result = await super()._write(call)
                    if after and self.calls == at + 1:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    return result

                async def _read(self, call: Any) -> Any:
                    return await self._write(call)

            await collected(stored.config, Cancelling)
        assert scope.cancelled_caught
        await check(stored, states, there)
