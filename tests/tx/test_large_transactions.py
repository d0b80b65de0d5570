"""Large transactions stay off the event loop, and no single call handles all of one.

What is counted is work: threads, blocks, containers, runs. How long the loop waits is measured by
``python3 dev.py bench stalls``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async import beside, collector
from datahike_async.collector import set_aside
from datahike_async.storage.branches import read as opening
from datahike_async.storage.log import records as codec
from datahike_async.storage.nodes.cache import NodeCache
from datahike_async.transactor.limits import Limits
from datahike_async.tx import done
from datahike_async.tx.apply import Transaction

pytestmark = pytest.mark.anyio

MANY = 2_000
ONE = ":db.cardinality/one"
SCHEMA = [
    {":db/ident": ":n", ":db/valueType": ":db.type/long", ":db/cardinality": ONE},
    {":db/ident": ":name", ":db/valueType": ":db.type/string", ":db/cardinality": ONE},
    {":db/ident": ":at", ":db/valueType": ":db.type/instant", ":db/cardinality": ONE},
    {
        ":db/ident": ":id",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ONE,
        ":db/unique": ":db.unique/identity",
    },
    {
        ":db/ident": ":friend",
        ":db/valueType": ":db.type/ref",
        ":db/cardinality": ":db.cardinality/many",
    },
]
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def conn(tmp_path):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config)
    async with d.connect(config) as conn:
        await conn.transact(SCHEMA)
        yield conn


@pytest.fixture
def threads(monkeypatch):
    """Note in which thread a function of a module runs."""
    seen: dict[str, set[int]] = {}

    def watch(module: Any, name: str) -> set[int]:
        call, found = getattr(module, name), seen.setdefault(name, set())

        def noted(*args: Any, **options: Any) -> Any:
            found.add(threading.get_ident())
            return call(*args, **options)

        monkeypatch.setattr(module, name, noted)
        return found

    return watch


def plain() -> list[Any]:
    return [{":n": i, ":name": f"n{i}", ":at": AT} for i in range(MANY)]


def with_identity() -> list[Any]:
    return [{":id": i, ":n": i, ":name": f"n{i}"} for i in range(MANY)]


def one_by_one() -> list[Any]:
    """Items of which one has something in it that columns do not take."""
    return [
        *with_identity()[:-1],
        {":id": MANY - 1, ":n": 1, ":name": "x", ":friend": "datomic.tx"},
    ]


def one_deep_map() -> list[Any]:
    return [{":n": -1, ":friend": [{":n": i, ":name": "x"} for i in range(MANY)]}]


@pytest.mark.parametrize("data", [plain, with_identity, one_by_one, one_deep_map])
async def test_large_transactions_run_beside_the_event_loop(conn, threads, data):
    ran, loop = threads(Transaction, "begin"), threading.get_ident()
    encoded = threads(codec, "_block")
    await conn.transact(data())
    assert ran
    assert encoded
    assert loop not in ran | encoded
    ran.clear()
    await conn.db().with_(data())
    assert ran
    assert loop not in ran
    ran.clear()
    await conn.transact([{":n": 1}])
    assert ran == {loop}


@pytest.mark.parametrize(
    "item",
    [
        {":db/ident": ":n", ":db/index": True},
        [":db/add", ":n", ":db/index", True],
        [":db.fn/retractEntity", 100],
        [":db.fn/retractAttribute", 100, ":friend"],
    ],
)
async def test_what_may_touch_many_datoms_runs_beside_the_event_loop(
    conn, threads, monkeypatch, item
):
    await conn.transact([{":db/id": 100, ":n": 1}])
    ran, loop = threads(Transaction, "begin"), threading.get_ident()
    with contextlib.suppress(d.TransactionError):
        await conn.transact([item])
    assert ran == {loop}
    ran.clear()
    monkeypatch.setattr(beside, "FAR", 0)
    with contextlib.suppress(d.TransactionError):
        await conn.transact([item])
    assert ran
    assert loop not in ran


async def test_their_transaction_functions_run_on_the_event_loop(conn, threads):
    ran, called, loop = threads(Transaction, "item"), set(), threading.get_ident()

    async def names(db: d.Database, n: int) -> list[Any]:
        called.add(threading.get_ident())
        await anyio.lowlevel.checkpoint()
        count = await db.q("[:find (count ?e) . :where [?e :n]]")
        return [{":n": n, ":name": f"after {count}"}]

    await conn.transact([*plain(), [":db.fn/call", names, -5]])
    assert called == {loop}
    assert loop not in ran
    found = await conn.db().q("[:find ?v . :where [?e :n -5] [?e :name ?v]]")
    assert found == f"after {MANY}"


async def test_long_text_is_read_beside_the_event_loop(conn, threads):
    read = threads(beside, "read")
    text = "[" + " ".join(f'{{:n {i} :name "x"}}' for i in range(MANY)) + "]"
    assert len(text) > beside.LONG_TEXT
    for data in (text, f"{{:tx-data {text}}}", {":tx-data": text}):
        read.clear()
        await conn.transact(data)
        assert read
        assert threading.get_ident() not in read
    assert await conn.db().q("[:find (count ?e) . :where [?e :name]]") == 3 * MANY


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {":tx-data": x}])
async def test_iterators_leave_others_their_turn(conn, monkeypatch, wrapped: Callable[[Any], Any]):
    pauses = []

    async def pause() -> None:
        pauses.append(None)

    monkeypatch.setattr(beside, "pause", pause)
    await conn.transact(wrapped({":n": i} for i in range(MANY)))
    assert len(pauses) >= MANY // 100
    assert await conn.db().q("[:find (count ?e) . :where [?e :n]]") == MANY


async def test_the_log_is_encoded_in_blocks(conn, monkeypatch):
    rows = []
    encode = codec.encode_rows
    monkeypatch.setattr(codec, "BLOCK", 1_000)
    monkeypatch.setattr(codec, "encode_rows", lambda r: rows.append(len(r)) or encode(r))
    await conn.transact(with_identity())
    assert sum(rows) == 3 * MANY + 1
    assert max(rows) <= 1_000


async def test_a_large_log_is_replayed_in_blocks_beside_the_event_loop(
    tmp_path, threads, monkeypatch
):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    monkeypatch.setattr(codec, "BLOCK", 1_000)
    never = Limits(flush_rows=10**9, flush_journal_bytes=10**9, close_rows=10**9)
    await d.create_database(config)
    async with d.connect(config, limits=never) as conn:
        await conn.transact(SCHEMA)
        await conn.transact(one_by_one())
        before = list(await conn.db().datoms("eavt"))
    replayed = threads(opening, "replay")
    rows, decode = [], codec.decode_rows

    def decoded(data: Any) -> Any:
        found = decode(data)
        rows.append(len(found))
        return found

    monkeypatch.setattr(codec, "decode_rows", decoded)
    async with d.connect(config) as conn:
        assert replayed
        assert threading.get_ident() not in replayed
        assert sum(rows) == 3 * MANY + 2
        assert max(rows) <= 1_000
        assert list(await conn.db().datoms("eavt")) == before


@pytest.mark.parametrize("data", [plain, with_identity, one_by_one])
async def test_no_datom_costs_the_garbage_collector_a_look(data):
    """A million containers that live stop every thread for as long as a collection takes."""
    db = await d.empty_db(schema_flexibility="write", keep_history=True).db_with(SCHEMA)
    items = data()
    gc.collect()
    before = len(gc.get_objects())
    report = await db.with_(items)
    gc.collect()
    made = len(gc.get_objects()) - before
    assert len(report.tx_data) == 3 * MANY + 1 + (data is one_by_one)
    assert made < MANY // 4


async def test_a_report_makes_datoms_when_they_are_read(conn, monkeypatch):
    report = await conn.transact(plain())
    made = []

    class Counted(d.Datom):
        __slots__ = ()

        def __init__(self, *args: Any) -> None:
            made.append(None)
            super().__init__(*args)

    monkeypatch.setattr(done, "Datom", Counted)
    assert len(report.tx_data) == 3 * MANY + 1
    assert not made
    assert report.tx_data[-1].a == d.kw("at")
    assert report.tx_data[0].a == d.kw("db/txInstant")
    assert len(made) == 2
    assert [x.v for x in report.tx_data[1:4]] == [0, "n0", AT]
    with pytest.raises(IndexError):
        report.tx_data[3 * MANY + 1]
    assert report.tx_data == list(report.tx_data)
    assert report.tx_data != []


@pytest.mark.parametrize("more", [[], [{":id": 0, ":friend": "datomic.tx"}]])
async def test_a_large_transaction_on_a_cache_that_is_too_small_is_not_run_for_each_node(
    tmp_path, monkeypatch, more
):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config)
    async with d.connect(config, limits=Limits(close_rows=1)) as conn:
        await conn.transact(SCHEMA)
        for first in range(0, MANY, 500):
            await conn.transact(with_identity()[first : first + 500])
    runs, begin = [], Transaction.begin
    monkeypatch.setattr(
        Transaction, "begin", lambda self, *args: runs.append(None) or begin(self, *args)
    )
    init = NodeCache.__init__
    monkeypatch.setattr(NodeCache, "__init__", lambda self, *args: init(self, 1))
    async with d.connect(config) as conn:
        report = await conn.transact([*({":id": i, ":n": i + 1} for i in range(MANY)), *more])
        assert len(report.tx_data) == 2 * MANY + 1 + len(more)
    assert len(runs) <= 2


FORKED = """
    import gc, os, threading
    from datahike_async import collector

    inside, go_on = threading.Event(), threading.Event()

    def work():
        with collector.set_aside():
            inside.set()
            go_on.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(20)
    collector._lock.acquire()  # as where a thread has just taken it
    child = os.fork()
    if not child:
        counts = [gc.get_freeze_count()]
        with collector.set_aside():
            counts.append(gc.get_freeze_count())
        counts.append(gc.get_freeze_count())
        os._exit(not (counts[0] == 0 < counts[1] and counts[2] == 0))
    collector._lock.release()
    go_on.set()
    thread.join()
    assert gc.get_freeze_count() == 0
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_what_a_thread_of_the_parent_set_aside_comes_back_in_a_forked_child():
    program = [sys.executable, "-c", textwrap.dedent(FORKED)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr


def test_what_lives_is_set_aside_and_comes_back():
    assert not gc.get_freeze_count()
    with set_aside():
        assert gc.get_freeze_count()
        with set_aside():
            pass
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()
    with pytest.raises(ValueError, match="x"), set_aside():
        raise ValueError("x")
    assert not gc.get_freeze_count()


class Circle:
    def __init__(self):
        self.itself = self


def test_garbage_is_collected_though_blocks_overlap_without_an_end(monkeypatch):
    with set_aside():
        gone = weakref.ref(Circle())
        with set_aside():
            gc.collect()
            assert gone() is not None
        monkeypatch.setattr(collector, "_LONGEST", -1.0)
        with set_aside():
            gc.collect()
            assert gone() is None
        # What lives is set aside again, after that one.
        monkeypatch.undo()
        with set_aside():
            assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_what_the_application_has_frozen_stays_frozen():
    gc.freeze()
    try:
        with set_aside():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
