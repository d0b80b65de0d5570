"""The n-th store call of a merge, of undoing and of a rebase fails, for every n and in every way.

The branch is then what it was, or what it is to be; never anything between. Repeated, it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import StoreIOError
from datahike_async.storage import opened as opened_stores
from datahike_async.transactor.transactor import Limits
from tests.storage.test_branch_faults import WAYS, Failing
from tests.transactor.test_faults import Parted

pytestmark = pytest.mark.anyio

LIMITS = Limits(settle_seconds=0.05, close_rows=10**9)
START, OURS, THEIRS = {1}, {1, 3, 4}, {1, 2, 5}
QUICK = [("asyncio", "memory", "lost response"), ("trio", "parted", "cancelled before")]


async def merge(conn: d.Connection) -> None:
    await d.merge(conn, ":t")


async def revert(conn: d.Connection) -> None:
    await d.revert(conn, conn.db().max_tx)


async def rebase(conn: d.Connection) -> None:
    await d.rebase(conn, ":t")


VERBS: dict[str, tuple[Callable[[d.Connection], Awaitable[None]], set[int]]] = {
    "merge": (merge, OURS | THEIRS),
    "revert": (revert, {1, 3}),
    "rebase": (rebase, OURS | THEIRS),
}


async def numbers(db: d.Database) -> set[int]:
    found = await db.datoms("aevt", ":n")
    assert len({x.e for x in found}) == len(found)
    return {x.v for x in found}


@pytest.fixture
def opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Failing]:
    """What every store that is opened is wrapped in."""
    found: list[Failing] = []

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        store = await stores.connect_store(config, **options)
        blobs = Parted(store.blobs) if kind == "parted" else store.blobs
        found.append(Failing(blobs, reads=True, error=lambda: StoreIOError("planted")))
        store.blobs = found[-1]
        store.capabilities = store.blobs.capabilities
        return store

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    return found


@asynccontextmanager
async def prepared(kind: str, folder: Path) -> Any:
    store: dict[str, Any] = {"backend": "file" if kind == "file" else "memory", "id": uuid4()}
    if kind == "file":
        store["path"] = str(folder / str(store["id"]))
    config = {"store": store, "schema_flexibility": "read"}
    async with d.connect(config, create=True, limits=LIMITS) as conn:
        await conn.transact([{":n": 1}])
        await d.branch(conn, ":db", ":t")
        async with d.connect({"store": store, "branch": "t"}, limits=LIMITS) as theirs:
            await theirs.transact([{":n": 2}])
            await theirs.transact([{":n": 5}])
        await conn.transact([{":n": 3}])
        await conn.transact([{":n": 4}])
    yield config
    await d.delete_database(config)


async def attempt(
    config: dict[str, Any], blobs: list[Failing], verb: str, way: str, at: int
) -> bool:
    """Carry out a verb with a fault, then again; return whether it came to the fault at all."""
    act, wanted = VERBS[verb]
    conn = await d.connect(config, limits=LIMITS)
    failing = blobs[-1]
    failing.arm(way, at)
    with failing.scope or anyio.CancelScope():
        try:
            await act(conn)
        except d.DatahikeError as error:
            assert "planted" in str(error) or "injected" in str(error) or error.retryable, error
    hit = failing.calls > at
    failing.disarm()
    await failing.land()
    await conn.release()
    async with d.connect(config, limits=LIMITS) as conn:
        found = await numbers(conn.db())
        assert found in (OURS, wanted)
        if verb != "revert" or found == OURS:
            await act(conn)
    async with d.connect(config, limits=LIMITS) as conn:
        assert await numbers(conn.db()) == wanted
        assert await numbers(await d.branch_as_db(conn, ":t")) == THEIRS
        report = await conn.transact([{":n": 9}])
        assert await numbers(conn.db()) == wanted | {9}
        assert report.tx_data
        left = {name.text for name in await d.branches(conn)} - {"db", "t"}
        # Nobody needs them, and they can be deleted.
        for name in left:
            assert name.startswith("rebase-")
            await d.delete_branch(conn, name)
    return hit


@pytest.mark.parametrize(
    ("anyio_backend", "kind", "way"),
    [
        pytest.param(*case, id="-".join(case), marks=[] if case in QUICK else [pytest.mark.slow])
        for case in (
            (loop, kind, way)
            for loop in ("asyncio", "trio")
            for kind in ("memory", "parted", "file")
            for way in WAYS
        )
    ],
)
@pytest.mark.parametrize("verb", VERBS)
async def test_every_call_fails_in_turn(
    kind: str,
    tmp_path: Path,
    opened: list[Failing],
    verb: str,
    way: str,
    request: pytest.FixtureRequest,
) -> None:
    # A rebase makes about a hundred calls: by default every third of them fails.
    rare = request.node.get_closest_marker("slow") is None and verb == "rebase"
    for at in range(0, 200, 3 if rare else 1):
        async with prepared(kind, tmp_path) as config:
            if not await attempt(config, opened, verb, way, at):
                break
    assert 1 <= at < 150
