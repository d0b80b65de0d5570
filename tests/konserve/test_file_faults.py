"""The file backend where the system, the disk or a visitor misbehaves, in ways seldom met."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import uuid
from contextlib import suppress

import anyio
import pytest

from datahike_async.konserve import (
    ABSENT,
    CorruptValue,
    KonserveError,
    OutcomeUnknown,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreFull,
    StoreIOError,
    file_lock,
)
from datahike_async.konserve.backends import file_io
from datahike_async.konserve.backends.file import FileBackend
from datahike_async.konserve.blob import Write

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
NODE = "cd" * 16


def failing(code):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ELOOP])
async def test_what_says_nothing_of_the_disk_leaves_the_store_open(blobs, monkeypatch, code):
    await blobs.write(NAME, b"0")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(code))
        with pytest.raises(StoreIOError):
            await blobs.read(NAME)
        with pytest.raises(StoreIOError):
            await blobs.write(NAME, b"1")
    assert (await blobs.read(NAME)).data == b"0"
    await blobs.write(NAME, b"2")


CALLS = ("open", "close", "pread", "pwrite", "fsync", "fdatasync", "fstat", "stat", "listdir")


class FailingOnce:
    """Has the ``at``-th call of the system that a worker thread makes fail, from 0."""

    def __init__(self, patch, code):
        self.at, self.calls = None, 0
        for module, names in ((os, (*CALLS, "rename", "unlink")), (fcntl, ("flock",))):
            for name in names:
                patch.setattr(module, name, self._failing(getattr(module, name), name, code))

    def _failing(self, call, name, code):
        def made(*args, **options):
            if threading.current_thread() is threading.main_thread():
                return call(*args, **options)
            self.calls += 1
            if self.calls - 1 != self.at:
                return call(*args, **options)
            if name == "close":
                call(*args)  # as the system does: it is closed in any case
            raise OSError(code, os.strerror(code))

        return made


async def life(config):
    """Do with a store what is done with stores; errors of ours end a step, any other one all."""
    for step in (FileBackend().create, FileBackend().connect):
        with suppress(KonserveError):
            store = await step(config)
            try:
                with suppress(KonserveError):
                    revision = await store.write(NAME, b"0", ABSENT)
                    async with store.turn(NAME, revision):
                        revision = await store.append(NAME, b"1", revision)
                    await store.write_many([Write(NODE, b"pack"), Write(NAME, b"1", revision)])
                with suppress(KonserveError):
                    await store.read_journal(NAME)
                    await store.delete(NODE)
            finally:
                await store.close()
    with suppress(KonserveError):
        await FileBackend().delete(config)


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_wherever_the_system_fails_the_error_is_ours_and_nothing_stays_open(
    config, monkeypatch, first
):
    fails = FailingOnce(monkeypatch, (errno.EIO, errno.ENOSPC)[first % 2])
    await life(config)
    count = fails.calls
    assert count > 100
    for at in range(first, count, 4):
        path = f"{config['path']}-{at}"
        fails.calls, fails.at = 0, at
        await life({**config, "path": path})
        with anyio.fail_after(20):
            while held(path):  # a thread that waits for turns ends a little later
                await anyio.sleep(0.001)


def held(path):
    """Return what is open in a folder."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one by which they are listed
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [link for link in found if link.startswith(path)]


async def test_an_error_of_the_disk_closes_the_store(blobs, monkeypatch):
    await blobs.write(NAME, b"0")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(StoreIOError):
            await blobs.read(NAME)
    with pytest.raises(StoreClosed):
        await blobs.read(NAME)


async def test_who_waited_for_a_failed_sync_writes_nothing(blobs, monkeypatch):
    revision = await blobs.write(NAME, b"0")
    syncing, go_on = threading.Event(), threading.Event()

    def fail_late(_):
        syncing.set()
        assert go_on.wait(20)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(file_io, "fdatasync", fail_late)
    caught = {}

    async def append(record):
        try:
            await blobs.append(NAME, record, revision)
        except (OutcomeUnknown, StoreClosed) as error:
            caught[record] = type(error)

    async with anyio.create_task_group() as group:
        group.start_soon(append, b"1")
        await anyio.to_thread.run_sync(syncing.wait)
        group.start_soon(append, b"2")
        await anyio.sleep(0.05)
        go_on.set()
    # By caller: in which order the two tasks run again is up to the event loop.
    assert caught == {b"1": OutcomeUnknown, b"2": StoreClosed}


