"""Event loops that end with a connection open: nothing acknowledged is lost, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.edn import Keyword
from datahike_async.errors import WrongEventLoop
from datahike_async.transactor import sharing
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.transactor import Limits
from tests.loops import RUNNERS, Begin, held
from tests.stores import Servers, store_on

LIMITS = Limits(flush_rows=8, flush_bytes=400, flush_journal_bytes=400, close_rows=8)


@pytest.fixture(params=["memory", "file", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    return store


async def create(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")


async def numbers(store: dict[str, Any], *, then: int) -> list[int]:
    """Return what is there, having written ``then``: no lock of the past is held."""
    with anyio.fail_after(5):
        async with d.connect(store=store) as conn:
            await conn.transact([{":n": then}])
            return sorted(datom.v for datom in await conn.db().datoms("aevt", ":n"))


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_every_task_is_cancelled_at_many_turns_of_a_commit(
    store: dict[str, Any], loop: str
) -> None:
    cancelled_at_every(store, loop, maps=2, step=13)


@pytest.mark.slow
@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("maps", [1, 40, 1500], ids=["one", "many", "bulk"])
def test_every_task_is_cancelled_at_every_turn_of_a_commit(
    store: dict[str, Any], loop: str, maps: int
) -> None:
    """With 40 maps a commit is followed by a flush; 1,500 are loaded beside the loop."""
    cancelled_at_every(store, loop, maps, step=1)


def cancelled_at_every(store: dict[str, Any], loop: str, maps: int, step: int) -> None:
    anyio.run(create, store)
    attempted: set[int] = set()
    acknowledged: set[int] = set()
    shown: set[int] = set()
    fresh = iter(range(10**6))

    async def send(conn: d.Connection, values: list[int]) -> None:
        attempted.update(values)
        await conn.transact([{":n": n} for n in values])
        acknowledged.update(values)

    def listener(report: d.TxReport) -> None:
        # Its task begins when the sender is answered, who may be cancelled by then.
        shown.update(datom.v for datom in report.tx_data if datom.a == Keyword("n"))

    async def main(begin: Begin) -> None:
        conn = await d.connect(store=store, limits=LIMITS)
        conn.listen(listener)
        begin()
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(send, conn, [next(fresh) for _ in range(maps)])
        await send(conn, [next(fresh)])

    turns = 0
    before = None
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ended = RUNNERS[loop](main, turns)
            gc.collect()
        told = [str(w.message) for w in caught if w.category is ResourceWarning]
        assert len([text for text in told if "unclosed connection to branch :db" in text]) == 1
        n = next(fresh)
        found = anyio.run(partial(numbers, store, then=n))
        attempted.add(n)
        acknowledged.add(n)
        assert acknowledged | shown <= set(found) <= attempted
        assert len(found) == len(set(found))
        gc.collect()
        if before is None:
            before = held()
        assert held() == before
        if not ended:
            break
        turns += step
    assert turns > 5


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_loop_ends_though_its_only_end_meets_the_publication_of_a_flush(
    store: dict[str, Any], loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop cancels once what is left when ``main`` ends, and then waits for it."""
    anyio.run(create, store)
    fresh = iter(range(10**6))
    # One that nobody holds would end its writer.
    kept: list[d.Connection] = []
    publish = Branch.publish_flush

    async def main(begin: Begin) -> None:
        over: list[bool] = []

        async def publish_flush(branch: Branch, prepared: Any) -> None:
            begin(lambda: over.append(True))
            await publish(branch, prepared)
            over.append(False)

        monkeypatch.setattr(Branch, "publish_flush", publish_flush)
        kept[:] = [await d.connect(store=store, limits=LIMITS)]
        await kept[0].transact([{":n": next(fresh)} for _ in range(8)])
        # Turns pass while a thread is at work on it.
        while not over:
            await anyio.lowlevel.checkpoint()

    def at_many_turns() -> int:
        turns = 0
        while RUNNERS[loop](main, turns):
            turns += 1 + turns // 5
        return turns

    with pytest.warns(ResourceWarning, match="unclosed.*its event loop ended"):
        turns = at_many_turns()
    assert turns


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_release_whose_loop_ends_while_it_flushes_closes_the_store(
    store: dict[str, Any], loop: str
) -> None:
    anyio.run(create, store)
    anyio.run(partial(numbers, store, then=0))
    fresh = iter(range(1, 10**6))
    before = held()

    async def main(begin: Begin) -> None:
        conn = await d.connect(store=store, limits=Limits(close_rows=2))
        await conn.transact([{":n": next(fresh)}, {":n": next(fresh)}])
        begin()
        await conn.release()

    turns = 0
    while RUNNERS[loop](main, turns):
        assert held() == before, f"after {turns} turns"
        turns += 1
    assert turns > 5
    found = anyio.run(partial(numbers, store, then=next(fresh)))
    assert found == list(range(found[-1] + 1))


class _Cancelling(asyncio.SelectorEventLoop):
    """Cancels the first task whose name begins so, before its first step."""

    name: str | None = None

    def _run_once(self) -> None:
        for task in asyncio.all_tasks(self):
            if self.name is not None and task.get_name().startswith(self.name):
                self.name = None
                task.cancel()
        super()._run_once()  # type: ignore[misc]


