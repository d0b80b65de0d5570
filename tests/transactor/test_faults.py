"""The n-th write fails, for every n: what was acknowledged is there, what was refused is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import (
    DatahikeError,
    FencingUnsupported,
    StorageError,
    TransactionOutcomeUnknown,
    WriterError,
)
from datahike_async.konserve import opening as stores
from datahike_async.konserve.blob import (
    Appended,
    Blob,
    Capabilities,
    ConditionalDomain,
    Journal,
    Unchanged,
)
from datahike_async.konserve.errors import OutcomeUnknown, StoreBusy, StoreFull, StoreIOError
from datahike_async.konserve.testing.faults import Fault, FaultyBlobStore
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.transactor import Limits
from tests.indexes import TREE
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

LIMITS = Limits(
    flush_rows=12, flush_bytes=1_200, flush_journal_bytes=1_200, close_rows=5, settle_seconds=0.1
)


class Parted(PassingBlobStore):
    """A store that writes many keys one after another and keeps no journals, as S3 is."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=False, conditional=ConditionalDomain.PROCESS)


@pytest.fixture(params=["memory", "file"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": "file" if kind == "file" else "memory", "id": uuid4()}
    if kind == "file":
        store["path"] = str(tmp_path / "db")
    index = {} if kind == "file" else TREE
    await d.create_database(store=store, schema_flexibility="read", **index)
    return store


Wrapping = Callable[[Any], Any]


@pytest.fixture
def wrapping(kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Wrapping], None]:
    """Wrap the blobs of every store that a connection opens from now on."""

    def wrap(make: Wrapping) -> None:
        async def connect_store(config: Any, **options: Any) -> stores.Store:
            store = await stores.connect_store(config, **options)
            store.blobs = make(Parted(store.blobs) if kind == "parted" else store.blobs)
            store.capabilities = store.blobs.capabilities
            return store

        monkeypatch.setattr(opened_stores, "connect_store", connect_store)

    return wrap


class Result:
    """What the callers of a run were told."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.refused: set[int] = set()


async def run(store: dict[str, Any]) -> Result:
    """Two clients at once, small transactions, a large one, a bulk load, and flushes in between."""
    result = Result()

    async def client(conn: d.Connection, first: int) -> None:
        for n in range(first, first + 10):
            data: list[Any] = [{":n": n, ":twin": n}]
            if n == 3:
                data.append({":large": "x" * 40_000})
            if n == 5:
                data += [{":filler": i} for i in range(1100)]
            try:
                await conn.transact(data)
                result.acknowledged.add(n)
            except TransactionOutcomeUnknown:
                result.unknown.add(n)
            except DatahikeError:
                result.refused.add(n)

    async with d.connect(store=store, limits=LIMITS) as conn:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client, conn, 0)
            tasks.start_soon(client, conn, 100)
        result.seen = {x.v for x in await conn.db().datoms("aevt", ":n")}  # type: ignore[attr-defined]
    return result


async def check(store: dict[str, Any], result: Result) -> set[int]:
    async with d.connect(store=store) as conn:
        found = [x.v for x in await conn.db().datoms("aevt", ":n")]
        twins = sorted(x.v for x in await conn.db().datoms("aevt", ":twin"))
        filler = len(await conn.db().datoms("aevt", ":filler"))
        large = [len(x.v) for x in await conn.db().datoms("aevt", ":large")]
        await conn.transact([{":n": -1}])
    assert sorted(found) == twins
    assert filler == (1100 if 5 in found else 0)
    assert large == ([40_000] if 3 in found else [])
    recovered = set(found)
    assert len(recovered) == len(found)
    assert result.acknowledged <= recovered
    assert not result.refused & recovered
    assert recovered <= result.acknowledged | result.unknown
    return recovered


@pytest.mark.parametrize("kind", ["memory", "file", "parted"], indirect=True)
async def test_without_faults_all_is_acknowledged(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    faulty: list[FaultyBlobStore] = []
    wrapping(lambda blobs: faulty.append(FaultyBlobStore(blobs)) or faulty[-1])  # type: ignore[func-returns-value]
    result = await run(store)
    assert len(result.acknowledged) == 20
    wrapping(lambda blobs: blobs)
    assert await check(store, result) == result.acknowledged
    assert faulty[0].writes > 12


@pytest.mark.parametrize(
    "kind", [pytest.param("memory", marks=pytest.mark.slow), "file", "parted"], indirect=True
)
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.BEFORE, StoreIOError),
        (Fault.BEFORE, StoreFull),
        (Fault.LOST_RESPONSE, OutcomeUnknown),
        (Fault.LOST_REQUEST, OutcomeUnknown),
    ],
    ids=["io", "full", "lost response", "lost request"],
)
async def test_every_write_fails_in_turn(
    store: dict[str, Any],
    wrapping: Callable[[Wrapping], None],
    fault: Fault,
    persistent: bool,
    error: type[Exception],
    anyio_backend: str,
) -> None:
    hits = 0
    # The loops take turns: what a write does there is the same.
    for at in range(0, 24, 6) if persistent else range(anyio_backend == "trio", 24, 2):
        faulty: list[FaultyBlobStore] = []

        def make(blobs: Any, at: int = at, faulty: list[FaultyBlobStore] = faulty) -> Any:
            faulty.append(
                FaultyBlobStore(
                    blobs, fault=fault, at=at, persistent=persistent, error=lambda: error("planted")
                )
            )
            return faulty[-1]

        wrapping(make)
        result = await run(store)
        hits += faulty[0].writes > at
        wrapping(lambda blobs: blobs)
        await check(store, result)
        if error is StoreFull and not persistent:
            # A full disk costs one group at most, and the writer goes on.
            assert len(result.acknowledged) >= 16
        if fault is not Fault.BEFORE and not persistent:
            # The head says how it went.
            assert len(result.acknowledged) == 20
        await d.delete_database(store=store)
        await d.create_database(store=store, schema_flexibility="read")
    assert hits >= (2 if persistent else 8)


async def test_a_closed_writer_says_why(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    wrapping(lambda blobs: FaultyBlobStore(blobs, at=1, persistent=True))
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])
        before = conn.db()
        with pytest.raises(StorageError):
            await conn.transact([{":n": 2}])
        with pytest.raises(WriterError, match="injected fault") as caught:
            await conn.transact([{":n": 3}])
        assert caught.value.error == ":writer-shut-down"
        # Reading goes on.
        assert conn.db() == before
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [1]
        wrapping(lambda blobs: blobs)
        # A new connection gets a new writer, even while the old ones are open.
        async with d.connect(store=store) as again:
            await again.transact([{":n": 4}])
            assert [x.v for x in await again.db().datoms("aevt", ":n")] == [1, 4]


async def test_a_full_store_leaves_the_writer_usable(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    wrapping(lambda blobs: FaultyBlobStore(blobs, at=1, error=lambda: StoreFull("no space")))
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])
        before = conn.db()
        with pytest.raises(StorageError, match="no space") as caught:
            await conn.transact([{":n": 2}])
        assert caught.value.retryable
        assert conn.db() == before
        report = await conn.transact([{":n": 3}])
        assert report.tx == before.max_tx + 1
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [1, 3]


class Deaf(FaultyBlobStore):
    """From the first lost response on, reads of the head fail too."""

    def _check(self) -> None:
        if self.at is not None and self.writes > self.at:
            raise OutcomeUnknown("planted: no answer")

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        self._check()
        return await super().read(name, start, end)

    async def read_latest(self, name: str, unless: str | None = None) -> Blob | Unchanged | None:
        self._check()
        return await super().read_latest(name, unless)

    async def read_journal(
        self, name: str, since: str | None = None
    ) -> Journal | Appended | Unchanged | None:
        self._check()
        return await super().read_journal(name, since)


@pytest.mark.parametrize("fault", [Fault.LOST_RESPONSE, Fault.LOST_REQUEST])
async def test_what_nobody_can_tell_is_unknown_and_never_failed(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None], fault: Fault
) -> None:
    wrapping(lambda blobs: Deaf(blobs, fault=fault, at=1, persistent=True))
    async with d.connect(store=store, limits=LIMITS) as conn:
        await conn.transact([{":n": 1}])
        with pytest.raises(TransactionOutcomeUnknown):
            await conn.transact([{":n": 2}])
        with pytest.raises(WriterError, match="shut down"):
            await conn.transact([{":n": 3}])
    wrapping(lambda blobs: blobs)
    async with d.connect(store=store) as conn:
        found = [x.v for x in await conn.db().datoms("aevt", ":n")]
    assert found == ([1, 2] if fault is Fault.LOST_RESPONSE else [1])


class Overtaken(FaultyBlobStore):
    """Once, others commit behind our publication before its answer gets lost."""

    def __init__(self, blobs: Any, others: Callable[[], Awaitable[Any]], **plan: Any) -> None:
        super().__init__(blobs, **plan)
        self.others = others

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        return await self._overtaken(super().write(name, data, expected))

    async def append(self, name: str, record: bytes, expected: str) -> str:
        return await self._overtaken(super().append(name, record, expected))

    async def _overtaken(self, sent: Awaitable[str]) -> str:
        try:
            return await sent
        except OutcomeUnknown:
            await self.others()
            raise


async def test_a_lost_answer_is_found_below_what_others_committed_since(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    async with Strangers(store) as other:

        async def others() -> None:
            for n in (10, 11):
                await other.transact([{":n": n}])

        wrapping(lambda blobs: Overtaken(blobs, others, fault=Fault.LOST_RESPONSE, at=1))
        async with d.connect(store=store) as conn:
            for n in (1, 2, 3):
                await conn.transact([{":n": n}])
            assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [1, 2, 10, 11, 3]
            assert await (await other.sync()).datoms("aevt") == await conn.db().datoms("aevt")


@pytest.mark.parametrize("kind", ["memory", "file", "parted"], indirect=True)
@pytest.mark.parametrize("at", ["group", "flush"])
async def test_nothing_is_published_over_what_others_committed_and_could_not_be_taken_over(
    store: dict[str, Any],
    wrapping: Callable[[Wrapping], None],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    """The answer to a publication is lost, and the head below which it is found not understood."""
    plan: dict[str, Any] = {"fault": Fault.LOST_RESPONSE}
    opened: list[Overtaken] = []
    adopt, publish_flush = Branch.adopt, Branch.publish_flush
    fails = 1

    async def failing(self: Branch, state: Any) -> None:
        nonlocal fails
        if fails and self is conn._transactor.branch:
            fails -= 1
            raise StoreBusy("for a moment")
        await adopt(self, state)

    async def losing(self: Branch, prepared: Any) -> None:
        if fails and at == "flush" and self is conn._transactor.branch:
            opened[-1].at = opened[-1].calls
        await publish_flush(self, prepared)

    async with Strangers(store) as other:

        async def others() -> None:
            for n in (1000, 1001):
                await other.transact([{":n": n}])

        def overtaken(blobs: Any) -> Overtaken:
            opened.append(Overtaken(blobs, others, **plan))
            return opened[-1]

        wrapping(overtaken)
        async with d.connect(store=store, limits=LIMITS) as conn:
            await conn.transact([{":n": 0}])
            monkeypatch.setattr(Branch, "adopt", failing)
            monkeypatch.setattr(Branch, "publish_flush", losing)
            if at == "group":
                opened[-1].at = opened[-1].calls
            n = 1
            while fails or n < 20:  # a flush is published some time later
                await conn.transact([{":n": n}])
                n += 1
            found = [x.v for x in await conn.db().datoms("aevt", ":n")]
            assert sorted(found) == sorted([*range(n), 1000, 1001])
            assert await (await other.sync()).datoms("aevt") == await conn.db().datoms("aevt")


class Liar(FaultyBlobStore):
    """Says done and does nothing, from the fourth publication on."""

    published = 0

    def _lies(self) -> bool:
        self.published += 1
        return self.published > 3

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        if self._lies():
            return "made up"
        return await self.blobs.write(name, data, expected)

    async def append(self, name: str, record: bytes, expected: str) -> str:
        if self._lies():
            return "made up"
        return await self.journals.append(name, record, expected)


async def test_the_check_itself_finds_a_lost_acknowledgement(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    """A negative control: a store that lies must turn the check red."""
    wrapping(Liar)
    result = await run(store)
    wrapping(lambda blobs: blobs)
    with pytest.raises(AssertionError):
        await check(store, result)


class Remote(FaultyBlobStore):
    """Says that machines share it; ``honest`` tells whether it then looks at conditions."""

    honest = True

    @property
    def capabilities(self) -> Capabilities:
        return replace(self.blobs.capabilities, conditional=ConditionalDomain.GLOBAL)

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        return await self.blobs.write(name, data, expected if self.honest else None)


class Careless(Remote):
    honest = False


async def test_a_store_that_ignores_conditions_can_only_be_read(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 0}])
    wrapping(Careless)
    async with d.connect(store=store) as conn:
        for _ in range(2):
            with pytest.raises(FencingUnsupported, match="created twice") as caught:
                await conn.transact([{":n": 7}])
            assert ":unsafe-unfenced?" in str(caught.value)
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [0]
        await conn.sync()
    for writer in ({":unsafe-unfenced?": True}, {":require-fencing": False}):
        async with d.connect(store=store, writer=writer) as conn:
            await conn.transact([{":n": 1}])
    wrapping(Remote)
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 2}])
        left = [x["key"] for x in await conn._transactor.branch.store.keys()]
        assert not [key for key in left if str(key).startswith("probe/")]


class Weak(FaultyBlobStore):
    """It cannot compare, and says so."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()


async def test_a_store_without_compare_and_set_needs_the_word_of_its_only_writer(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    wrapping(Weak)
    async with d.connect(store=store) as conn:
        with pytest.raises(FencingUnsupported, match="compare"):
            await conn.transact([{":n": 1}])
    async with d.connect(store=store, writer={":unsafe-unfenced?": True}, limits=LIMITS) as conn:
        for n in range(20):
            await conn.transact([{":n": n}])
    async with d.connect(store=store) as conn:
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == list(range(20))


async def test_reading_publishes_nothing(
    store: dict[str, Any], wrapping: Callable[[Wrapping], None]
) -> None:
    async with d.connect(store=store) as conn:
        for n in range(9):
            await conn.transact([{":n": n}])
    made: list[FaultyBlobStore] = []

    def watched(blobs: Any) -> FaultyBlobStore:
        made.append(Remote(blobs))
        return made[-1]

    wrapping(watched)
    async with d.connect(store=store, limits=LIMITS._replace(close_rows=1)) as conn:
        await conn.sync()
        assert len(await conn.db().datoms("aevt", ":n")) == 9
    assert made[0].writes == 0
