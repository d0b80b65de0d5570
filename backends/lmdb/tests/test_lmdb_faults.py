"""LMDB environments that are damaged, cut off, closed, or fail where they are written."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
import textwrap
import uuid

import anyio
import lmdb
import pytest
from datahike_async_lmdb import LmdbBackend

import datahike_async as d
from datahike_async.konserve import (
    CorruptValue,
    OutcomeUnknown,
    StoreClosed,
    StoreConfigError,
    StoreIOError,
)
from datahike_async.konserve.blob import Write

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
MIB = 1 << 20


async def test_what_is_damaged_is_said_to_be(config, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").write_bytes(b"garbage" * 2000)
    with pytest.raises(CorruptValue):
        await LmdbBackend().connect(config)
    with pytest.raises(CorruptValue):
        await LmdbBackend().exists(config)


class FailingCommit:
    """A transaction whose commit fails like a disk."""

    def __init__(self, txn):
        self._txn = txn

    def __getattr__(self, name):
        return getattr(self._txn, name)

    def commit(self):
        self._txn.abort()
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.commit() if kind is None else self._txn.abort()


class FailingEnvironment:
    """An environment whose commits fail; ``counted``: at the page that makes them count."""

    def __init__(self, environment, counted=False):
        self._environment = environment
        self._counted = counted
        self._failed = False

    def __getattr__(self, name):
        return getattr(self._environment, name)

    def begin(self, *args, write=False, **options):
        if self._failed and self._counted:
            raise lmdb.PanicError("mdb_txn_begin: Update of meta page failed")
        self._failed = self._failed or write
        txn = self._environment.begin(*args, write=write, **options)
        return FailingCommit(txn) if write else txn


CHANGES = (
    lambda store: store.write(NAME, b"1"),
    lambda store: store.delete(NAME),
    lambda store: store.delete_many([NAME]),
)


async def test_a_commit_that_failed_where_it_begins_to_count_has_an_unknown_outcome(config):
    for change in CHANGES:
        path = config["path"] + uuid.uuid4().hex
        store = await LmdbBackend().create({**config, "path": path})
        await store.write(NAME, b"0")
        store._shared.environment = FailingEnvironment(store._environment, counted=True)
        with pytest.raises(OutcomeUnknown):
            await change(store)
        # LMDB itself refuses an environment after this: it must be opened again.
        with pytest.raises(StoreClosed, match="open"):
            await store.read(NAME)
        await store.close()
        again = await LmdbBackend().connect({**config, "path": path})
        assert (await again.read(NAME)).data == b"0"
        await again.close()


async def test_a_commit_that_failed_before_was_no_commit(config):
    store = await LmdbBackend().create(config)
    await store.write(NAME, b"0")
    sound = store._environment
    for change in CHANGES:
        store._shared.environment = FailingEnvironment(sound)
        with pytest.raises(StoreIOError):
            await change(store)
        assert (await store.read(NAME)).data == b"0"
    store._shared.environment = sound
    await store.write(NAME, b"1")
    await store.close()


async def test_nobody_else_may_look_into_what_is_made_whatever_the_umask_is(config, tmp_path):
    before = os.umask(0)
    try:
        config["path"] = str(tmp_path / "a" / "b" / "s")
        store = await LmdbBackend().create(config)
        await store.write(NAME, b"0")
        await store.close()
    finally:
        os.umask(before)
    made = list(tmp_path.rglob("*"))
    assert {p.name for p in made} >= {"a", "b", "s", "data.mdb", "lock.mdb", "lock"}
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("path", ["with\0nul", "", "\ud800", b"bytes", 7, None])
async def test_what_is_no_path_is_refused_by_name(path):
    for call in (LmdbBackend().create, LmdbBackend().connect, LmdbBackend().exists):
        with pytest.raises(StoreConfigError, match="path"):
            await call({"backend": "lmdb", "path": path})
    with pytest.raises(d.ConfigError, match="path"):
        await d.create_database(store={"backend": "lmdb", "path": path})


async def test_several_names_are_read_at_one_moment(config):
    store = await LmdbBackend().create(config)
    names = [f"{i:032x}" for i in range(20)]
    await store.write_many([Write(name, b"0") for name in names])
    begun = []

    class Counting(FailingEnvironment):
        def begin(self, *args, **options):
            begun.append(1)
            return self._environment.begin(*args, **options)

    store._shared.environment = Counting(store._environment)
    assert set(await store.read_many([*names, NAME])) == set(names)
    assert len(begun) == 1
    await store.close()


async def test_it_is_closed_under_cancellation_too(config):
    store = await LmdbBackend().create(config)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.close()
    with pytest.raises(StoreClosed):
        await store.read(NAME)
    await LmdbBackend().delete(config)
    store = await LmdbBackend().create(config)
    assert await store.read(NAME) is None
    await store.close()


@pytest.mark.parametrize("size", [1, 4095, 4096, 8191])
async def test_an_environment_that_ends_within_its_first_pages_says_what_to_do(config, size):
    await (await LmdbBackend().create(config)).close()
    os.truncate(os.path.join(config["path"], "data.mdb"), size)
    for call in (
        lambda: LmdbBackend().connect(config),
        lambda: LmdbBackend().connect({**config, "read-only": True}),
        lambda: LmdbBackend().create(config),
        lambda: LmdbBackend().exists(config),
    ):
        with pytest.raises(CorruptValue, match=f"after {size} bytes.*or remove data.mdb"):
            await call()
    for name in ("data.mdb", "lock.mdb"):
        os.unlink(os.path.join(config["path"], name))
    await (await LmdbBackend().create(config)).close()


CUT = """
    import os, sys
    import anyio, lmdb
    from datahike_async.konserve import CorruptValue
    from datahike_async_lmdb import LmdbBackend
    from datahike_async_lmdb.whole import missing_bytes

    config = {"path": sys.argv[1], "map-size": 1 << 20}
    file = os.path.join(config["path"], "data.mdb")

    async def read():
        store = await LmdbBackend().connect(config)
        names = [name async for page in store.names() for name in page]
        await store.read_many(names)
        await store.write(names[0], bytes(9000))
        await store.close()

    whole = open(file, "rb").read()
    for size in range(8192, len(whole), 2048):
        with open(file, "wb") as out:
            out.write(whole[:size])
        try:
            anyio.run(read)
        except CorruptValue as error:
            assert f"data.mdb was cut off after {size} bytes" in str(error), error
            print("damaged", flush=True)
        else:
            print("read", flush=True)
