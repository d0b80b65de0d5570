"""The LMDB backend with several stores, processes and mishaps at one path."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import uuid

import anyio
import lmdb
import pytest
from datahike_async_lmdb import LmdbBackend

import datahike_async as d
from datahike_async.konserve import (
    ABSENT,
    CorruptValue,
    OutcomeUnknown,
    RevisionMismatch,
    StoreBusy,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
)
from datahike_async.konserve.backends import file_io
from datahike_async.konserve.blob import Write
from tests.mounts import run_mounted

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
MIB = 1 << 20


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def config(tmp_path):
    return {"id": uuid.uuid4(), "path": str(tmp_path / "s"), "map-size": MIB}


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


FULL = """
    import os, sys, uuid
    import anyio
    from datahike_async.konserve import KonserveError, StoreFull
    from datahike_async_lmdb import LmdbBackend

    async def main():
        config = {"id": uuid.uuid4(), "path": sys.argv[1] + "/s", "map-size": 1 << 20}
        store = await LmdbBackend().create(config)
        for i in range(1000):
            try:
                await store.write(f"{i:032x}", os.urandom(1000 + i * 997 % 60_000))
            except KonserveError as error:
                print(type(error).__name__)
                break
        assert await store.read(f"{i - 1:032x}") is not None
        assert await store.read(f"{i:032x}") is None
        await store.delete_many([f"{n:032x}" for n in range(40)])
        await store.write("ab" * 16, b"goes on")
        await store.close()

    anyio.run(main)
"""


@pytest.mark.parametrize("size", [2_000_000, 2_006_000, 2_012_000])
def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(tmp_path, size):
    assert run_mounted(tmp_path, f"size={size}", FULL) == "StoreFull\n"


OPENED_FULL = """
    import os, sys, uuid
    import anyio
    from datahike_async.konserve import StoreFull
    from datahike_async_lmdb import LmdbBackend

    async def main():
        config = {"id": uuid.uuid4(), "path": sys.argv[1] + "/s", "map-size": 1 << 20}
        await (await LmdbBackend().create(config)).close()
        os.unlink(config["path"] + "/lock.mdb")
        filler = os.open(sys.argv[1] + "/filler", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(filler, bytes(4096))
        except OSError:
            pass
        try:
            await LmdbBackend().connect(config)
        except StoreFull as error:
            print(type(error).__name__)
        os.close(filler)
        os.unlink(sys.argv[1] + "/filler")
        await (await LmdbBackend().connect(config)).close()

    anyio.run(main)
"""


def test_opening_on_a_full_disk_is_an_error_and_no_crash(tmp_path):
    assert run_mounted(tmp_path, "size=2000k", OPENED_FULL) == "StoreFull\n"


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


# -- processes ---------------------------------------------------------------------------------


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
