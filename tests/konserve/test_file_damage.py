"""Damage in the files of a store: named, never made worse, and gone when the file is mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datahike_async.konserve import (
    CorruptValue,
    StoreConfigError,
    StoreDenied,
)
from datahike_async.konserve.backends import file_journal
from datahike_async.konserve.backends.file import FileBackend
from datahike_async.konserve.backends.file_frames import HEADER
from datahike_async.konserve.blob import Write
from tests.konserve.logs import NAME, NODE, RECORDS, contents, file, opened_and_read, written

pytestmark = pytest.mark.anyio


async def test_one_wrong_bit_in_a_log_is_damage_that_nothing_makes_worse(
    blobs, config, monkeypatch
):
    monkeypatch.setattr(file_journal, "_PAUSE", 0)
    revision = await written(blobs)
    await blobs.close()
    path = file(config, ".log")
    whole = path.read_bytes()
    used = sum(HEADER + len(record) for record in RECORDS)
    for at in range(0, used, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        before = contents(config)
        again = await FileBackend().connect(config)
        with pytest.raises(CorruptValue, match=f"{path.name} is damaged at byte .*salvage") as e:
            await again.read_journal(NAME)
        assert e.value.data["place"] == path.name
        assert e.value.data["records"] == sum(
            at >= sum(HEADER + len(r) for r in RECORDS[: i + 1]) for i in range(3)
        )
        for attempt in (
            again.append(NAME, b"over it", revision),
            again.write(NAME, b"over it", revision),
        ):
            with pytest.raises(CorruptValue):
                await attempt
        await again.close()
        assert {k: v for k, v in contents(config).items() if k != "lock"} == {
            k: v for k, v in before.items() if k != "lock"
        }
    path.write_bytes(whole)
    assert (await opened_and_read(config)).records == RECORDS


@pytest.mark.parametrize("harm", ["zeros", "cut", "gone", "empty"])
async def test_a_log_that_lost_a_part_is_damaged_and_comes_back_with_it(blobs, config, harm):
    records = [os.urandom(300) for _ in range(100)]
    await written(blobs, records)
    await blobs.close()
    path = file(config, ".log")
    whole = path.read_bytes()
    if harm == "zeros":
        path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    elif harm == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[: 20_000 if harm == "cut" else 0])
    again = await FileBackend().connect(config)
    for _ in range(2):
        with pytest.raises(CorruptValue, match=path.name):
            await again.read_journal(NAME)
    path.write_bytes(whole)
    journal = await again.read_journal(NAME)
    assert journal.records == records
    await again.append(NAME, b"next", journal.revision)
    await again.close()


async def test_one_wrong_bit_in_a_head_removes_no_log(blobs, config):
    await written(blobs)
    await blobs.close()
    path = Path(config["path"]) / f"{NAME}.ksv"
    whole = path.read_bytes()
    for at in range(len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        again = await FileBackend().connect(config)
        with pytest.raises(CorruptValue, match=path.name):
            await again.read_journal(NAME)
        # Other blobs are written as ever, and what they replace is removed.
        await again.write(NODE, b"1")
        await again.write(NODE, b"2", (await again.read(NODE)).revision)
        await again.close()
    path.write_bytes(whole)
    assert (await opened_and_read(config)).records == RECORDS


async def test_a_head_that_was_lost_finds_its_log_when_it_is_brought_back(blobs, config):
    await written(blobs)
    await blobs.close()
    path = Path(config["path"]) / f"{NAME}.ksv"
    whole = path.read_bytes()
    path.unlink()
    again = await FileBackend().connect(config)
    assert await again.read_journal(NAME) is None
    await again.write(NODE, b"1")
    await again.write(NAME, b"another")
    await again.close()
    path.write_bytes(whole)
    assert (await opened_and_read(config)).records == RECORDS


async def test_logs_that_a_killed_writer_left_go_with_the_next_version(blobs, config, tmp_path):
    revision = await written(blobs)
    left = [tmp_path / "s" / f"{NAME}.{'00' * 12}{suffix}" for suffix in (".log", ".mark")]
    of_no_blob = tmp_path / "s" / f"{NODE}.{'00' * 12}.log"
    for path in (*left, of_no_blob):
        path.write_bytes(b"old")
    again = await FileBackend().connect(config)
    assert (await again.read_journal(NAME)).records == RECORDS
    revision = await again.append(NAME, b"fourth", revision)
    assert all(path.exists() for path in left)
    await again.write(NAME, b"1", revision)
    assert not any(path.exists() for path in left)
    assert not list((tmp_path / "s").glob(f"{NAME}.*.log"))
    # A head that names it may be brought back.
    assert of_no_blob.exists()
    await again.close()


async def test_a_log_that_is_removed_while_it_is_in_use_takes_no_record(blobs, config):
    revision = await written(blobs)
    path = file(config, ".log")
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(CorruptValue, match=path.name):
        await blobs.append(NAME, b"into nothing", revision)
    with pytest.raises(CorruptValue, match="missing"):
        await blobs.append(NAME, b"into nothing", revision)
    path.write_bytes(whole)
    await blobs.append(NAME, b"fourth", revision)
    assert (await opened_and_read(config)).records == [*RECORDS, b"fourth"]


async def test_a_log_that_is_shorter_than_its_reader_knows_is_damaged(blobs, config):
    revision = await written(blobs)
    path = file(config, ".log")
    path.write_bytes(bytes(len(path.read_bytes())))
    file(config, ".mark").unlink()
    other = await FileBackend().connect(config)
    with pytest.raises(CorruptValue, match="before"):
        await other.read_journal(NAME, revision)
    await other.close()


async def test_what_is_whole_of_a_damaged_log_can_be_salvaged(blobs, config):
    await written(blobs)
    await blobs.close()
    path = file(config, ".log")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"third", b"thirt"))
    before = contents(config)
    again = await FileBackend().connect({**config, "salvage": True})
    journal = await again.read_journal(NAME)
    assert (journal.data, journal.records) == (b"0", RECORDS[:2])
    for attempt in (
        again.append(NAME, b"x", journal.revision),
        again.write(NAME, b"x"),
        again.write_many([Write(NODE, b"x")]),
        again.delete(NAME),
        again.delete_many([NAME]),
    ):
        with pytest.raises(StoreDenied, match="salvage"):
            await attempt
    await again.close()
    path.unlink()
    again = await FileBackend().connect({**config, "salvage": True})
    assert (await again.read_journal(NAME)).records == []
    await again.close()
    path.write_bytes(before[path.name])
    assert contents(config) == before
    for refused in (
        FileBackend().connect({**config, "salvage": 1}),
        FileBackend().create({**config, "salvage": True}),
    ):
        with pytest.raises(StoreConfigError, match="salvage"):
            await refused
