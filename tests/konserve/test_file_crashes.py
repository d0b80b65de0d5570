"""The file backend against crashes, torn writes, full disks, failing syncs and other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import uuid
import zlib

import pytest

from datahike_async.konserve import (
    ABSENT,
    Assoc,
    CorruptValue,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreFull,
    StoreIOError,
    UnsupportedEncoding,
    connect_store,
    create_store,
)
from datahike_async.konserve.backends import file_io
from datahike_async.konserve.backends.file import FileBlobStore

pytestmark = pytest.mark.anyio


class Crash(BaseException):
    """The process is gone: nothing after the step happens."""


@pytest.fixture
def config(tmp_path):
    return {"backend": "file", "id": str(uuid.uuid4()), "path": str(tmp_path / "s")}


STEPS = [
    "file-synced",
    "locked",
    "renamed",
    "folder-synced",
    "log-open",
    "log-written",
    "log-synced",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [0, 1, 2])
async def test_a_crash_leaves_the_old_or_the_new_state(config, step, nth):
    store = await create_store(config)
    revision = await store.assoc("head", 0)
    revision = await store.journal_append("head", b"r0", expected_revision=revision)
    await store.release()
    blobs = FileBlobStore(config["path"])
    left = nth

    def steps(name):
        nonlocal left
        if name == step:
            if left == 0:
                raise Crash
            left -= 1

    blobs._steps = steps
    store = await connect_store(config)
    await store.blobs.close()
    store.blobs = blobs
    acknowledged = [(0, [b"r0"])]
    attempted = []
    with pytest.raises(Crash):
        for i in range(1, 6):
            records = acknowledged[-1][1]
            attempted = [(acknowledged[-1][0], [*records, b"r%d" % i])]
            revision = await store.journal_append("head", b"r%d" % i, expected_revision=revision)
            acknowledged.append(attempted[0])
            attempted = [(i, [])]
            _, revision = await store.multi_assoc(
                [Assoc(f"pack{i}", b"x" * i, binary=True),
                 Assoc("head", i, expected_revision=revision)]
            )  # fmt: skip
            acknowledged.append(attempted[0])
    again = await connect_store(config)
    value, records, revision = await again.journal("head")
    assert (value, list(records)) in [acknowledged[-1], *attempted]
    if value:
        assert await again.bget(f"pack{value}") == b"x" * value
    revision = await again.journal_append("head", b"after", expected_revision=revision)
    assert (await again.journal("head"))[1][-1] == b"after"
    await again.release()


async def test_a_torn_record_is_ignored_and_overwritten(config, tmp_path):
    store = await create_store(config)
    revision = await store.assoc("h", 0)
    revision = await store.journal_append("h", b"first", expected_revision=revision)
    await store.release()
    (path,) = (tmp_path / "s").glob("*.log")
    before = path.read_bytes()
    mark = path.with_suffix(".mark").read_bytes()
    store = await connect_store(config)
    second = os.urandom(3000)
    await store.journal_append("h", second, expected_revision=revision)
    await store.release()
    after = path.read_bytes()
    # Any of its sectors may have reached the disk, in any order.
    for kept in range(63):
        torn = b"".join(
            (after if at >= 6 * 512 or kept >> at // 512 & 1 else before)[at : at + 512]
            for at in range(0, len(after), 512)
        )
        path.write_bytes(torn)
        path.with_suffix(".mark").write_bytes(mark)
        store = await connect_store(config)
        value, records, found = await store.journal("h")
        assert (value, list(records), found) == (0, [b"first"], revision)
        if kept % 9 == 0:
            await store.journal_append("h", b"3", expected_revision=revision)
            assert list((await store.journal("h"))[1]) == [b"first", b"3"]
            # Nothing of the torn one is left, for it could make the next torn one look damaged.
            assert not path.read_bytes()[100:].strip(b"\0")
        await store.release()


async def test_whatever_was_appended_is_read(config):
    store = await create_store(config)
    revision = await store.assoc("h", 0)
    large = os.urandom(1 << 20) * 65  # more than any sensible bound on a record
    revision = await store.journal_append("h", large, expected_revision=revision)
    revision = await store.journal_append("h", b"after", expected_revision=revision)
    await store.release()
    store = await connect_store(config)
    value, records, found = await store.journal("h")
    assert (value, list(records), found) == (0, [large, b"after"], revision)
    await store.release()


async def test_short_writes_are_continued(config, monkeypatch):
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: original(fd, bytes(data)[:7], at))
    store = await create_store(config)
    value = list(range(50))
    revision = await store.assoc("k", value)
    revision = await store.journal_append("k", b"record" * 9, expected_revision=revision)
    assert await store.journal("k") == (value, [b"record" * 9], revision)
    await store.release()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_stops_a_write_and_no_more(config, monkeypatch, code):
    store = await create_store(config)
    revision = await store.assoc("k", 1)

    def full(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for call in (
            store.assoc("k", 2, expected_revision=revision),
            store.multi_assoc({"a": 1, "b": 2}),
            store.journal_append("k", b"x", expected_revision=revision),
        ):
            with pytest.raises(StoreFull, match="No space"):
                await call
    assert await store.get("k") == 1
    assert not await store.exists("a")
    revision = await store.journal_append("k", b"x", expected_revision=revision)
    assert await store.assoc("k", 2, expected_revision=revision)
    left_behind = [n for n in os.listdir(config["path"]) if n.endswith(file_io.TEMPORARY)]
    assert left_behind == []
    await store.release()


async def test_a_failed_sync_before_the_publication_closes_the_store(config, monkeypatch):
    store = await create_store(config)
    await store.assoc("k", 1)

    def broken(_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreIOError):
            await store.assoc("k", 2)
    # The disk may have dropped anything: nothing is answered until the store is opened again.
    with pytest.raises(StoreClosed, match="open it again"):
        await store.get("k")
    again = await connect_store(config)
    assert await again.get("k") == 1
    await again.release()


async def test_a_failed_sync_of_the_publication_is_an_unknown_outcome(config, monkeypatch):
    store = await create_store(config)
    revision = await store.assoc("k", 1)

    def broken(_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OutcomeUnknown):
            await store.journal_append("k", b"x", expected_revision=revision)
    again = await connect_store(config)
    with monkeypatch.context() as patch:
        patch.setattr(file_io, "sync_folder", broken)
        with pytest.raises(OutcomeUnknown):
            await again.assoc("other", 1)
    await again.release()


RACE = """
    import anyio, sys
    from datahike_async.konserve import RevisionMismatch, connect_store

    async def main():
        store = await connect_store({config!r})
        for i in range({rounds}):
            while True:
                value, records, revision = await store.journal("counter")
                try:
                    if len(records) < 7:
                        await store.journal_append("counter", b"+", expected_revision=revision)
                    else:
                        total = value + len(records) + 1
                        await store.assoc("counter", total, expected_revision=revision)
                    break
                except RevisionMismatch:
                    continue
        await store.release()

    anyio.run(main)