def test_a_connection_outlives_that_its_flush_or_listener_is_cancelled_before_its_first_step(
    store: dict[str, Any],
) -> None:
    loop = _Cancelling()
    heard: list[int] = []

    async def main() -> None:
        await create(store)
        conn = await d.connect(store=store, limits=LIMITS)
        conn.listen(lambda report: heard.append(report.tx))
        for name in "a flush of", "listener":
            loop.name = name
            sent = [(await conn.transact([{":n": n} for n in range(9)])).tx for _ in range(3)]
            await asyncio.sleep(0)
            assert loop.name is None
        with anyio.fail_after(5):
            await conn.release()
        assert heard[-3:] == sent

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def test_a_connection_whose_writer_is_cancelled_before_its_first_step_is_not_waited_for(
    store: dict[str, Any],
) -> None:
    loop = _Cancelling()

    async def main() -> None:
        await create(store)
        loop.name = "the writer of"
        with anyio.fail_after(5):
            with pytest.raises(d.ConnectionClosed, match="event loop"):
                await d.connect(store=store)
            assert await numbers(store, then=1) == [1]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_what_a_loop_ends_with_is_closed_and_named(store: dict[str, Any], loop: str) -> None:
    anyio.run(create, store)
    anyio.run(lambda: numbers(store, then=1))
    before = held()
    kept: list[d.Connection] = []

    async def main() -> None:
        kept.append(await d.connect(store=store))
        await kept[0].transact([{":n": 2}])

    with pytest.warns(ResourceWarning, match="unclosed connection to branch :db.*its event loop"):
        anyio.run(main, backend=loop)
    assert held() == before
    assert anyio.run(lambda: numbers(store, then=3)) == [1, 2, 3]
    assert kept[0].db().max_tx == kept[0].db().max_tx
    with pytest.raises(WrongEventLoop, match="another event loop"):
        anyio.run(kept[0].release)


@pytest.mark.usefixtures("little_to_collect")
def test_a_loop_that_is_closed_without_an_end_keeps_nothing_open(store: dict[str, Any]) -> None:
    anyio.run(create, store)
    anyio.run(lambda: numbers(store, then=1))
    before = held()
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(_opened(store))
    loop.run_until_complete(conn.transact([{":n": 2}]))
    loop.close()
    # Noticed when the next one is opened, or when nobody holds this one any more.
    with pytest.warns(ResourceWarning, match="its event loop was closed"):
        assert anyio.run(lambda: numbers(store, then=3)) == [1, 2, 3]
    gc.collect()
    assert held() == before
    with pytest.raises(WrongEventLoop):
        anyio.run(conn.sync)


async def _opened(store: dict[str, Any]) -> d.Connection:
    return await d.connect(store=store)


@pytest.mark.usefixtures("little_to_collect")
def test_a_connection_that_nobody_holds_releases_itself(store: dict[str, Any]) -> None:
    anyio.run(create, store)
    anyio.run(lambda: numbers(store, then=1))
    before = held()

    async def main() -> None:
        await (await d.connect(store=store)).transact([{":n": 2}])
        gc.collect()
        with anyio.fail_after(5):
            while sharing._registry().live:
                await anyio.sleep(0.001)
        assert len(held()) <= len(before) + 10  # the loop's own

    for loop in RUNNERS:
        with pytest.warns(ResourceWarning, match="unclosed.*nobody holds it"):
            anyio.run(main, backend=loop)
        assert held() == before
    with pytest.warns(ResourceWarning, match="unclosed.*nobody holds it"):
        _opened_and_forgotten(store)
    # That the loop was closed is noticed when the next connection is opened.
    anyio.run(lambda: numbers(store, then=3))
    assert held() == before


def _opened_and_forgotten(store: dict[str, Any]) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_opened(store))
    loop.close()
    gc.collect()


async def _cancel_all_but_this() -> None:
    this = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is not this:
            task.cancel()


def test_a_loop_that_goes_on_after_cancelling_all_says_what_happened(
    store: dict[str, Any],
) -> None:
    async def main() -> None:
        await create(store)
        conn = await d.connect(store=store)
        await conn.transact([{":n": 1}])
        await _cancel_all_but_this()
        with pytest.raises(d.WriterError, match="event loop"):
            while True:
                await conn.transact([{":n": 2}])
        await conn.release()
        assert 1 in await numbers(store, then=3)

    with pytest.warns(ResourceWarning, match="unclosed"):
        asyncio.run(main())


PROGRAM = """
import signal, sys, warnings
import anyio
import datahike_async as d

# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    conn = await d.connect(store={"backend": "file", "path": sys.argv[2]})
    async def send(first):
        n = first
        while True:
            await conn.transact([{":n": n}])
            print(n, flush=True)
            n += 4
    async with anyio.create_task_group() as tasks:
        for first in range(4):
            tasks.start_soon(send, first)

warnings.simplefilter("always")
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_program_that_is_interrupted_keeps_what_it_was_told_and_leaves_no_lock(
    loop: str, tmp_path: Path
) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    anyio.run(create, store)
    with (
        open(tmp_path / "errors", "w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, loop, store["path"]],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as program,
    ):
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(40)]
        program.send_signal(signal.SIGINT)
        rest = program.stdout.read()
        program.wait(10)
    errors = (tmp_path / "errors").read_text()
    told = [int(line) for line in "".join([*lines, rest]).split()]
    assert "KeyboardInterrupt" in errors
    assert "ResourceWarning: unclosed connection to branch :db" in errors
    assert "TrioInternalError" not in errors
    assert len(told) >= 40
    found = anyio.run(partial(numbers, store, then=-1))
    assert set(told) <= set(found)
    assert len(found) <= len(told) + 4 + 1, "what was sent and not answered"


@pytest.mark.slow
@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_every_task_is_cancelled_at_every_turn_of_a_commit_on_s3(
    loop: str, tmp_path: Path, servers: Servers
) -> None:
    store = store_on("s3-moto", tmp_path, servers)
    cancelled_at_every(store, loop, maps=2, step=3)
