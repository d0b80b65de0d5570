"""A copy of a database is another one, though it has the same id: in writing, caching, deleting."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.errors import ConfigError, DatabaseNotFound
from datahike_async.konserve.opening import connect_store, release_store
from datahike_async.transactor import sharing

pytestmark = pytest.mark.anyio


def at(name: str, path: Path) -> dict[str, Any]:
    """Return the config of a store whose truth lies at a path."""
    first, *rest = name.split("-")
    if rest == ["behind"]:
        return {
            "backend": "tiered",
            "id": ID,
            "frontend-config": {"backend": "memory", "id": ID},
            "backend-config": {"backend": first, "path": str(path)},
            "write-policy": "write-behind",
        }
    if rest:
        return {"backend": first, "config": at("-".join(rest), path)}
    return {"backend": first, "path": str(path)}


ID = uuid4()


async def numbers(conn: d.Connection) -> list[int]:
    return sorted(datom.v for datom in await conn.db().datoms("aevt", ":n"))


@pytest.mark.parametrize("name", ["file", "lmdb", "caching-file", "retrying-lmdb"])
async def test_a_copy_opened_beside_its_original_is_a_database_of_its_own(
    name: str, tmp_path: Path
) -> None:
    a, b = at(name, tmp_path / "a"), at(name, tmp_path / "b")
    await d.create_database(store=a, schema_flexibility="read")
    async with d.connect(store=a) as conn:
        await conn.transact([{":n": 1}])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with d.connect(store=a) as one, d.connect(store=b) as two:
        assert one.config.store["id"] == two.config.store["id"]
        await one.transact([{":n": 2}])
        await two.transact([{":n": 3}])
        assert (await numbers(one), await numbers(two)) == ([1, 2], [1, 3])
        # Deleting one takes nothing from the other.
        await d.delete_database(store=b)
        await one.transact([{":n": 4}])
        with pytest.raises(d.WriterError):
            await two.transact([{":n": 5}])
    async with d.connect(store=a) as conn:
        assert await numbers(conn) == [1, 2, 4]


async def test_a_copy_that_writes_behind_keeps_back_its_own(tmp_path: Path) -> None:
    a, b = at("file-behind", tmp_path / "a"), at("file-behind", tmp_path / "b")
    b["frontend-config"] = {"backend": "file", "path": str(tmp_path / "front")}
    await d.create_database(store=a, schema_flexibility="read")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = await connect_store(a), await connect_store(b)
    await one.assoc("key", 1)
    await two.assoc("key", 2)
    assert (await one.get("key"), await two.get("key")) == (1, 2)
    await release_store(one)
    await release_store(two)


async def test_a_config_with_another_id_is_refused_while_the_database_is_open(
    tmp_path: Path,
) -> None:
    store = at("file", tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store) as conn:
        with pytest.raises(ConfigError, match="another store") as caught:
            await d.connect(store={**store, "id": uuid4()})
        assert caught.value.error == ":store-identity-mismatch"
        async with d.connect(store={**store, "id": conn.config.store["id"]}) as other:
            assert other._transactor is conn._transactor


async def test_many_that_connect_at_once_share_one_writer(tmp_path: Path) -> None:
    store = at("file", tmp_path / "db")
    opened: list[d.Connection] = []

    async def opening() -> None:
        opened.append(await d.connect(store=store))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(_refused, store)
    await d.create_database(store=store, schema_flexibility="read")
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(opening)
    assert len({id(conn._transactor) for conn in opened}) == 1
    async with anyio.create_task_group() as tasks:
        for conn in opened:
            tasks.start_soon(conn.release)
            tasks.start_soon(conn.release)
    assert not sharing._registry().live


async def _refused(store: dict[str, Any]) -> None:
    with pytest.raises(DatabaseNotFound):
        await d.connect(store=store)


async def test_one_that_is_cancelled_while_many_connect_cancels_no_other(tmp_path: Path) -> None:
    store = at("file", tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    opened: list[d.Connection] = []

    async def opening() -> None:
        opened.append(await d.connect(store=store))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(opening)
            scope.cancel()
            await d.connect(store=store)
        tasks.start_soon(opening)
    assert len(opened) == 2
    for conn in opened:
        await conn.transact([{":n": 1}])
        await conn.release()
    assert not sharing._registry().live


async def test_a_release_waits_for_what_was_sent_though_others_stay(tmp_path: Path) -> None:
    store = at("file", tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    done: list[int] = []

    async def send(conn: d.Connection, n: int) -> None:
        await conn.transact([{":n": n}])
        done.append(n)

    async with d.connect(store=store) as staying, anyio.create_task_group() as tasks:
        leaving = await d.connect(store=store)
        for n in range(30):
            tasks.start_soon(send, leaving, n)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await leaving.release()
        assert await numbers(staying) == list(range(30))


async def test_opened_here_used_there_and_closed_elsewhere(tmp_path: Path) -> None:
    store = at("file", tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    conns: list[d.Connection] = []

    async def opening() -> None:
        conns.append(await d.connect(store=store))

    async def using() -> None:
        async with conns[0] as conn:
            await conn.transact([{":n": 1}])
        assert conn.closed

    async def generator() -> Any:
        async with d.connect(store=store) as conn:
            yield conn

    for work in (opening, using):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
    fixture = generator()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fixture.__anext__)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fixture.aclose)
    connecting = d.connect(store=store)
    conn = await connecting
    with pytest.raises(RuntimeError, match="opened already"):
        await connecting
    assert await numbers(conn) == [1]
    await conn.release()
    await conn.release()
    assert not sharing._registry().live
