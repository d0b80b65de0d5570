"""Logs of the file backend: what is shown of them, and when it is synced."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from anyio import to_thread

from datahike_async.konserve import (
    UNCHANGED,
    Appended,
    OutcomeUnknown,
    RevisionMismatch,
    UnsupportedOperation,
)
from datahike_async.konserve.backends import file_io, file_journal
from datahike_async.konserve.backends.file import FileBackend
from datahike_async.konserve.backends.file_names import SETTLED
from tests.konserve.logs import NAME, NODE, RECORDS, contents, file, opened_and_read, written

pytestmark = pytest.mark.anyio


def without_syncs(patch):
    """Let writes go on as they do, and none of them reach the disk."""
    for name in ("fsync", "fdatasync", "sync_folder"):
        patch.setattr(file_io, name, lambda _: None)


def unmarked(patch):
    """Let a writer die after its record, before it notes that this is durable."""
    patch.setattr(file_journal.Mark, "write", lambda *_: None)


class Events:
    """What is written and synced, and with which rights."""

    def __init__(self, monkeypatch):
        self.seen = []
        for name in ("write_all", "fdatasync", "fsync", "sync_folder", "create_file", "rename"):
            original = getattr(file_io, name)

            def note(*args, name=name, original=original):
                result = original(*args)
                self.seen.append((name, args))
                return result

            monkeypatch.setattr(file_io, name, note)

    def names(self):
        return [name for name, _ in self.seen]


# -- records -----------------------------------------------------------------------------------


async def test_a_record_that_no_reader_would_take_is_refused(blobs, monkeypatch):
    monkeypatch.setattr(file_journal, "LARGEST", 1000)
    revision = await blobs.write(NAME, b"0")
    with pytest.raises(UnsupportedOperation, match="1000"):
        await blobs.append(NAME, b"x" * 1001, revision)
    with pytest.raises(ValueError, match="byte"):
        await blobs.append(NAME, b"", revision)
    await blobs.append(NAME, b"x" * 1000, revision)
    assert (await blobs.read_journal(NAME)).records == [b"x" * 1000]


async def test_a_commit_is_one_write_and_one_sync_and_a_note_that_waits_for_none(
    blobs, monkeypatch
):
    revision = await written(blobs)
    events = Events(monkeypatch)
    await blobs.append(NAME, b"fourth", revision)
    assert events.names() == ["write_all", "fdatasync", "write_all"]


async def test_the_first_record_of_a_log_makes_known_that_there_is_one(blobs, monkeypatch):
    revision = await blobs.write(NAME, b"0")
    events = Events(monkeypatch)
    await blobs.append(NAME, b"first", revision)
    # The record, and then the mark, without which a log that is gone would not be missed.
    assert events.names()[-4:] == ["write_all", "fdatasync", "write_all", "fdatasync"]


async def test_a_record_that_is_just_being_written_is_no_damage(blobs, config, monkeypatch):
    revision = await written(blobs)
    reader = await FileBackend().connect(config)
    known = (await reader.read_journal(NAME)).revision
    await blobs.append(NAME, b"x" * 50, revision)
    path = file(config, ".log")
    whole = path.read_bytes()
    at = whole.index(b"x" * 50) + 25
    path.write_bytes(whole[:at] + bytes(len(whole) - at))
    file(config, ".mark").unlink()
    paused = []

    def written_meanwhile(seconds):
        paused.append(seconds)
        path.write_bytes(whole)

    monkeypatch.setattr(file_journal.time, "sleep", written_meanwhile)
    assert (await reader.read_journal(NAME, known)).records == [b"x" * 50]
    assert len(paused) == 1
    await reader.close()


async def test_reading_on_reads_what_is_new_alone(blobs, config, monkeypatch):
    other = await FileBackend().connect(config)
    revision = await written(blobs, [b"x" * 1000] * 100)
    assert len((await other.read_journal(NAME)).records) == 100
    read = []
    original = os.pread
    monkeypatch.setattr(
        os, "pread", lambda *args: (lambda data: (read.append(len(data)), data)[1])(original(*args))
    )
    assert await other.read_journal(NAME, revision) is UNCHANGED
    quiet = sum(read)
    last = await blobs.append(NAME, b"new", revision)
    read.clear()
    assert await other.read_journal(NAME, revision) == Appended([b"new"], last)
    # The zeros behind it too, which say that nothing follows.
    assert sum(read) - quiet < file_journal.ROOM
    await other.close()


# -- what is not durable is not shown ------------------------------------------------------------


@pytest.mark.parametrize("opened_before", [True, False])
async def test_a_record_that_its_writer_did_not_sync_is_synced_before_it_is_shown(
    blobs, config, monkeypatch, opened_before
):
    reader = await FileBackend().connect(config)
    revision = await written(blobs)
    if opened_before:
        await reader.read_journal(NAME)
    with monkeypatch.context() as patch:
        without_syncs(patch)
        unmarked(patch)
        await blobs.append(NAME, b"unsynced", revision)
    events = Events(monkeypatch)
    assert (await reader.read_journal(NAME)).records == [*RECORDS, b"unsynced"]
    # Once, with a handle that is for reading.
    assert events.names() == ["fdatasync"]
    fd = events.seen[0][1][0]
    assert os.path.samestat(os.fstat(fd), os.stat(file(config, ".log")))
    with pytest.raises(OSError, match="Bad file"):
        os.write(fd, b"x")
    await reader.read_journal(NAME)
    assert events.names() == ["fdatasync"]
    await reader.close()


async def test_what_its_writer_noted_as_durable_is_shown_without_a_sync(blobs, config, monkeypatch):
    await written(blobs)
    reader = await FileBackend().connect(config)
    events = Events(monkeypatch)
    assert (await reader.read_journal(NAME)).records == RECORDS
    assert events.names() == []
    await reader.close()


async def test_a_record_that_cannot_be_synced_is_not_shown_and_those_before_it_are(
    blobs, config, monkeypatch
):
    known = await written(blobs)
    with monkeypatch.context() as patch:
        without_syncs(patch)
        unmarked(patch)
        last = await blobs.append(NAME, b"unsynced", known)
    reader = await FileBackend().connect(config)

    def broken(_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(file_io, "fdatasync", broken)
        journal = await reader.read_journal(NAME)
        assert (journal.records, journal.revision) == (RECORDS, known)
        assert await reader.read_journal(NAME, known) is UNCHANGED
    assert await reader.read_journal(NAME, known) == Appended([b"unsynced"], last)
    await reader.close()


async def test_a_name_that_its_writer_did_not_sync_is_synced_before_it_is_shown(
    blobs, config, monkeypatch
):
    await written(blobs)
    reader = await FileBackend().connect(config)
    for read in (reader.read_journal, reader.read, reader.read_latest):
        # Killed between the rename and the folder's sync.
        with monkeypatch.context() as patch:

            def killed(name):
                if name == "renamed":
                    raise KeyboardInterrupt

            patch.setattr(blobs, "_steps", killed)
            with pytest.raises(KeyboardInterrupt):
                await blobs.write(NAME, b"new")
        with monkeypatch.context() as patch:
            events = Events(patch)
            assert (await read(NAME)).data == b"new"
            assert events.names() == ["sync_folder"]
        # Whoever writes next settles it for all.
        await blobs.write(NODE, b"x")
        with monkeypatch.context() as patch:
            events = Events(patch)
            assert (await read(NAME)).data == b"new"
            assert events.names() == []
    await reader.close()


@pytest.mark.parametrize("damage", [b"", b"\0" * 12, b"rubbish!" * 2])
async def test_without_a_whole_mark_everything_is_synced_and_shown(
    blobs, config, monkeypatch, damage
):
    await written(blobs)
    await blobs.close()
    for path in (file(config, ".mark"), Path(config["path"]) / SETTLED):
        path.write_bytes(damage)
    reader = await FileBackend().connect(config)
    events = Events(monkeypatch)
    journal = await reader.read_journal(NAME)
    assert journal.records == RECORDS
    assert {"fdatasync", "sync_folder"} <= set(events.names())
    await reader.append(NAME, b"fourth", journal.revision)
    await reader.close()
    assert (await opened_and_read(config)).records == [*RECORDS, b"fourth"]


async def test_records_of_another_process_are_durable_before_ours_follow(
    blobs, config, monkeypatch
):
    # Else a power cut could keep the later one of two, which looks like damage.
    other = await FileBackend().connect(config)
    revision = await written(blobs)
    with monkeypatch.context() as patch:
        without_syncs(patch)
        unmarked(patch)
        revision = await other.append(NAME, b"theirs", revision)
    events = Events(monkeypatch)
    await blobs.append(NAME, b"ours", revision)
    data = [bytes(args[1]) for name, args in events.seen if name == "write_all"]
    # Written again: a sync after one that failed says nothing about what that one lost.
    assert data[0].endswith(b"theirs")
    assert data[1].endswith(b"ours")
    assert events.names() == ["write_all", "fdatasync", "write_all", "fdatasync", "write_all"]
    await other.close()


async def test_what_could_not_be_synced_is_taken_back_before_others_take_it_for_synced(
    blobs, config, monkeypatch
):
    others = [await FileBackend().connect(config) for _ in range(2)]
    revision = await written(blobs)
    seen = []

    def broken(_):
        # While it is there one of the others reads it, and cannot sync it either.
        if not seen:
            seen.append(None)
            seen[0] = others[0]._read_journal(NAME, None)
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(file_io, "fdatasync", broken)
        with pytest.raises(OutcomeUnknown):
            await blobs.append(NAME, b"lost, " * 99, revision)
    assert (seen[0].records, seen[0].revision) == (RECORDS, revision)
    for i, other in enumerate(others):
        journal = await other.read_journal(NAME)
        assert journal.records == [*RECORDS, b"next"][: 3 + i]
        await other.append(NAME, b"next", journal.revision)
        await other.close()
    assert (await opened_and_read(config)).records == [*RECORDS, b"next", b"next"]


@pytest.mark.parametrize("then", [b"next", b"lost", b"longer"], ids=["same", "again", "longer"])
@pytest.mark.parametrize("polls", [0, 1])
@pytest.mark.parametrize("opened", ["before", "anew"])
async def test_who_was_shown_a_record_that_was_taken_back_learns_of_it(
    blobs, config, monkeypatch, then, polls, opened
):
    """A sync of its own seemed to succeed, as one after a failed one does."""
    reader = await FileBackend().connect(config)
    revision = await written(blobs)
    seen = []

    def broken(_):
        if not seen:
            seen.append(None)
            seen[0] = reader._read_journal(NAME, None)
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(file_io, "fdatasync", broken)
        patch.setattr(file_io, "settle_file", lambda _: None)
        with pytest.raises(OutcomeUnknown):
            await blobs.append(NAME, b"lost", revision)
    assert seen[0].records == [*RECORDS, b"lost"]
    known = seen[0].revision
    for _ in range(polls):
        assert (await reader.read_journal(NAME, known)).records == RECORDS
    writer = await FileBackend().connect(config)
    last = await writer.append(NAME, then, (await writer.read_journal(NAME)).revision)
    if opened == "anew":
        await reader.close()
        reader = await FileBackend().connect(config)
    if then == b"lost":
        assert last == known
        assert await reader.read_journal(NAME, known) is UNCHANGED
    else:
        with pytest.raises(RevisionMismatch):
            await reader.append(NAME, b"on top", known)
        assert (await reader.read_journal(NAME, known)).records == [*RECORDS, then]
    # Nor where more has followed.
    last = await writer.append(NAME, b"more", last)
    found = await reader.read_journal(NAME, known)
    assert found.records == ([b"more"] if then == b"lost" else [*RECORDS, then, b"more"])
    assert found.revision == last
    assert await reader.append(NAME, b"mine", last)
    assert (await opened_and_read(config)).records == [*RECORDS, then, b"more", b"mine"]
    for store in (reader, writer):
        await store.close()


class PowerCut(BaseException):
    """Ends a writer within a sync, as far as it got."""


@pytest.mark.parametrize("opened", ["before", "anew"])
@pytest.mark.parametrize("size", [300, 5000])
async def test_room_of_a_writer_that_was_killed_is_durable_before_a_record_is_laid_into_it(
    blobs, config, monkeypatch, size, opened
):
    monkeypatch.setattr(file_journal, "ROOM", 1024)
    other = await FileBackend().connect(config)
    revision = await written(blobs)
    if opened == "before":
        revision = await other.append(NAME, b"theirs", revision)
    records = (await blobs.read_journal(NAME)).records
    log = file(config, ".log")

    def cut(_):
        raise PowerCut

    def both():
        durable = log.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(file_io, "fsync", cut)
            with pytest.raises(PowerCut):
                blobs._append(NAME, b"killed" * 2000, revision)
        assert log.stat().st_size > durable, "room that no sync covers"

        def synced(_):
            nonlocal durable
            durable = log.stat().st_size

        with monkeypatch.context() as patch:
            patch.setattr(file_io, "fsync", synced)
            patch.setattr(file_io, "fdatasync", cut)
            with pytest.raises(PowerCut):
                other._append(NAME, b"x" * size, revision)
        # The file as it was synced last, and the sectors that were written by then.
        os.truncate(log, durable)

    await to_thread.run_sync(both)
    await other.close()
    found = await opened_and_read(config)
    assert found.records[: len(records)] == records


# -- readers ---------------------------------------------------------------------------------------


async def test_who_only_reads_opens_nothing_for_writing_and_changes_nothing(
    blobs, config, monkeypatch
):
    revision = await written(blobs)
    await blobs.write(NODE, b"node")
    await blobs.close()
    for path in (Path(config["path"]) / "lock", Path(config["path"]) / SETTLED):
        path.unlink()
    before = contents(config)
    original = os.open

    def reading(path, flags, *args, **options):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), path
        return original(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", reading)
    reader = await FileBackend().connect(config)
    assert (await reader.read_journal(NAME)).records == RECORDS
    assert await reader.read_journal(NAME, revision) is UNCHANGED
    assert set(await reader.read_many([NAME, NODE])) == {NAME, NODE}
    assert [page async for page in reader.names()] == [[NAME, NODE]]
    await reader.close()
    assert contents(config) == before


STOPPED = """
    import anyio, os, signal
    from datahike_async.konserve.backends.file import FileBackend

    async def main():
        store = await FileBackend().connect({config!r})
        store._steps = lambda step: step == {step!r} and os.kill(os.getpid(), signal.SIGSTOP)
        await {call}

    anyio.run(main)
"""


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("log-written", 'store.append({name!r}, b"stopped", {revision!r})'),
        ("renamed", 'store.write({name!r}, b"stopped")'),
    ],
)
async def test_readers_do_not_wait_for_a_stopped_writer(blobs, config, step, call):
    revision = await written(blobs)
    call = call.format(name=NAME, revision=revision)
    program = textwrap.dedent(STOPPED).format(config=config, step=step, call=call)
    program = "from uuid import UUID\n" + program
    writer = subprocess.Popen([sys.executable, "-c", program])
    try:
        _, status = await to_thread.run_sync(os.waitpid, writer.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        journal = await blobs.read_journal(NAME)
        # Shown, for it was synced first; whatever becomes of its writer, it is there.
        if step == "renamed":
            assert (journal.data, journal.records) == (b"stopped", [])
        else:
            assert (journal.data, journal.records) == (b"0", [*RECORDS, b"stopped"])
        assert (await blobs.read(NAME)).data == journal.data
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert await blobs.append(NAME, b"next", journal.revision)
