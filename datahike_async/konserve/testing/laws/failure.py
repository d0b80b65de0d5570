"""Laws of calls that fail: each call of an operation in turn, in every way, once and for good.

The store itself is sound; :class:`~datahike_async.konserve.testing.faults.FaultyBlobStore` stands
between it and the caller. What holds then: a definite error means that nothing was written, after
``OutcomeUnknown`` reading tells what is there, and what is retried happens once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest

from datahike_async.konserve.blob import ABSENT
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreIOError,
)
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.faults import Fault, FaultPlan, FaultyBlobStore, every_fault
from datahike_async.konserve.testing.laws.common import Laws, latest
from datahike_async.konserve.testing.promises import COMPARE_AND_SET, JOURNAL, promised

__all__ = ["FailureLaws"]

RETURNED: Final = "returned"
REFUSED: Final = "refused"
UNKNOWN: Final = "unknown"


def _over(store: Store, blobs: FaultyBlobStore) -> Store:
    """Return a store like ``store``, on other blobs."""
    return Store(
        blobs,
        store.config,
        compressor=store.config.get("compressor", "none"),
        serializer=store.serializer,
        encryptor=store.encoding.encryptor,
    )


async def _outcome(call: Awaitable[object]) -> str:
    """Wait for a call, and say what its caller was told."""
    try:
        await call
    except OutcomeUnknown:
        return UNKNOWN
    except KonserveError:
        return REFUSED
    return RETURNED


class Attempt(NamedTuple):
    """One run of an operation under a fault: on which key, and what its caller was told."""

    key: Any
    plan: FaultPlan
    told: str
    blobs: FaultyBlobStore
    """What stood between; it may hold writes that are late."""


async def _in_every_way(
    store: Store,
    kind: str,
    prepare: Callable[[Store, Any], Awaitable[object]],
    operation: Callable[[Store, Any], Awaitable[object]],
) -> list[Attempt]:
    """Run an operation under every fault at each of its calls, each time on a key of its own."""
    attempts = []
    counting = FaultyBlobStore(store.blobs, reads=True, each_item=True)
    await prepare(store, (kind,))
    await operation(_over(store, counting), (kind,))
    assert counting.calls
    for plan in every_fault(counting.calls):
        key = (kind, *plan._replace(fault=plan.fault.value))  # type: ignore[arg-type]
        await prepare(store, key)
        blobs = FaultyBlobStore(
            store.blobs,
            fault=plan.fault,
            at=plan.at,
            persistent=plan.persistent,
            reads=True,
            each_item=True,
        )
        told = await _outcome(operation(_over(store, blobs), key))
        assert blobs.calls > plan.at, "the fault was never met"
        attempts.append(Attempt(key, plan, told, blobs))
    return attempts


async def _nothing(_store: Store, _key: Any) -> None:
    pass


def _zero(store: Store, key: Any) -> Awaitable[object]:
    return store.assoc(key, 0)


class FailureLaws(Laws):
    """Errors tell the truth."""

    async def test_after_a_lost_answer_reading_tells_what_is_there(self, store: Store) -> None:
        for fault, value in ((Fault.LOST_RESPONSE, 2), (Fault.LOST_REQUEST, 1)):
            before = await store.assoc("k", 1)
            faulty = _over(store, FaultyBlobStore(store.blobs, fault=fault, at=0))
            with pytest.raises(OutcomeUnknown):
                await faulty.assoc("k", 2)
            found, revision = await faulty.get("k", with_revision=True)
            assert found == value
            assert (revision == before) == (value == 1)
            with pytest.raises(OutcomeUnknown):
                await _over(store, FaultyBlobStore(store.blobs, fault=fault, at=0)).dissoc("k")
            assert await latest(store, "k") == (None if fault is Fault.LOST_RESPONSE else 1)

    @promised(COMPARE_AND_SET)
    async def test_what_was_lost_can_be_sent_again_under_its_condition(self, store: Store) -> None:
        """The second sending fails exactly where the first one has landed."""
        for fault in (Fault.LOST_RESPONSE, Fault.LOST_REQUEST):
            for key, before in ((fault.value, ABSENT), ("k", await store.assoc("k", 1))):
                faulty = _over(store, FaultyBlobStore(store.blobs, fault=fault, at=0))
                with pytest.raises(OutcomeUnknown):
                    await faulty.assoc(key, 2, expected_revision=before)
                again = faulty.assoc(key, 2, expected_revision=before)
                if fault is Fault.LOST_RESPONSE:
                    with pytest.raises(RevisionMismatch):
                        await again
                else:
                    await again
                assert await latest(store, key) == 2

    @promised(COMPARE_AND_SET)
    async def test_a_conditional_write_that_lands_late_overwrites_nobody(
        self, store: Store, other: Store
    ) -> None:
        for late_by in range(3):
            before = await store.assoc("k", 0)
            blobs = FaultyBlobStore(store.blobs, fault=Fault.LATE, at=0, late_by=late_by)
            faulty = _over(store, blobs)
            with pytest.raises(OutcomeUnknown):
                await faulty.assoc("k", "late", expected_revision=before)
            assert await latest(other, "k") == 0
            mine = await other.assoc("k", "mine", expected_revision=before)
            for _ in range(late_by + 1):
                assert await faulty.get("k", with_revision=True) == ("mine", mine)
            await blobs.land()
            assert await latest(store, "k") == "mine"

    async def test_a_write_that_lands_late_is_there_once_it_has_landed(self, store: Store) -> None:
        await store.assoc("k", 0)
        blobs = FaultyBlobStore(store.blobs, fault=Fault.LATE, at=0)
        with pytest.raises(OutcomeUnknown):
            await _over(store, blobs).assoc("k", "late")
        assert await latest(store, "k") == 0
        await blobs.land()
        assert await latest(store, "k") == "late"

    async def test_a_write_of_many_that_fails_leaves_a_prefix(self, store: Store) -> None:
        """Which is all or nothing where that is promised; never an item after the failed one."""

        def write(store: Store, key: Any) -> Awaitable[object]:
            return store.multi_assoc([((key, n), n) for n in range(4)])

        # An atomic store is asked once, for all of them; any other is asked once an item.
        items = 4 if store.capabilities.atomic_multi else 1
        for key, plan, told, blobs in await _in_every_way(store, "many", _nothing, write):
            assert told == (REFUSED if plan.fault is Fault.BEFORE else UNKNOWN)
            for landed in (plan.fault is Fault.LOST_RESPONSE, plan.fault is not Fault.LOST_REQUEST):
                there = [n for n in range(4) if await store.exists((key, n))]
                happened = plan.at + (landed and told == UNKNOWN)
                assert there == list(range(happened * items)), plan
                await blobs.land()

    async def test_an_update_under_faults_counts_once_or_says_so(self, store: Store) -> None:
        def add(store: Store, key: Any) -> Awaitable[object]:
            return store.update(key, lambda n: n + 1)

        for key, _, told, blobs in await _in_every_way(store, "update", _zero, add):
            await blobs.land()
            found = await latest(store, key)
            assert found in {RETURNED: (1,), REFUSED: (0,), UNKNOWN: (0, 1)}[told], key
            assert await store.update(key, lambda n: n + 10) == (found, found + 10)

    @promised(COMPARE_AND_SET)
    async def test_an_update_that_lands_late_undoes_no_other(
        self, store: Store, other: Store
    ) -> None:
        def add(store: Store, key: Any) -> Awaitable[object]:
            return store.update(key, lambda n: n + 1)

        for key, _, told, blobs in await _in_every_way(store, "late update", _zero, add):
            before, after = await other.update(key, lambda n: n + 10)
            await blobs.land()
            assert before in {RETURNED: (1,), REFUSED: (0,), UNKNOWN: (0, 1)}[told], key
            assert await latest(store, key) == after == before + 10

    async def test_an_append_under_faults_is_there_once_or_says_so(self, store: Store) -> None:
        def start(store: Store, key: Any) -> Awaitable[object]:
            return store.append(key, "first")

        def add(store: Store, key: Any) -> Awaitable[object]:
            return store.append(key, "second")

        for key, _, told, blobs in await _in_every_way(store, "append", start, add):
            await blobs.land()
            more = (await store.log(key))[1:]
            assert (
                more
                in {
                    RETURNED: (["second"],),
                    REFUSED: ([],),
                    UNKNOWN: ([], ["second"]),
                }[told]
            ), key
            await store.append(key, "third")
            assert await store.log(key) == ["first", *more, "third"]

    @promised(JOURNAL)
    async def test_a_record_under_faults_is_there_once_or_says_so(self, store: Store) -> None:
        async def add(store: Store, key: Any) -> None:
            _, revision = await store.get(key, with_revision=True)
            await store.journal_append(key, b"record", expected_revision=revision)

        for key, _, told, blobs in await _in_every_way(store, "journal", _zero, add):
            await blobs.land()
            found: Any = await store.journal(key)
            _, records, revision = found
            assert (
                list(records)
                in {
                    RETURNED: ([b"record"],),
                    REFUSED: ([],),
                    UNKNOWN: ([], [b"record"]),
                }[told]
            ), key
            last = await store.journal_append(key, b"next", expected_revision=revision)
            assert await store.journal(key) == (0, [*records, b"next"], last)

    async def test_a_read_that_fails_says_so_and_can_be_repeated(self, store: Store) -> None:
        await store.assoc("k", 1)
        reads: list[tuple[Callable[[Store], Awaitable[object]], object]] = [
            (lambda s: s.get("k"), 1),
            (lambda s: latest(s, "k"), 1),
            (lambda s: s.exists("k"), True),
            (lambda s: s.multi_get(["k"]), {"k": 1}),
        ]
        for read, value in reads:
            faulty = _over(store, FaultyBlobStore(store.blobs, at=0, reads=True))
            with pytest.raises(StoreIOError):
                await read(faulty)
            assert await read(faulty) == value
