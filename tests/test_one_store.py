"""What belongs to a store is open once for all its branches: the store itself, and nodes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import ConfigError
from datahike_async.index.protocol import Order
from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.errors import StoreClosed
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.faults import FaultyBlobStore
from datahike_async.storage import opened
from datahike_async.transactor.limits import Limits
from tests.stores import LOCAL, Servers, on, on_loops, store_on
from tests.strangers import as_a_stranger

pytestmark = pytest.mark.anyio

EACH = Limits(close_rows=1)
LATE = Limits(close_rows=1000)
ONCE = [("asyncio", "file"), ("trio", "memory"), ("trio", "lmdb")]


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Return the stores that are opened from now on; each counts its calls, reads too."""
    found: list[Store] = []
    real = opened.connect_store

    async def connect_store(config: Mapping[Any, Any], **options: Any) -> Store:
        store = await real(config, **options)
        store.blobs = FaultyBlobStore(store.blobs, reads=True)
        found.append(store)
        return store

    monkeypatch.setattr(opened, "connect_store", connect_store)
    return found


def calls(store: Store) -> int:
    blobs: BlobStore = store.blobs
    assert isinstance(blobs, FaultyBlobStore)
    return blobs.calls


async def filled(config: dict[str, Any]) -> None:
    """Make a database of some nodes, with a branch that shares all of them."""
    async with d.connect(config, create=True, limits=EACH) as conn:
        await conn.transact([{":n": i, ":text": f"text {i}"} for i in range(600)])
    async with d.connect(config, limits=LATE) as conn:
        await d.branch(conn, ":db", ":other")
        async with d.connect(on(config, "other"), limits=LATE) as other:
            await other.transact([{":n": -1}])


def cache_of(conn: d.Connection) -> object:
    index: Any = conn.db().snapshot.trees.current[Order.EAVT]
    return index.base._source.cache


@pytest.mark.parametrize(("anyio_backend", "name"), on_loops([*LOCAL, "s3-moto", "s3-ministack"]))
async def test_a_second_branch_reads_nothing_that_the_first_has(
    name: str, tmp_path: Path, servers: Servers, opening: list[Store]
) -> None:
    config: dict[str, Any] = {"store": store_on(name, tmp_path, servers)}
    config["schema_flexibility"] = "read"
    await filled(config)
    opening.clear()
    count = "[:find (count ?e) . :where [?e :n]]"
    async with d.connect(config) as conn:
        assert await d.q(count, conn.db()) == 600
        list(await conn.db().datoms("eavt"))
        [store] = opening
        before = calls(store)
        async with d.connect(on(config, "other")) as other:
            # Its head; its publication is young, so it is looked whether the registry has it.
            assert calls(store) - before <= 2
            before = calls(store)
            assert await d.q(count, other.db()) == 601
            assert len(list(await other.db().datoms("eavt"))) > 1200
            assert calls(store) == before
            assert cache_of(conn) is cache_of(other)
            assert other._transactor.branch.store is store
        # Who is left has the store.
        assert (await conn.transact([{":n": -2}])).tx
    assert opening == [store]
    with pytest.raises(StoreClosed):
        await store.get("branches")


@pytest.mark.parametrize(("anyio_backend", "config"), ONCE, indirect=["config"])
async def test_the_first_may_leave_first(config: dict[str, Any], opening: list[Store]) -> None:
    await filled(config)
    opening.clear()
    first = await d.connect(config)
    other = await d.connect(on(config, "other"))
    await first.release()
    await other.transact([{":n": -3}])
    first = await d.connect(config)
    await other.release()
    await first.transact([{":n": -4}])
    assert len(opening) == 1
    await first.release()
    with pytest.raises(StoreClosed):
        await opening[0].get("branches")
    # What was closed is not joined any more.
    async with d.connect(on(config, "other")) as other:
        assert len(opening) == 2
        assert other._transactor.branch.store is opening[1]


