"""Two who create one database at once: one of them wins, and what the winner wrote stays."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import ConfigError, DatabaseExists, StorageError
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import OutcomeUnknown, StoreDenied
from datahike_async.konserve.testing.faults import Fault, FaultyBlobStore
from datahike_async.storage import creating, keys

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return store


async def names(store: dict[str, Any]) -> list[Any]:
    async with d.connect(store=store) as conn:
        return [x.v for x in await conn.db().datoms("aevt", ":name")]


@pytest.mark.parametrize("refused", [False, True], ids=["slower", "refused"])
async def test_the_store_of_the_slower_one_is_not_deleted_with_the_database_of_the_faster(
    store: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = creating.write_first_head

    async def overtaken(*arguments: Any) -> None:
        # The store was made; before its head is written somebody else takes it for theirs.
        monkeypatch.setattr(creating, "write_first_head", write)
        monkeypatch.setattr(creating, "_patience", lambda claim: 0.0)
        await d.create_database(store=store, schema_flexibility="read")
        async with d.connect(store=store) as conn:
            await conn.transact([{":name": "Ada"}])
        if refused:
            raise StoreDenied("injected")
        await write(*arguments)

    monkeypatch.setattr(creating, "write_first_head", overtaken)
    with pytest.raises(StorageError if refused else DatabaseExists):
        await d.create_database(store=store, schema_flexibility="read")
    assert await names(store) == ["Ada"]


async def test_the_slower_one_leaves_no_claim_for_the_next_creation_to_wait_for(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = creating.write_first_head

    async def meanwhile(*arguments: Any) -> None:
        # The head of another one who is creating it, whose claim is gone.
        await write(*arguments)
        await write(*arguments)

    monkeypatch.setattr(creating, "write_first_head", meanwhile)
    with pytest.raises(DatabaseExists):
        await d.create_database(store=store)
    found = await stores.connect_store(store)
    try:
        assert not await found.exists(keys.CREATING)
    finally:
        await stores.release_store(found)


async def test_what_could_not_be_created_can_be_created_at_once(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any) -> None:
        raise StoreDenied("injected")

    with monkeypatch.context() as patch:
        patch.setattr(creating, "write_first_head", refused)
        with pytest.raises(StorageError):
            await d.create_database(store=store)
    assert not await d.database_exists(store=store)
    with pytest.raises(d.DatabaseNotFound):
        async with d.connect(store=store):
            pass
    with anyio.fail_after(2):
        await d.create_database(store=store)


# -- creating and connecting in one ------------------------------------------------------------

SCHEMA = """[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
              :db/unique :db.unique/identity}]"""


async def test_connecting_creates_what_is_not_there_and_opens_what_is(
    store: dict[str, Any],
) -> None:
    options = {"initial_tx": SCHEMA, "keep_history": False}
    async with d.connect(store=store, create=True, **options) as conn:
        await conn.transact([{":name": "Ada"}])
        assert conn.config.keep_history is False
    conn = await d.connect(store=store, create=True, **options)
    assert [x.v for x in await conn.db().datoms("aevt", ":name")] == ["Ada"]
    # The initial transaction ran once.
    assert len(await conn.db().datoms("avet", ":db/ident")) == 1
    await conn.release()
    for contradiction in ({"keep_history": True}, {"schema_flexibility": "read"}):
        with pytest.raises(ConfigError) as caught:
            await d.connect(store=store, create=True, **contradiction)
        assert caught.value.error == ":config-does-not-match-stored-db"
    with pytest.raises(d.ArgumentError, match="create"):
        d.connect(store=store, create="yes")


async def test_a_memory_database_without_an_id_is_a_new_one_each_time() -> None:
    found = []
    for _ in range(2):
        async with d.connect(create=True, schema_flexibility="read") as conn:
            await conn.transact([{":n": 1}])
            found.append((len(await conn.db().datoms("aevt", ":n")), conn.config.store["id"]))
    assert [n for n, _ in found] == [1, 1]
    assert found[0][1] != found[1][1]


async def test_many_tasks_create_one_database(store: dict[str, Any]) -> None:
    async def start(i: int) -> None:
        async with d.connect(
            store=store, create=True, schema_flexibility="read", initial_tx=[{":first": 1}]
        ) as conn:
            await conn.transact([{":name": str(i)}])

    async with anyio.create_task_group() as tasks:
        for i in range(8):
            tasks.start_soon(start, i)
    assert sorted(await names(store)) == [str(i) for i in range(8)]
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":first")) == 1


async def test_a_folder_that_is_made_while_it_is_looked_for_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"backend": "file", "path": str(tmp_path / "above" / "db"), "id": uuid4()}
    look = os.stat

    def made_by_another(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        try:
            return look(path, *args, **kwargs)
        finally:
            for folder in (tmp_path / "above", tmp_path / "above" / "db"):
                if path == str(folder):
                    with suppress(FileExistsError, FileNotFoundError):
                        os.mkdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", made_by_another)
        await d.create_database(store=store, schema_flexibility="read")
    assert await names(store) == []


async def test_others_wait_for_whoever_is_creating(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, go_on = creating.write_first_head, anyio.Event(), anyio.Event()
    wrote: list[int] = []

    async def slow(*arguments: Any) -> None:
        wrote.append(1)
        begun.set()
        await go_on.wait()
        await write(*arguments)

    monkeypatch.setattr(creating, "write_first_head", slow)
    done: list[str] = []

    async def first() -> None:
        await d.create_database(store=store)
        done.append("created")

    async def second() -> None:
        conn = await d.connect(store=store, create=True)
        await conn.release()
        done.append("connected")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await begun.wait()
        tasks.start_soon(second)
        await anyio.sleep(0.1)
        assert done == []
        assert not await d.database_exists(store=store)
        go_on.set()
    assert sorted(done) == ["connected", "created"]
    assert wrote == [1]


CLAIM = {"id": None, "host": "elsewhere", "pid": 1, "owner": "somebody"}


@pytest.mark.parametrize("left", ["nothing", "claim", "nodes"])
async def test_what_a_creator_left_that_was_killed_is_taken_over(
    store: dict[str, Any], left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = await stores.create_store(store)
    if left != "nothing":
        await half.assoc(keys.CREATING, CLAIM)
    if left == "nodes":
        await half.bassoc("pack/1234-0", b"left over")
    await half.release()
    assert not await d.database_exists(store=store)
    with pytest.raises(d.DatabaseNotFound):
        await d.connect(store=store)
    monkeypatch.setattr(creating, "_PATIENCE_AFAR", 0.05)
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":name": "Ada"}])
    assert await names(store) == ["Ada"]


async def test_a_claim_that_is_renewed_is_waited_for(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = await stores.create_store(store)
    await half.assoc(keys.CREATING, CLAIM)
    monkeypatch.setattr(creating, "_PATIENCE_AFAR", 0.2)
    created: list[bool] = []

    async def create() -> None:
        await d.create_database(store=store)
        created.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        for i in range(8):
            await anyio.sleep(0.05)
            await half.assoc(keys.CREATING, {**CLAIM, "turn": i})
            assert not created
    assert created
    await half.release()


async def test_the_store_of_other_data_is_no_place_for_a_database(store: dict[str, Any]) -> None:
    other = await stores.create_store(store)
    await other.assoc("somebody's", {"data": 1})
    await other.release()
    for attempt in (
        lambda: d.create_database(store=store),
        lambda: d.connect(store=store, create=True),
    ):
        with pytest.raises(ConfigError, match="other data"):
            await attempt()
    other = await stores.connect_store(store)
    assert [x["key"] for x in await other.keys()] == ["somebody's"]
    await other.release()


@pytest.mark.parametrize("answer", ["lost", "never sent"])
async def test_a_head_of_which_the_store_did_not_say_whether_it_is_there_is_looked_for(
    store: dict[str, Any], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assoc = stores.Store.assoc

    async def unsure(self: Any, key: Any, value: Any, **options: Any) -> Any:
        if key == "head/db":
            if answer == "lost":
                await assoc(self, key, value, **options)
            raise OutcomeUnknown("injected")
        return await assoc(self, key, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "assoc", unsure)
        if answer == "lost":
            await d.create_database(store=store)
        else:
            with pytest.raises(d.TransactionOutcomeUnknown):
                await d.create_database(store=store)
    async with d.connect(store=store, create=True) as conn:
        assert conn.db().max_tx


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.LOST_RESPONSE, Fault.LOST_REQUEST])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "for good"])
async def test_whichever_call_of_a_creation_fails_the_next_creation_goes_on(
    store: dict[str, Any], fault: Fault, persistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_PATIENCE", 0.02)
    create, connect = stores.create_store, stores.connect_store
    made: list[FaultyBlobStore] = []
    at = 0

    def faulty(opened: stores.Store) -> stores.Store:
        made.append(
            FaultyBlobStore(opened.blobs, fault=fault, at=at, persistent=persistent, reads=True)
        )
        opened.blobs = made[-1]
        return opened

    async def created(config: Any) -> stores.Store:
        return faulty(await create(config))

    async def connected(config: Any, **options: Any) -> stores.Store:
        return faulty(await connect(config, **options))

    failed = 0
    while True:
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(creating.stores, "create_store", created)
            patch.setattr(creating.stores, "connect_store", connected)
            try:
                await d.create_database(store=store, initial_tx=SCHEMA)
            except d.DatahikeError as error:
                assert not isinstance(error, DatabaseExists)
                failed += 1
        async with d.connect(store=store, create=True, initial_tx=SCHEMA) as conn:
            await conn.transact([{":name": "Ada"}])
            assert len(await conn.db().datoms("avet", ":db/ident")) == 1
        await d.delete_database(store=store)
        if made[0].calls <= at:
            break
        at += 1
    assert at > 2
    # A single answer that is lost is looked for.
    assert bool(failed) == (persistent or fault is not Fault.LOST_RESPONSE)


async def test_a_creator_of_this_process_who_was_cancelled_is_waited_for_by_nobody(
    store: dict[str, Any],
) -> None:
    """asyncio can cancel between the writing of a claim and the moment it is known."""
    half = await stores.create_store(store)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "owner": uuid4()}
    await half.assoc(keys.CREATING, {**CLAIM, **mine})
    await half.release()
    with anyio.fail_after(5):
        await d.create_database(store=store)


def test_a_process_of_windows_is_not_interrupted_by_the_question_whether_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kill(pid: int, signal: int) -> None:
        raise AssertionError("this interrupts it")

    claim = {"owner": uuid4(), "host": socket.gethostname(), "pid": os.getppid()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", kill)
        patch.setattr(os, "name", "nt")
        found = creating._patience(claim)
    assert found == creating._PATIENCE_AFAR