async def test_a_failed_group_leaves_no_files(blobs, monkeypatch):
    revision = await blobs.write(NAME, b"0")
    with monkeypatch.context() as patch:
        patch.setattr(file_io, "rename", failing(errno.ENOSPC))
        with pytest.raises(StoreFull):
            await blobs.write_many([Write(NODE, b"pack"), Write(NAME, b"1", revision)])
    assert not [entry for entry in os.listdir(blobs.path) if entry.endswith(file_io.TEMPORARY)]


async def test_a_deletion_whose_sync_failed_has_an_unknown_outcome(config, monkeypatch):
    for code in (errno.EIO, errno.ENOSPC):
        blobs = await FileBackend().create({**config, "path": config["path"] + str(code)})
        await blobs.write(NAME, b"0")
        with monkeypatch.context() as patch:
            patch.setattr(file_io, "sync_folder", failing(code))
            with pytest.raises(OutcomeUnknown):
                await blobs.delete(NAME)
        await blobs.close()


async def test_a_lock_that_fails_is_an_error_of_ours(blobs, monkeypatch):
    revision = await blobs.write(NAME, b"0")
    calls = (
        lambda: blobs.write(NAME, b"1"),
        lambda: blobs.write(NAME, b"1", revision),
        lambda: blobs.append(NAME, b"1", revision),
        lambda: blobs.delete(NAME),
    )
    with monkeypatch.context() as patch:
        patch.setattr(file_lock.fcntl, "flock", failing(errno.ENOLCK))
        for call in calls:
            with pytest.raises(StoreIOError, match="lock"):
                await call()
        # Readers need none.
        assert (await blobs.read_journal(NAME)).data == b"0"
    assert (await blobs.read(NAME)).data == b"0"


async def test_a_damaged_blob_can_be_replaced_and_removed(blobs, tmp_path):
    for repair in (lambda: blobs.write(NAME, b"1"), lambda: blobs.delete(NAME)):
        await blobs.write(NAME, b"0")
        (tmp_path / "s" / f"{NAME}.ksv").write_bytes(b"KV")
        with pytest.raises(CorruptValue):
            await blobs.read(NAME)
        with pytest.raises(CorruptValue):
            await blobs.write(NAME, b"1", "what.ever")
        assert await repair()
    assert await blobs.read(NAME) is None


async def test_a_range_beyond_the_end_is_cut(blobs):
    await blobs.write(NAME, b"0123456789")
    assert (await blobs.read(NAME, 4, 1 << 60)).data == b"456789"
    assert (await blobs.read(NAME, 50, 60)).data == b""
    assert (await blobs.read(NAME, 50)).data == b""


# -- making, opening and removing stores -------------------------------------------------------


async def test_one_of_two_that_create_a_store_wins(config, monkeypatch):
    both = threading.Barrier(2)
    original = os.listdir

    def together(path):
        found = original(path)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return found

    monkeypatch.setattr(os, "listdir", together)
    made, refused = [], []

    async def create():
        try:
            made.append(await FileBackend().create({"path": config["path"], "id": uuid.uuid4()}))
        except StoreExists as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(create)
        group.start_soon(create)
    assert (len(made), len(refused)) == (1, 1)
    await made[0].close()