@pytest.mark.parametrize(("anyio_backend", "config"), ONCE, indirect=["config"])
@pytest.mark.parametrize("which", ["first", "second", "both"])
async def test_who_is_cancelled_while_the_store_is_opened_takes_it_from_no_other(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    await filled(config)
    real, begun, go = opened.connect_store, anyio.Event(), anyio.Event()
    made: list[Store] = []

    async def connect_store(*arguments: Any, **options: Any) -> Store:
        begun.set()
        await go.wait()
        made.append(await real(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(opened, "connect_store", connect_store)
    scopes = {name: anyio.CancelScope() for name in ("first", "second")}
    done: list[str] = []

    async def use(name: str, of: dict[str, Any]) -> None:
        with scopes[name]:
            async with d.connect(of) as conn:
                await conn.transact([{":n": 7}])
                done.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(use, "first", config)
        await begun.wait()
        group.start_soon(use, "second", on(config, "other"))
        await anyio.wait_all_tasks_blocked()
        for name, scope in scopes.items():
            if which in (name, "both"):
                scope.cancel()
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert set(done) == ({"first", "second"} - {which} if which != "both" else set())
    for store in made:
        with pytest.raises(StoreClosed):
            await store.get("branches")


@pytest.mark.parametrize("kind", ["file", "lmdb"])
async def test_one_id_at_two_places_is_two_stores(
    kind: str, tmp_path: Path, opening: list[Store]
) -> None:
    a = {"store": {"backend": kind, "path": str(tmp_path / "a")}, "schema_flexibility": "read"}
    b = {**a, "store": {"backend": kind, "path": str(tmp_path / "b")}}
    await filled(a)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    opening.clear()
    async with d.connect(a) as one, d.connect(on(b, "other")) as two:
        assert one._transactor.branch.store_id == two._transactor.branch.store_id
        assert cache_of(one) is not cache_of(two)
        assert len(opening) == 2


@pytest.mark.parametrize(("anyio_backend", "config"), ONCE, indirect=["config"])
async def test_who_only_reads_has_a_store_of_his_own(
    config: dict[str, Any], opening: list[Store]
) -> None:
    await filled(config)
    opening.clear()
    async with d.connect(config), d.connect(on(config, "other"), read_only=True) as reader:
        assert len(opening) == 2
        with pytest.raises(d.WriterError):
            await reader.transact([{":n": 1}])


@pytest.mark.parametrize(("anyio_backend", "config"), ONCE, indirect=["config"])
async def test_the_size_of_what_is_kept_in_memory_is_that_of_the_store(
    config: dict[str, Any],
) -> None:
    await filled(config)
    async with d.connect(config, memory_limit=64 * 2**20) as conn:
        async with d.connect(on(config, "other")) as other:
            assert cache_of(other) is cache_of(conn)
        with pytest.raises(ConfigError, match="memory-limit") as caught:
            await d.connect(on(config, "other"), memory_limit=32 * 2**20)
        assert caught.value.error == ":config-does-not-match-existing-connections"
        # What was refused keeps nothing open, and takes nothing away.
        async with d.connect(on(config, "other")) as other:
            assert cache_of(other) is cache_of(conn)


@pytest.mark.parametrize("kind", ["file", "lmdb"])
async def test_a_store_that_others_have_made_anew_is_opened_anew(kind: str, tmp_path: Path) -> None:
    """One branch of the old one is open still; who opens another gets that of the new one."""
    store = {"backend": kind, "path": str(tmp_path / "db")}
    config = {"store": store, "schema_flexibility": "read"}
    await filled(config)
    old = await d.connect(config)
    with as_a_stranger():
        await d.delete_database(config)
        await filled(config)
        async with d.connect(on(config, "other")) as there:
            await there.transact([{":n": 12345}])
    async with d.connect(on(config, "other")) as other:
        assert 12345 in {x.v for x in await other.db().datoms("aevt", ":n")}
        await other.transact([{":n": 54321}])
    await old.release()
    async with d.connect(on(config, "other")) as other:
        assert {12345, 54321} <= {x.v for x in await other.db().datoms("aevt", ":n")}


@pytest.mark.parametrize(("anyio_backend", "config"), ONCE, indirect=["config"])
async def test_a_writer_that_failed_is_followed_by_one_with_a_store_of_its_own(
    config: dict[str, Any], opening: list[Store]
) -> None:
    await filled(config)
    opening.clear()
    async with d.connect(config) as conn, d.connect(on(config, "other")) as other:
        [store] = opening
        broken = store.blobs
        assert isinstance(broken, FaultyBlobStore)
        broken.at, broken.persistent = broken.calls, True
        with pytest.raises(d.DatahikeError):
            await conn.transact([{":n": 1}])
        async with d.connect(config) as again:
            assert again._transactor.branch.store is not store or conn._transactor.fatal is None
            await again.transact([{":n": 2}])
        with pytest.raises(d.DatahikeError):
            await other.transact([{":n": 3}])
