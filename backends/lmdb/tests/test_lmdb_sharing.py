"""Several stores of one process at one path, some of which are deleted or made anew."""

from __future__ import annotations

import os
import threading

import anyio
import lmdb
import pytest
from datahike_async_lmdb import LmdbBackend

from datahike_async.konserve import (
    StoreClosed,
    StoreConfigError,
    StoreNotFound,
)
from datahike_async.konserve.backends import file_io

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
MIB = 1 << 20


async def test_the_map_grows_only_when_no_store_of_the_process_reads(config):
    store = await LmdbBackend().create(config)
    other = await LmdbBackend().connect(config)
    await store.write(NAME, b"0")
    reading, go_on = threading.Event(), threading.Event()
    done = []

    def read_slowly():
        with other._environment.begin(db=other._blobs, buffers=True) as txn:
            found = txn.get(NAME.encode())
            reading.set()
            assert go_on.wait(20)
            # The map it lies in must still be there.
            return bytes(found)[-1:]

    async def read():
        done.append(await other._hop(read_slowly))

    async def write():
        await store.write("cd" * 16, bytes(4 * MIB))
        done.append("written")

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.to_thread.run_sync(reading.wait)
        group.start_soon(write)
        await anyio.sleep(0.1)
        seen = list(done)
        go_on.set()
    assert seen == []
    assert set(done) == {b"0", "written"}
    assert len((await other.read("cd" * 16)).data) == 4 * MIB
    await other.close()
    await store.close()


async def test_reads_do_not_wait_for_a_write(config):
    store = await LmdbBackend().create(config)
    await store.write(NAME, b"0")
    writing, go_on = threading.Event(), threading.Event()

    def write_slowly():
        with store._environment.begin(write=True, db=store._blobs):
            writing.set()
            assert go_on.wait(20)

    done = []

    async def read():
        done.append((await store.read(NAME)).data)

    async with anyio.create_task_group() as group:
        group.start_soon(store._hop, write_slowly)
        await anyio.to_thread.run_sync(writing.wait)
        group.start_soon(read)
        for _ in range(100):
            if done:
                break
            await anyio.sleep(0.02)
        seen = list(done)
        go_on.set()
    assert seen == [b"0"]
    await store.close()


async def test_a_store_that_was_deleted_takes_no_more_writes(config, tmp_path):
    old = await LmdbBackend().create(config)
    revision = await old.write(NAME, b"old")
    await LmdbBackend().delete(config)
    assert not (tmp_path / "s").exists()
    fresh = await LmdbBackend().create(config)
    assert await fresh.read(NAME) is None
    for call in (
        lambda: old.write(NAME, b"lost"),
        lambda: old.write(NAME, b"lost", revision),
        lambda: old.delete(NAME),
    ):
        with pytest.raises((StoreClosed, StoreNotFound)):
            await call()
    await fresh.write(NAME, b"fresh")
    await old.close()
    await fresh.close()
    again = await LmdbBackend().connect(config)
    assert (await again.read(NAME)).data == b"fresh"
    await again.close()


async def test_that_a_folder_has_the_environment_is_synced_too(config, tmp_path, monkeypatch):
    synced = []
    sync = file_io.sync_folder

    def watched(folder):
        sync(folder)
        names = os.listdir(folder)
        synced.append((os.fstat(folder).st_ino, "data.mdb" in names))

    monkeypatch.setattr(file_io, "sync_folder", watched)
    store = await LmdbBackend().create(config)
    made = ((tmp_path / "s").stat().st_ino, True)
    assert made in synced
    await store.close()
    # Whoever made it may have died before that.
    synced.clear()
    store = await LmdbBackend().connect(config)
    assert made in synced
    await store.close()


async def test_an_interrupted_deletion_can_be_finished(config, monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(5, "broken")

    for finish in ("delete", "create"):
        store = await LmdbBackend().create(config)
        await store.write(NAME, b"0")
        await store.close()
        with monkeypatch.context() as patch:
            patch.setattr("os.unlink", fail)
            with pytest.raises(Exception, match="broken"):
                await LmdbBackend().delete(config)
        assert not await LmdbBackend().exists(config)
        if finish == "delete":
            await LmdbBackend().delete(config)
            assert not (tmp_path / "s").exists()
    store = await LmdbBackend().create(config)
    assert await store.read(NAME) is None
    await store.close()


async def test_looking_at_what_is_not_ours_changes_nothing(config, tmp_path):
    path = tmp_path / "s"
    environment = lmdb.open(str(path), map_size=MIB, max_dbs=2)
    with environment.begin(write=True) as txn:
        txn.put(b"k", b"v")
    environment.close()
    before = (path / "data.mdb").read_bytes()
    assert not await LmdbBackend().exists(config)
    with pytest.raises(StoreNotFound):
        await LmdbBackend().connect(config)
    with pytest.raises(StoreConfigError, match="not empty"):
        await LmdbBackend().create(config)
    await LmdbBackend().delete(config)
    assert (path / "data.mdb").read_bytes() == before