"""


async def test_processes_race_and_nothing_is_lost(config):
    store = await create_store(config)
    await store.assoc("counter", 0, expected_revision=ABSENT)
    program = textwrap.dedent(RACE).format(config=config, rounds=60)
    racing = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in racing] == [0, 0, 0]
    value, records, _ = await store.journal("counter")
    assert value + len(records) == 180
    await store.release()


async def test_files_are_private_and_links_are_not_followed(config, tmp_path):
    store = await create_store(config)
    await store.assoc("k", 1)
    folder = tmp_path / "s"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}
    (blob,) = folder.glob("*.ksv")
    elsewhere = tmp_path / "elsewhere"
    blob.rename(elsewhere)
    blob.symlink_to(elsewhere)
    with pytest.raises(StoreIOError):
        await store.get("k")
    await store.release()


async def test_what_is_no_store_is_refused(config, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreConfigError, match="not empty"):
        await create_store(config)
    (folder / "store").write_text("something else")
    with pytest.raises(CorruptValue):
        await connect_store(config)
    for number, message in ((1, "before version 0.1.0"), (99, "Upgrade")):
        text = f"konserve-file {number} {config['id']}"
        if number > 1:
            text += f" {zlib.crc32(text.encode()):08x}"
        (folder / "store").write_text(text)
        with pytest.raises(UnsupportedEncoding, match=message):
            await connect_store(config)
    text = f"konserve-file 2 {uuid.uuid4()}"
    (folder / "store").write_text(f"{text} {zlib.crc32(text.encode()):08x}")
    with pytest.raises(StoreConfigError, match="another store"):
        await connect_store(config)
    with pytest.raises(StoreConfigError, match="path"):
        await create_store({"backend": "file"})


async def test_a_blob_cut_short_is_found(config, tmp_path):
    store = await create_store(config)
    await store.assoc("k", "value")
    (blob,) = (tmp_path / "s").glob("*.ksv")
    whole = blob.read_bytes()
    for length in range(len(whole)):
        blob.write_bytes(whole[:length])
        with pytest.raises(CorruptValue):
            await store.get("k")
    blob.write_bytes(whole)
    assert await store.get("k") == "value"
    with pytest.raises(RevisionMismatch):
        await store.assoc("k", 1, expected_revision="no.such")
    await store.release()
