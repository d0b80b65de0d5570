from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.config import Config
from datahike_async.edn import Keyword
from datahike_async.errors import (
    ConfigError,
    ConnectionClosed,
    DatabaseExists,
    DatabaseNotFound,
    DatahikeError,
    TransactionError,
)

pytestmark = pytest.mark.anyio

NAME = {
    ":db/ident": ":name",
    ":db/valueType": ":db.type/string",
    ":db/cardinality": ":db.cardinality/one",
    ":db/unique": ":db.unique/identity",
}


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "memory":
        return {"backend": "memory", "id": uuid4()}
    return {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():
            await anyio.sleep(0.001)


async def names(conn: d.Connection) -> set[str]:
    return {datom.v for datom in await conn.db().datoms("aevt", ":name")}


async def test_create_connect_transact_close_and_open_again(store: dict[str, Any]) -> None:
    config = await d.create_database(store=store)
    assert config.store == store
    async with d.connect(config) as conn:
        await conn.transact([NAME])
        report = await conn.transact([{":db/id": "a", ":name": "Ada"}])
        assert await names(conn) == {"Ada"}
        eid = report.tempids["a"]
        before = await conn.db().datoms("eavt")
    async with d.connect(store=store) as conn:
        assert await conn.db().datoms("eavt") == before
        assert conn.db().max_tx == report.tx
        assert await conn.db().entid([":name", "Ada"]) == eid
        assert conn.db().schema.keys() == {Keyword("name")}
        await conn.transact([{":name": "Bob"}])
        assert await names(conn) == {"Ada", "Bob"}


async def test_a_report_says_what_happened(store: dict[str, Any]) -> None:
    await d.create_database(store=store)
    async with d.connect(store=store) as conn:
        first = await conn.transact([NAME])
        empty = conn.db()
        assert empty is conn.db()
        report = await conn.transact(
            {":tx-data": [{":db/id": "a", ":name": "Ada"}], ":tx-meta": {":db/doc": "why"}}
        )
        assert report.db_before == empty
        assert report.db_after == conn.db()
        assert await report.db_before.count() < await report.db_after.count()
        assert [x.v for x in report.tx_data if x.a is Keyword("name")] == ["Ada"]
        assert report.tx == first.tx + 1 == conn.db().max_tx
        assert report.instant > first.instant
        assert report.tx_meta[Keyword("db/doc")] == "why"
        commit = report.tx_meta[Keyword("db/commitId")]
        assert isinstance(commit, UUID)
        assert commit == report.db_after.commit_id == conn.db().commit_id
        assert report.db_before.commit_id == first.tx_meta[Keyword("db/commitId")] != commit


async def test_a_refused_transaction_leaves_nothing_and_the_writer_goes_on(
    store: dict[str, Any],
) -> None:
    await d.create_database(store=store)
    async with d.connect(store=store) as conn:
        await conn.transact([NAME])
        before = conn.db()
        with pytest.raises(TransactionError) as caught:
            await conn.transact([{":name": "Ada"}, {":nome": 1}])
        assert caught.value.error == ":transact/schema"
        with pytest.raises(TransactionError) as caught:
            await conn.transact(7)
        assert conn.db() == before
        report = await conn.transact([{":name": "Bob"}])
        assert report.tx == before.max_tx + 1
        assert await names(conn) == {"Bob"}


async def test_any_error_of_a_function_reaches_its_caller_alone(store: dict[str, Any]) -> None:
    from datahike_async.functions import register_function, unregister_function

    def broken(db: Any) -> Any:
        raise ZeroDivisionError("user's own")

    async def later(db: Any, name: str) -> Any:
        await anyio.lowlevel.checkpoint()
        return [{":name": name}]

    register_function("test.connection/broken", broken)
    register_function("test.connection/later", later)
    try:
        await d.create_database(store=store, initial_tx=[NAME])
        async with d.connect(store=store) as conn:
            with pytest.raises(ZeroDivisionError, match="user's own"):
                await conn.transact([[":db.fn/call", "test.connection/broken"]])
            await conn.transact([[":db.fn/call", "test.connection/later", "Ada"]])
            assert await names(conn) == {"Ada"}
    finally:
        unregister_function("test.connection/broken")
        unregister_function("test.connection/later")


# -- databases ---------------------------------------------------------------------------------


async def test_creating_existing_deleting(store: dict[str, Any]) -> None:
    assert not await d.database_exists(store=store)
    await d.create_database(store=store)
    assert await d.database_exists(store=store)
    with pytest.raises(DatabaseExists) as caught:
        await d.create_database(store=store)
    assert caught.value.error == ":db-already-exists"
    await d.delete_database(store=store)
    assert not await d.database_exists(store=store)
    await d.delete_database(store=store)
    await d.create_database(store=store)


async def test_what_is_not_there_cannot_be_opened(store: dict[str, Any]) -> None:
    with pytest.raises(DatabaseNotFound) as caught:
        async with d.connect(store=store):
            pass
    assert caught.value.error == ":backend-does-not-exist"
    await d.create_database(store=store)
    with pytest.raises(DatabaseNotFound) as caught:
        async with d.connect(store=store, branch="other"):
            pass
    assert caught.value.error == ":db-does-not-exist"


async def test_ids_are_made_and_found(tmp_path: Path) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    made = await d.create_database(store=store)
    assert isinstance(made.store["id"], UUID)
    async with d.connect(store=store) as conn:
        assert conn.config.store["id"] == made.store["id"]
    memory = await d.create_database()
    assert memory.store["backend"] == "memory"
    assert isinstance(memory.store["id"], UUID)
    async with d.connect(memory):
        pass
    with pytest.raises(ConfigError) as caught:
        async with d.connect(store={"backend": "memory"}):
            pass
    assert caught.value.error == ":missing-id"


async def test_another_store_at_the_same_place_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    await d.create_database(store={"backend": "file", "path": path, "id": uuid4()})
    with pytest.raises(DatahikeError) as caught:
        async with d.connect(store={"backend": "file", "path": path, "id": uuid4()}):
            pass
    assert caught.value.error == ":store-identity-mismatch"


async def test_unknown_backends_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        await d.create_database(store={"backend": "nosuch", "id": uuid4()})


async def test_the_initial_transaction_is_part_of_creation(
    store: dict[str, Any], tmp_path: Path
) -> None:
    file = anyio.Path(tmp_path / "initial.edn")
    await file.write_text(
        "[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}"
        ' {:name "Ada"}]'
    )
    await d.create_database(store=store, initial_tx=str(file))
    async with d.connect(store=store) as conn:
        assert await names(conn) == {"Ada"}


async def test_a_refused_initial_transaction_creates_nothing(store: dict[str, Any]) -> None:
    with pytest.raises(TransactionError):
        await d.create_database(store=store, initial_tx=[{":nome": 1}])
    assert not await d.database_exists(store=store)
    await d.create_database(store=store)


async def test_a_large_initial_transaction(store: dict[str, Any]) -> None:
    await d.create_database(
        store=store, schema_flexibility="read", initial_tx=[{":n": i} for i in range(3000)]
    )
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 3000
        await conn.transact([{":n": -1}])
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 3001


async def test_the_database_keeps_its_config(store: dict[str, Any]) -> None:
    await d.create_database(
        store=store,
        keep_history=False,
        schema_flexibility=":read",
        index_config={"branching-factor": 64},
    )
    async with d.connect(store=store) as conn:
        assert conn.config.keep_history is False
        assert conn.config.schema_flexibility == "read"
        assert conn.config.index_config["branching-factor"] == 64
        await conn.transact([{":anything": 1}])
        with pytest.raises(DatahikeError):
            conn.db().history()
        with pytest.raises(ConfigError) as caught:
            async with d.connect(store=store, keep_history=True):
                pass
        assert caught.value.error == ":config-does-not-match-existing-connections"
    with pytest.raises(ConfigError) as caught:
        async with d.connect(store=store, keep_history=True):
            pass
    assert caught.value.error == ":config-does-not-match-stored-db"


async def test_a_config_may_be_given_in_any_form(store: dict[str, Any]) -> None:
    made = await d.create_database({":store": store, ":keep-history?": True})
    assert isinstance(made, Config)
    for config in ({":store": store}, {"store": store}, made):
        async with d.connect(config) as conn:
            assert conn.db().max_eid == 0


# -- release -----------------------------------------------------------------------------------


async def test_a_released_connection_says_so(store: dict[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=[NAME])
    async with d.connect(store=store) as conn:
        await conn.transact([{":name": "Ada"}])
        assert not conn.closed
        await conn.release()
        await conn.release()
        assert conn.closed
        for call in (conn.db, lambda: conn.listen(print)):
            with pytest.raises(ConnectionClosed) as caught:
                call()
            assert caught.value.error == ":connection-has-been-released"
        with pytest.raises(ConnectionClosed):
            await conn.transact([{":name": "Bob"}])
        await anyio.lowlevel.checkpoint()
    with pytest.raises(ConnectionClosed):
        conn.db()
    async with d.connect(store=store) as conn:
        assert await names(conn) == {"Ada"}


async def test_a_connection_object_is_entered_once(store: dict[str, Any]) -> None:
    await d.create_database(store=store)
    opening = d.connect(store=store)
    async with opening:
        with pytest.raises(RuntimeError, match="again"):
            async with opening:
                pass


# -- listening ---------------------------------------------------------------------------------


async def test_listeners_hear_of_every_commit_in_order(store: dict[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=[NAME])
    heard: list[Any] = []
    heard_later: list[Any] = []

    async def slow(report: Any) -> None:
        await anyio.lowlevel.checkpoint()
        heard_later.append(report.tx)

    async with d.connect(store=store) as conn, d.connect(store=store) as other:
        key = conn.listen(lambda report: heard.append(report))
        assert conn.listen(slow, "slow") == "slow"
        reports = [await conn.transact([{":name": "Ada"}])]
        with pytest.raises(TransactionError):
            await conn.transact([{":nome": 1}])
        reports.append(await other.transact([{":name": "Bob"}]))
        await until(lambda: len(heard_later) == 2)
        assert [r.tx for r in heard] == [r.tx for r in reports] == heard_later
        assert [x.v for x in heard[1].tx_data if x.a is Keyword("name")] == ["Bob"]
        assert heard[1].db_after == conn.db()
        conn.unlisten(key)
        conn.unlisten("nobody")
        last = await conn.transact([{":name": "Cid"}])
    assert len(heard) == 2
    assert heard_later[-1] == last.tx


async def test_a_listener_may_fail_and_may_transact(
    store: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await d.create_database(store=store, initial_tx=[NAME])
    done = anyio.Event()

    def broken(report: Any) -> None:
        raise ValueError("listener's own")

    async with d.connect(store=store) as conn:
        first = conn.db().max_tx

        async def echo(report: Any) -> None:
            if not done.is_set():
                done.set()
                await conn.transact([{":name": "Echo"}])

        conn.listen(broken)
        conn.listen(echo)
        with caplog.at_level(logging.ERROR, "datahike_async"):
            await conn.transact([{":name": "Ada"}])
            await until(lambda: conn.db().max_tx == first + 2)
            assert await names(conn) == {"Ada", "Echo"}
        assert "listener's own" in caplog.text


async def test_the_verbs_delegate(store: dict[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=[NAME])
    heard: list[Any] = []
    async with d.connect(store=store) as conn:
        key = d.listen(conn, "key", heard.append)
        assert key == "key"
        await d.transact(conn, [{":name": "Ada"}])
        await until(lambda: bool(heard))
        d.unlisten(conn, key)
        assert d.db(conn) == conn.db()
        await d.release(conn)
    assert len(heard) == 1
