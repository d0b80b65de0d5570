"""What the suite cannot see: full disks, failing commits, cancelled writes, other processes."""

from __future__ import annotations

import sqlite3

import anyio
import pytest
from anyio.lowlevel import checkpoint
from sqlite_backend_example import SqliteBackend

import datahike_async.konserve as k

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def config(tmp_path):
    return {"path": str(tmp_path / "store.sqlite")}


@pytest.fixture
async def blobs(config):
    store = await SqliteBackend().create(config)
    yield store
    await store.close()


async def test_a_full_disk_writes_nothing_and_leaves_the_store_usable(blobs):
    before = await blobs.write("aa", b"old")
    blobs.db.execute("PRAGMA max_page_count = 10")
    with pytest.raises(k.StoreFull):
        await blobs.write_many([k.Write("bb", b"new"), k.Write("aa", bytes(100_000))])
    assert await blobs.read("aa") == (b"old", before)
    assert await blobs.read("bb") is None
    assert await blobs.write("aa", b"new", before) != before


async def test_a_failed_commit_has_an_unknown_outcome(blobs):
    # A constraint that is looked at no sooner than at the commit.
    blobs.db.executescript("""
        PRAGMA foreign_keys = ON;
        CREATE TABLE one (id PRIMARY KEY);
        CREATE TABLE two (id REFERENCES one (id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER trap AFTER INSERT ON konserve BEGIN INSERT INTO two VALUES (1); END;
    """)
    with pytest.raises(k.OutcomeUnknown):
        await blobs.write("aa", b"new")
    blobs.db.execute("DROP TRIGGER trap")
    # Nothing is left open that would keep the next one from writing.
    await blobs.write("aa", b"newer")


async def test_a_failure_before_the_commit_is_definite(blobs):
    blobs.db.execute("PRAGMA query_only = ON")
    with pytest.raises(k.StoreIOError):
        await blobs.write("aa", b"new")
    blobs.db.execute("PRAGMA query_only = OFF")
    await blobs.write("aa", b"new")


async def test_a_busy_store_can_be_asked_again(blobs, config):
    other = sqlite3.connect(config["path"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    blobs.db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(k.StoreUnavailable) as caught:
        await blobs.write("aa", b"1")
    assert caught.value.retryable
    assert await blobs.read("aa") is None
    other.execute("COMMIT")
    other.close()
    await blobs.write("aa", b"1")


async def test_a_cancelled_write_happens_or_does_not(blobs):
    revision = await blobs.write("aa", b"0")
    happened = 0
    for number in range(100):
        async with anyio.create_task_group() as group:
            group.start_soon(blobs.write, "aa", b"%d" % number, revision)
            for _ in range(number % 5):
                await checkpoint()
            group.cancel_scope.cancel()
        found = await blobs.read("aa")
        if found.revision != revision:
            assert found.data == b"%d" % number
            happened += 1
        revision = found.revision
    assert 0 < happened < 100
    assert await blobs.write("aa", b"end", revision)


async def test_a_close_that_is_cancelled_closes(config):
    store = await SqliteBackend().create(config)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.close()
    with pytest.raises(k.StoreClosed):
        await store.read("aa")
    await store.close()


async def test_no_revision_comes_twice(blobs, config):
    backend = SqliteBackend()
    seen = set()
    for _ in range(3):
        for _ in range(5):
            seen.add(await blobs.write("aa", b"x"))
            assert await blobs.delete("aa")
        await backend.delete(config)
        # Whoever still has it open learns that it is gone, and does not write into the next one.
        with pytest.raises(k.StoreNotFound):
            await blobs.write("aa", b"lost")
        await (await backend.create(config)).close()
    assert len(seen) == 15


async def test_of_many_who_create_it_one_wins(config):
    backend = SqliteBackend()
    made, lost = [], []

    async def create():
        try:
            made.append(await backend.create(config))
        except (k.StoreExists, k.StoreUnavailable) as error:
            lost.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(create)
    assert (len(made), len(lost)) == (1, 7)
    await made[0].close()


async def test_what_is_no_store_is_left_alone(tmp_path):
    backend = SqliteBackend()
    text = tmp_path / "text"
    text.write_text("no database" * 1000)
    with pytest.raises(k.CorruptValue):
        await backend.connect({"path": str(text)})
    assert text.read_text() == "no database" * 1000
    missing = {"path": tmp_path / "missing"}
    assert not await backend.exists(missing)
    await backend.delete(missing)
    assert not missing["path"].exists()
    with pytest.raises(k.StoreConfigError):
        await backend.create({})


async def test_a_file_is_shared_with_other_tables(config):
    backend = SqliteBackend()
    other = sqlite3.connect(config["path"])
    other.execute("CREATE TABLE mine (x)")
    assert not await backend.exists(config)
    await (await backend.create(config)).close()
    await backend.delete(config)
    assert other.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    other.close()
