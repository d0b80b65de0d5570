"""Frames of a log: read as they were laid; what an interrupted write leaves told from damage."""

from __future__ import annotations

import random
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.konserve.backends.file_frames import HEADER, Frames

STAMP = b"stamp of 12."
ROOM = 4096
SECTOR = 512
FRAMES = Frames(STAMP)


def laid(records: list[bytes]) -> tuple[bytes, list[int]]:
    """Return a log as its writers leave it, and the place behind each record, from 0."""
    data, ends, crc = b"", [0], FRAMES.crc
    for record in records:
        frame, crc = FRAMES.frame(record, len(data), crc)
        data += frame
        ends.append(len(data))
    return data + bytes(-(-(len(data) + HEADER) // ROOM) * ROOM - len(data)), ends


def read(data: bytes, durable: int = 0) -> tuple[list[bytes], bool]:
    found = FRAMES.read(data, 0, FRAMES.crc, durable)
    return found.records, bool(found.damage)


records_ = st.lists(st.binary(min_size=1, max_size=900), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(records_, st.data())
def test_records_are_read_as_they_were_laid_from_any_of_them_on(records, data):
    log, ends = laid(records)
    assert read(log, ends[-1]) == (records, False)
    i = data.draw(st.integers(0, len(records)))
    found = FRAMES.walk(log[ends[i] : ends[-1]], ends[i])
    assert (found.records, found.end) == (records[i:], ends[-1])
    assert not FRAMES.walk(log[ends[0] + 1 :], 1).records


@settings(max_examples=200, deadline=None)
@given(records_, st.data())
def test_whatever_harms_what_was_durable_is_damage(records, data):
    log, ends = laid(records)
    at = data.draw(st.integers(0, ends[-1] - 1))
    harm = data.draw(st.sampled_from(["bit", "block", "cut", "rest"]))
    block = at - at % SECTOR
    harmed = {
        "bit": log[:at] + bytes([log[at] ^ 1 << data.draw(st.integers(0, 7))]) + log[at + 1 :],
        "block": log[:block] + bytes(SECTOR) + log[block + SECTOR :],
        "cut": log[:at],
        "rest": log[:at] + bytes(len(log) - at),
    }[harm]
    found, damaged = read(harmed, ends[-1])
    if harmed != log:
        assert damaged
    # What lies before the damage can be read, and nothing else comes out.
    assert found == records[: len(found)]
    whole = min(at, block) if harm == "block" else at
    assert len(found) >= max(i for i, end in enumerate(ends) if end <= whole)


@settings(max_examples=200, deadline=None)
@given(records_, st.data())
def test_harm_below_the_last_record_is_damage_though_no_mark_says_so(records, data):
    log, ends = laid([*records, b"the last one"])
    at = data.draw(st.integers(0, ends[-2] - 1))
    flipped = log[:at] + bytes([log[at] ^ 1 << data.draw(st.integers(0, 7))]) + log[at + 1 :]
    assert read(flipped)[1]
    # Zeros in place of whole sectors, too, though an interrupted write leaves the same.
    stop = min(at - at % SECTOR + SECTOR, ends[-2])
    zeroed = log[: at - at % SECTOR] + bytes(stop - (at - at % SECTOR)) + log[stop:]
    assert read(zeroed)[1]
    found = FRAMES.read(zeroed, 0, FRAMES.crc, 0)
    assert found.behind == sum(end >= stop for end in ends[:-1])
    # A cut shows too, for there are always zeros behind the last record.
    assert read(log[: data.draw(st.integers(1, ends[-1] + HEADER - 1))])[1]


@settings(max_examples=200, deadline=None)
@given(records_, st.binary(min_size=1, max_size=3000), st.integers(0, 2**32))
def test_an_interrupted_write_is_no_damage_and_hides_nothing(records, last, seed):
    before, ends = laid(records)
    after, _ = laid([*records, last])
    before += bytes(len(after) - len(before))
    rng = random.Random(seed)
    torn = b"".join(
        (before if rng.random() < 0.5 else after)[i : i + SECTOR]
        for i in range(0, len(after), SECTOR)
    )
    found, damaged = read(torn, ends[-1])
    assert not damaged
    assert found == ([*records, last] if torn == after else records)
    rest = FRAMES.read(torn, 0, FRAMES.crc, ends[-1]).torn
    assert not any(torn[FRAMES.read(torn, 0, FRAMES.crc, ends[-1]).end + rest :])


def test_a_last_record_that_fits_a_sector_is_damaged_where_a_bit_of_it_is():
    log, ends = laid([b"first", b"second"])
    for at in range(ends[1], ends[2]):
        for bit in range(8):
            flipped = log[:at] + bytes([log[at] ^ 1 << bit]) + log[at + 1 :]
            assert read(flipped) == ([b"first"], True)


def test_a_frame_of_another_place_or_log_is_none():
    frame, _ = FRAMES.frame(b"record", 100, FRAMES.crc)
    assert not FRAMES.walk(frame, 0).records
    other = Frames(b"another one.")
    frame, _ = other.frame(b"record", 0, FRAMES.crc)
    assert not FRAMES.walk(frame, 0).records
    # Chained to another frame than the one that is there.
    first, _ = FRAMES.frame(b"first", 0, FRAMES.crc)
    second, _ = FRAMES.frame(b"second", len(first), zlib.crc32(b"elsewhere"))
    found = FRAMES.read(first + second + bytes(ROOM), 0, FRAMES.crc, 0)
    assert (found.records, bool(found.damage)) == ([b"first"], True)
