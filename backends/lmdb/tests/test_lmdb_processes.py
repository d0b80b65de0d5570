"""Several processes at one LMDB store: racing, stopped, killed, out of files."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid

import anyio
import lmdb
import pytest
from datahike_async_lmdb import LmdbBackend

from datahike_async.konserve import (
    ABSENT,
    RevisionMismatch,
    StoreBusy,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
)
from datahike_async.konserve.backends import file_io

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
MIB = 1 << 20


def start(config, body):
    program = """
        import anyio, sys
        from datahike_async.konserve import RevisionMismatch
        from datahike_async_lmdb import LmdbBackend
        import uuid

        async def main():
            store = await LmdbBackend().connect({config!r})
            name = {name!r}
        {body}
            await store.close()

        anyio.run(main)
    """
    text = textwrap.dedent(program)
    text = text.replace("{body}", textwrap.indent(textwrap.dedent(body), "    "))
    text = text.replace("{config!r}", repr(config).replace("UUID(", "uuid.UUID("))
    text = text.replace("{name!r}", repr(NAME))
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)


COUNT = """
for _ in range(40):
    while True:
        blob = await store.read(name)
        try:
            await store.write(name, str(int(blob.data) + 1).encode(), blob.revision)
            break
        except RevisionMismatch:
            pass
"""


STOPPED = """
import os, signal
store._shared.allow_writing(1 << 20, 10)
with store._writing([name]) as txn:
    print("writing", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_who_connects_beside_a_stopped_writer_reads(config):
    store = await LmdbBackend().create(config)
    revision = await store.write(NAME, b"0")
    await store.close()
    process = start(config, STOPPED)
    try:
        await anyio.to_thread.run_sync(process.stdout.readline)
        await anyio.to_thread.run_sync(os.waitpid, process.pid, os.WUNTRACED)
        hurried = {**config, "lock-seconds": 0.2}
        # Nothing of this waits for a lock, which with these settings would end the test.
        patient = {**config, "lock-seconds": 1000}
        with anyio.fail_after(60):
            assert await LmdbBackend().exists(patient)
            one = await LmdbBackend().connect(patient)
            two = await LmdbBackend().connect(hurried)
            for _ in range(2):
                for store in (one, two):
                    assert (await store.read(NAME)).data == b"0"
                with pytest.raises(StoreBusy, match=f"process {process.pid} "):
                    await two.write(NAME, b"1", revision)
            os.kill(process.pid, signal.SIGCONT)
            await anyio.to_thread.run_sync(process.wait)
            revision = await one.write(NAME, b"1", revision)
            assert (await two.read(NAME)).revision == revision
    finally:
        process.kill()
        process.communicate()
    await one.close()
    await two.close()


async def test_opening_without_files_left_is_an_error_of_ours_and_leaves_none_open(config):
    await (await LmdbBackend().create(config)).close()
    backend, before = LmdbBackend(), set(os.listdir("/proc/self/fd"))
    limits, failed = resource.getrlimit(resource.RLIMIT_NOFILE), 0
    for more in range(20):
        first = os.dup(0)
        os.close(first)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + more, limits[1]))
        try:
            backend._connect(config["path"], MIB, None, 1.0, read_only=False).close_now()
            backend._exists(config["path"], MIB, read_only=False)
        except StoreIOError:
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert 0 < failed < 20
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself


async def test_looking_for_a_store_that_vanishes_makes_nothing(config, monkeypatch, tmp_path):
    await (await LmdbBackend().create(config)).close()
    getsize = os.path.getsize

    def deleted(path):
        size = getsize(path)
        shutil.rmtree(config["path"])
        return size

    monkeypatch.setattr(os.path, "getsize", deleted)
    assert not await LmdbBackend().exists(config)
    assert list(tmp_path.iterdir()) == []


async def test_processes_race_and_nothing_is_lost(config):
    store = await LmdbBackend().create(config)
    await store.write(NAME, b"0", ABSENT)
    racing = [start(config, COUNT) for _ in range(3)]
    codes = [await anyio.to_thread.run_sync(p.wait) for p in racing]
    for process in racing:
        process.stdout.close()
    assert codes == [0, 0, 0]
    assert (await store.read(NAME)).data == b"120"
    await store.close()


async def committed_elsewhere(config, value):
    other = start(config, f"await store.write(name, {value!r})")
    assert await anyio.to_thread.run_sync(other.wait) == 0
    other.stdout.close()