"""


async def with_holes(path):
    """Make blobs of many sizes, until LMDB leaves out pages at the end; return where it did.

    It does so now and then, for one of these seeds or the other.
    """
    for seed in (8, 9, 38, 39, *range(40, 100)):
        chance = random.Random(seed)
        place = f"{path}-{seed}"
        store = await LmdbBackend().create({"path": place, "map-size": 1 << 28})
        environment, file = store._environment, store._shared._data
        try:
            for _ in range(60):
                with environment.begin(write=True, db=store._blobs) as txn:
                    for _ in range(chance.randrange(1, 20)):
                        name = f"{chance.randrange(300):032x}".encode()
                        if chance.random() < 0.5:
                            txn.put(name, bytes(8 + chance.randrange(20_000)))
                        else:
                            txn.delete(name)
                pages = environment.info()["last_pgno"] + 1
                if os.fstat(file).st_size < pages * 4096:
                    return place
        finally:
            await store.close()
    raise AssertionError("LMDB left out no page")


def test_an_environment_that_was_cut_off_is_damaged_and_ends_no_process(tmp_path):
    path = str(tmp_path / "s")
    anyio.run(filled, path)
    program = [sys.executable, "-c", textwrap.dedent(CUT), path]
    process = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "damaged" in process.stdout


async def filled(path):
    store = await LmdbBackend().create({"path": path, "map-size": MIB})
    for size in (100, 3000, 9000, 60_000):
        await store.write_many([Write(f"{size + n:032x}", bytes(size), None) for n in range(4)])
    await store.delete_many([f"{9000 + n:032x}" for n in range(4)])
    await store.close()


async def test_an_environment_without_pages_that_are_free_is_whole(tmp_path):
    path = await with_holes(str(tmp_path / "s"))
    store = await LmdbBackend().connect({"path": path, "map-size": MIB})
    names = [name async for page in store.names() for name in page]
    assert len(await store.read_many(names)) == len(names)
    await store.close()


async def test_who_reads_unseen_by_writers_keeps_them_out_meanwhile(config, monkeypatch):
    """As one who may not write to the file in which LMDB notes who reads."""
    store = await LmdbBackend().create(config)
    await store.write(NAME, b"0")
    await store.close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    reader = await LmdbBackend().connect({**config, "read-only": True})
    seen = []

    def write():
        writing = os.open(config["path"], os.O_RDONLY)
        try:
            fcntl.flock(writing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append("a writer")
        except BlockingIOError:
            seen.append("nobody")
        finally:
            os.close(writing)

    class Watched:
        def begin(self, *args, **options):
            write()
            return environment.begin(*args, **options)

        def __getattr__(self, name):
            return getattr(environment, name)

    environment = reader._shared.environment
    reader._shared.environment = Watched()
    assert (await reader.read(NAME)).data == b"0"
    assert await reader.read_many([NAME])
    assert [page async for page in reader.names()] == [[NAME]]
    write()
    assert seen == ["nobody", "nobody", "nobody", "a writer"]
    await reader.close()