async def test_an_interrupted_creation_can_be_repeated(config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(file_io, "rename", failing(errno.EIO))
        with pytest.raises(StoreIOError):
            await FileBackend().create(config)
    assert not await FileBackend().exists(config)
    store = await FileBackend().create(config)
    await store.close()


async def test_an_interrupted_deletion_can_be_finished(config, monkeypatch, tmp_path):
    for finish in ("delete", "create"):
        store = await FileBackend().create(config)
        await store.write(NAME, b"0")
        await store.close()
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", failing(errno.EIO))
            with pytest.raises(StoreIOError):
                await FileBackend().delete(config)
        assert not await FileBackend().exists(config)
        if finish == "delete":
            await FileBackend().delete(config)
            assert not (tmp_path / "s").exists()
    store = await FileBackend().create(config)
    assert await store.read(NAME) is None
    await store.close()


async def test_a_store_behind_a_link_is_removed_whole(config, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "real")
    for _ in range(2):
        store = await FileBackend().create(config)
        assert await store.read(NAME) is None
        await store.write(NAME, b"0")
        await store.close()
        await FileBackend().delete(config)
        assert list((tmp_path / "real").iterdir()) == []


async def test_a_lock_file_that_is_a_link_is_not_followed(config, tmp_path):
    await (await FileBackend().create(config)).close()
    (tmp_path / "s" / "lock").unlink()
    (tmp_path / "s" / "lock").symlink_to(tmp_path / "elsewhere")
    again = await FileBackend().connect(config)
    await again.write(NAME, b"0")
    await again.close()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_marker_without_an_id_is_damaged(config, tmp_path):
    await (await FileBackend().create(config)).close()
    for text in (b"konserve-file 2 nobody", b"konserve-file 2 nobody 0c0ffee0", b"\xff\xfe"):
        (tmp_path / "s" / "store").write_bytes(text)
        with pytest.raises(CorruptValue):
            await FileBackend().connect(config)


def open_files():
    return len(os.listdir("/proc/self/fd"))


async def test_files_are_closed_whatever_happens(config):
    store = await FileBackend().create(config)
    await store.append(NAME, b"x", await store.write(NAME, b"0"))
    await store.close()
    before = open_files()
    store = await FileBackend().connect(config)
    await store.read_journal(NAME)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.close()
    assert open_files() == before
    with pytest.raises(StoreClosed):
        await store.read(NAME)
    with pytest.raises(StoreConfigError):
        await FileBackend().connect({**config, "id": uuid.uuid4()})
    assert open_files() == before


# -- side by side ------------------------------------------------------------------------------


async def test_commits_and_reads_do_not_wait_for_a_large_write(blobs, monkeypatch):
    revision = await blobs.write(NAME, b"0")
    await blobs.write(NODE, b"node")
    revision = await blobs.append(NAME, b"1", revision)
    syncing, go_on = threading.Event(), threading.Event()
    original = file_io.temporary_file

    def slow(*args):
        syncing.set()
        assert go_on.wait(20)
        return original(*args)

    monkeypatch.setattr(file_io, "temporary_file", slow)
    async with anyio.create_task_group() as group:
        group.start_soon(blobs.write_many, [Write("ef" * 16, b"pack")])
        await anyio.to_thread.run_sync(syncing.wait)
        done = []

        async def others():
            done.append((await blobs.read(NODE)).data)
            await blobs.append(NAME, b"2", revision)
            done.append("appended")

        group.start_soon(others)
        for _ in range(100):
            if len(done) == 2:
                break
            await anyio.sleep(0.02)
        # Taken before the large write may go on, asserted when nothing can hang any more.
        seen = list(done)
        go_on.set()
    assert seen == [b"node", "appended"]
    assert (await blobs.read("ef" * 16)).data == b"pack"


async def test_closing_waits_for_what_is_under_way(config, monkeypatch):
    blobs = await FileBackend().create(config)
    writing, go_on = threading.Event(), threading.Event()
    original = file_io.temporary_file

    def slow(*args):
        writing.set()
        assert go_on.wait(20)
        return original(*args)

    monkeypatch.setattr(file_io, "temporary_file", slow)
    done = []

    async def write():
        await blobs.write(NAME, b"0")
        done.append("written")

    async def close():
        await blobs.close()
        done.append("closed")

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.to_thread.run_sync(writing.wait)
        group.start_soon(close)
        await anyio.sleep(0.05)
        assert done == []
        go_on.set()
    assert sorted(done) == ["closed", "written"]
    again = await FileBackend().connect(config)
    assert (await again.read(NAME)).data == b"0"
    await again.close()


async def test_many_deletions_share_one_sync(blobs, monkeypatch):
    names = [f"{i:032x}" for i in range(50)]
    await blobs.write_many([Write(name, b"x") for name in names])
    syncs = []
    original = file_io.sync_folder
    monkeypatch.setattr(file_io, "sync_folder", lambda fd: (syncs.append(1), original(fd)))
    assert await blobs.delete_many([*names, "ff" * 16]) == [True] * 50 + [False]
    assert len(syncs) == 1
    assert [page async for page in blobs.names()] == []