async def test_what_another_process_may_still_be_syncing_is_synced_before_it_is_shown(
    config, monkeypatch
):
    store = await LmdbBackend().create(config)
    await store.write(NAME, b"0")
    synced = []
    monkeypatch.setattr(file_io, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    # One that has let go of the lock has synced what it committed.
    await committed_elsewhere(config, b"1")
    assert (await store.read(NAME)).data == b"1"
    assert synced == []
    await committed_elsewhere(config, b"2")
    committing = os.open(config["path"], os.O_RDONLY)
    fcntl.flock(committing, fcntl.LOCK_EX)
    for _ in range(2):
        assert (await store.read(NAME)).data == b"2"
        assert await store.read_many([NAME])
        assert [page async for page in store.names()] == [[NAME]]
    assert synced == [os.stat(os.path.join(config["path"], "data.mdb")).st_ino]
    fcntl.flock(committing, fcntl.LOCK_UN)
    await committed_elsewhere(config, b"3")
    fcntl.flock(committing, fcntl.LOCK_EX)

    def broken(_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(file_io, "fdatasync", broken)
    with pytest.raises(StoreIOError):
        await store.read(NAME)
    fcntl.flock(committing, fcntl.LOCK_UN)
    assert (await store.read(NAME)).data == b"3"
    # What is our own was synced when it was committed, and what changed nothing is none.
    await store.write(NAME, b"4")
    assert not await store.delete("cd" * 16)
    fcntl.flock(committing, fcntl.LOCK_EX)
    assert (await store.read(NAME)).data == b"4"
    os.close(committing)
    await store.close()


async def test_a_map_that_another_process_grew_is_followed(config):
    store = await LmdbBackend().create(config)
    first = await store.write(NAME, b"0")
    grower = start(config, "await store.write('cd' * 16, bytes(6 << 20))")
    assert await anyio.to_thread.run_sync(grower.wait) == 0
    grower.stdout.close()
    assert len((await store.read("cd" * 16)).data) == 6 * MIB
    second = await store.write(NAME, b"1", first)
    assert (await store.read(NAME)).revision == second
    with pytest.raises(RevisionMismatch):
        await store.write(NAME, b"2", first)
    await store.close()


HANG = """
import sys, time
with store._environment.begin() as txn:
    print("reading", flush=True)
    time.sleep(60)
"""


async def test_a_reader_that_was_killed_pins_no_pages(config):
    store = await LmdbBackend().create(config)
    hanging = start(config, HANG)
    await anyio.to_thread.run_sync(hanging.stdout.readline)
    assert str(hanging.pid) in store._environment.readers()
    os.kill(hanging.pid, signal.SIGKILL)
    await anyio.to_thread.run_sync(hanging.wait)
    hanging.stdout.close()
    await store.close()
    again = await LmdbBackend().connect(config)
    assert str(hanging.pid) not in again._environment.readers()
    await again.close()


ANEW = """
await store.close()
await LmdbBackend().delete({config!r})
store = await LmdbBackend().create({config!r})
await store.write(name, b"acknowledged")
"""


async def test_a_store_that_another_process_made_anew_is_not_taken_for_the_one_that_is_open(config):
    old = await LmdbBackend().create(config)
    await old.write(NAME, b"old")
    other = start(config, ANEW)
    assert await anyio.to_thread.run_sync(other.wait) == 0
    other.stdout.close()
    assert await LmdbBackend().exists(config)
    with pytest.raises(StoreExists):
        await LmdbBackend().create(config)
    with pytest.raises(StoreConfigError, match="another store"):
        await LmdbBackend().delete({**config, "id": uuid.uuid4()})
    with pytest.raises(StoreNotFound):
        await old.write(NAME, b"lost")
    fresh = await LmdbBackend().connect(config)
    assert (await fresh.read(NAME)).data == b"acknowledged"
    await fresh.close()
    await old.close()


@pytest.mark.parametrize("anew", [False, True])
async def test_a_store_that_is_deleted_while_it_is_opened_is_not_there(
    config, tmp_path, monkeypatch, anew
):
    await (await LmdbBackend().create(config)).close()
    data, genuine = tmp_path / "s" / "data.mdb", lmdb.open

    def slow(*arguments, **options):
        opened = genuine(*arguments, **options)
        content = data.read_bytes()
        data.rename(tmp_path / "gone")
        if anew:
            data.write_bytes(content)
        return opened

    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr("datahike_async_lmdb.environment.lmdb.open", slow)
        assert not await LmdbBackend().exists(config)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself
    assert await LmdbBackend().exists(config) == anew
