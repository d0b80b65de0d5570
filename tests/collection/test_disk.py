"""The store stays bounded by what lives, however long it is written to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.storage.branches.registry import read_registry
from datahike_async.transactor.limits import Limits
from tests.collection.garbage import fresh, settled

pytestmark = pytest.mark.anyio

OFTEN = Limits(flush_rows=60, flush_bytes=10**9, flush_journal_bytes=10**9)
ROWS = 4000


@pytest.fixture(params=["memory", "file", pytest.param("lmdb", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    return fresh(store)


async def size(conn: d.Connection) -> int:
    """Return the bytes of all blobs, journals aside."""
    blobs = conn._transactor.branch.store.blobs
    names = [name async for page in blobs.names() for name in page]
    return sum(len(blob.data) for blob in (await blobs.read_many(names)).values())


async def lived(
    config: dict[str, Any], commits: int, every: int = 100, rows: int = ROWS
) -> tuple[int, int]:
    """Change values far apart, and collect; return the peak and what a copy takes."""
    chance, peak = random.Random(5), 0
    index = {"branching-factor": 16}
    async with d.connect(
        config, create=True, keep_history=False, index_config=index, limits=OFTEN
    ) as conn:
        await conn.transact([{":n": n, ":name": f"{chance.random()}"} for n in range(rows)])
        await d.gc_storage(conn, retain={"commits": 20})
        for n in range(commits):
            at = chance.randrange(1, rows)
            await conn.transact([[":db/add", at, ":name", f"{chance.random()}"]])
            if n % every == every - 1:
                await settled(conn)
                peak = max(peak, await size(conn))
                await d.gc_storage(conn, retain={"commits": 20})
        await settled(conn)
        await d.gc_storage(conn, retain={"commits": 20})
        assert len(await conn.db().datoms("aevt", ":name")) == rows
        assert (await d.verify(conn)).ok
        copy = {"store": {"backend": "memory", "id": uuid4()}}
        await d.backup(conn, copy)
    async with d.connect(copy) as conn:
        return peak, await size(conn)


async def test_many_small_commits_take_at_most_three_times_what_lives(
    config: dict[str, Any],
) -> None:
    peak, live = await lived(config, 500)
    assert peak <= 3 * live


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_many_more_small_commits_do_not_take_more(config: dict[str, Any]) -> None:
    """With a database so large that what comes between two collections is the smaller part."""
    peak, live = await lived(config, 10_000, 500, 50_000)
    assert peak <= 3 * live


@pytest.mark.parametrize("fault", [False, True], ids=["", "packs do not shrink"])
async def test_packs_of_which_little_is_left_go(
    tmp_path: Path, fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few nodes of each old pack are needed: they are written anew by the next flush."""
    config = fresh({"backend": "file", "id": uuid4(), "path": str(tmp_path / "db")})
    index = {"branching-factor": 16}
    async with d.connect(
        config, create=True, keep_history=False, index_config=index, limits=OFTEN
    ) as conn:
        await conn.transact([{":n": n, ":name": f"{n}"} for n in range(ROWS)])
        await settled(conn)
        if fault:
            monkeypatch.setattr("datahike_async.transactor.branch.thin_packs", _nothing)
        # All but the last entities are changed.
        for start in range(1, ROWS - 200, 300):
            entities = range(start, min(start + 300, ROWS - 200))
            await conn.transact([[":db/add", e, ":name", f"new {e}"] for e in entities])
            await conn.transact([[":db/add", e, ":n", -e] for e in entities])
            await settled(conn)
        await d.gc_storage(conn, retain={"commits": 1})
        thin = (await read_registry(conn._transactor.branch.store)).thin
        assert thin
        for _ in range(3):
            await conn.transact([{":n": -n} for n in range(100)])
            await settled(conn)
            await d.gc_storage(conn, retain={"commits": 1})
        left = {a.blob for x in conn.db().snapshot.trees.indexes() for a in await _all(x)}
        assert bool(left & set(thin)) is fault
        assert (await d.verify(conn)).ok


async def _all(index: Any) -> list[Any]:
    from datahike_async.index.source import read

    return await read(lambda: list(index.addresses()))


async def _nothing(*_: Any) -> Any:
    raise d.StorageError("the registry can't be read")
