"""The store that fails on purpose fails where it was told to, and nowhere else."""

import pytest

from datahike_async.konserve.backends.memory import Blobs, MemoryBlobStore
from datahike_async.konserve.blob import Write
from datahike_async.konserve.errors import OutcomeUnknown, StoreIOError
from datahike_async.konserve.testing import Fault, FaultyBlobStore, every_fault
from datahike_async.konserve.testing.sound import Bare

pytestmark = pytest.mark.anyio

NAMES = [f"{n:032x}" for n in range(4)]
WRITES = [Write(name, b"x") for name in NAMES]


async def there(blobs):
    return [name for name in NAMES if await blobs.read(name) is not None]


async def test_the_chosen_call_fails_and_those_after_it_where_that_is_for_good():
    for persistent in (False, True):
        inner = MemoryBlobStore(Blobs())
        blobs = FaultyBlobStore(inner, at=1, persistent=persistent)
        for n, name in enumerate(NAMES):
            if n == 1 or (persistent and n > 1):
                with pytest.raises(StoreIOError):
                    await blobs.write(name, b"x")
            else:
                await blobs.write(name, b"x")
        assert await there(inner) == ([NAMES[0]] if persistent else [NAMES[0], *NAMES[2:]])
        assert await there(blobs) == await there(inner)
        assert blobs.writes == blobs.calls == 4


async def test_lost_answers_and_lost_requests_sound_alike():
    for fault, happened in ((Fault.LOST_RESPONSE, True), (Fault.LOST_REQUEST, False)):
        inner = MemoryBlobStore(Blobs())
        blobs = FaultyBlobStore(inner, fault=fault, at=0)
        with pytest.raises(OutcomeUnknown):
            await blobs.write(NAMES[0], b"x")
        assert (await inner.read(NAMES[0]) is not None) == happened


async def test_what_is_late_lands_after_so_many_further_calls():
    for late_by in range(3):
        inner = MemoryBlobStore(Blobs())
        blobs = FaultyBlobStore(inner, fault=Fault.LATE, at=0, late_by=late_by)
        with pytest.raises(OutcomeUnknown):
            await blobs.write(NAMES[0], b"x")
        for _ in range(late_by):
            assert await blobs.read(NAMES[0]) is None
        assert await blobs.read(NAMES[0]) is not None


async def test_what_is_late_lands_when_told_in_the_order_it_was_made():
    inner = MemoryBlobStore(Blobs())
    blobs = FaultyBlobStore(inner, fault=Fault.LATE, at=0, persistent=True)
    for data in (b"1", b"2"):
        with pytest.raises(OutcomeUnknown):
            await blobs.write(NAMES[0], data)
    with pytest.raises(OutcomeUnknown):
        await blobs.write(NAMES[0], b"3", "stale by then")
    assert await there(inner) == []
    await blobs.land()
    await blobs.land()
    found = await inner.read(NAMES[0])
    assert found is not None
    assert found.data == b"2"


async def test_reads_fail_where_they_count():
    blobs = FaultyBlobStore(MemoryBlobStore(Blobs()), at=1, reads=True, fault=Fault.LATE)
    await blobs.write(NAMES[0], b"x")
    with pytest.raises(StoreIOError):
        await blobs.read_latest(NAMES[0])
    assert await blobs.read_latest(NAMES[0]) is not None
    assert (blobs.calls, blobs.writes) == (3, 1)


async def test_a_fault_parts_a_write_of_many_but_for_one_that_is_atomic():
    for kind, left in ((Bare, NAMES[:2]), (MemoryBlobStore, [])):
        inner = kind(Blobs())
        blobs = FaultyBlobStore(inner, at=2 if left else 0, each_item=True)
        with pytest.raises(StoreIOError):
            await blobs.write_many(WRITES)
        assert await there(inner) == left
        assert len(await blobs.write_many(WRITES)) == len(WRITES)
        assert await there(inner) == NAMES


async def test_every_fault_is_every_one_of_them():
    plans = list(every_fault(3))
    assert len(plans) == len(set(plans)) == len(Fault) * 3 * 2
