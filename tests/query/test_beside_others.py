"""Queries beside other tasks: turns for them, worker threads, cancellation, on both loops."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.database import init_db
from datahike_async.hosting import HOST
from datahike_async.query.api import q
from datahike_async.query.running import engine as execute

pytestmark = pytest.mark.anyio

COUNT = 40_000
DB = init_db(
    [(e, ":n", e % 100) for e in range(1, COUNT)]
    + [(e, ":name", f"n{e % 7}") for e in range(1, COUNT)]
    + [(e, ":up", e + 1) for e in range(1, COUNT)]
)
RULES = """[[(over ?a ?b) [?a :up ?b]] [(over ?a ?b) [?a :up ?c] (over ?c ?b)]
            [(grow ?x) [(ground 1) ?x]] [(grow ?x) (grow ?y) [(inc ?y) ?x]]]"""
JOIN = '[:find (count ?a) . :with ?b :where [?a :n ?n] [(< ?n 5)] [?b :n ?n] [?b :name "n1"]]'


class Watched:
    """The real host, which tells which threads worked."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    async def pause(self) -> None:
        await HOST.pause()

    async def in_thread(self, make: Any) -> Any:
        def noted() -> Any:
            self.threads.append(threading.get_ident())
            return make()

        return await HOST.in_thread(noted)

    def check(self) -> None:
        HOST.check()


async def test_steps_over_many_rows_run_in_a_worker_thread() -> None:
    host = Watched()
    found = await q(JOIN, DB, host=host)
    assert found == await q(JOIN, DB)
    assert host.threads
    assert threading.get_ident() not in host.threads


async def test_small_queries_use_no_thread() -> None:
    host = Watched()
    # Once columns are at hand; putting them together is not small.
    await q("[:find ?e :where [?e :up 7]]", DB)
    assert len(await q("[:find ?e :where [?e :up 7]]", DB, host=host)) == 1
    small = init_db([(e, ":n", e) for e in range(1, 100)])
    assert len(await q("[:find ?e ?n :where [?e :n ?n] [(> ?n 5)]]", small, host=host)) == 94
    assert not host.threads


async def test_functions_of_the_user_run_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "LARGE", 0)
    here = threading.get_ident()
    seen = set()

    def odd(n: int) -> bool:
        seen.add(threading.get_ident())
        return bool(n % 2)

    async def odd_async(n: int) -> bool:
        await anyio.lowlevel.checkpoint()
        return odd(n)

    rules = "[[(odd-one ?f ?e) [?e :n ?n] [(?f ?n)]]]"
    for function in (odd, odd_async):
        host = Watched()
        for query in (
            "[:find (count ?e) . :in $ % ?f :where [?e :n ?n] [(?f ?n)]]",
            "[:find (count ?e) . :in $ % ?f :where [?e :n] (or-join [?e ?f] (odd-one ?f ?e))]",
            "[:find (count ?e) . :in $ % ?f :where [?e :n 3] (not (odd-one ?f ?e))]",
        ):
            found = await q(query, DB, rules, function, host=host)
            assert found is None or found == len([e for e in range(1, COUNT) if e % 100 % 2])
    assert seen == {here}


async def test_others_run_while_a_query_does() -> None:
    turns = 0
    done = anyio.Event()

    async def other() -> None:
        nonlocal turns
        while not done.is_set():
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await anyio.lowlevel.checkpoint()
        before = turns
        await d.q(JOIN, DB)
        during = turns - before
        done.set()
    assert during > 0


@pytest.mark.parametrize("what", ["q", "pull", "pull_many"])
async def test_small_calls_in_a_row_leave_others_their_turn(what: str) -> None:
    """None of them takes long, and none has to wait for anything."""
    db = init_db([(1, ":mail", "a"), (1, ":n", 2)], {":mail": {":db/unique": ":db.unique/value"}})
    calls = {
        "q": lambda: db.q('[:find ?n . :where [?e :mail "a"] [?e :n ?n]]'),
        "pull": lambda: db.pull("[:n]", 1),
        "pull_many": lambda: db.pull_many("[:n]", [1]),
    }
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await anyio.lowlevel.checkpoint()
        before = turns
        for _ in range(20_000):
            await calls[what]()
            if turns > before + 3:
                break
        else:
            raise AssertionError("twenty thousand calls kept the event loop to themselves")
        group.cancel_scope.cancel()


async def test_many_readers_at_once_have_the_same_answers() -> None:
    queries = [
        JOIN,
        '[:find (count ?e) . :where [?e :name "n1"] (not [?e :n 3])]',
        "[:find ?name (sum ?n) :with ?e :where [?e :n ?n] [?e :name ?name] :order-by ?name]",
    ]
    alone = [await q(query, DB) for query in queries]
    found: list[tuple[int, Any]] = []

    async def reader(i: int) -> None:
        found.append((i, await d.q(queries[i], DB)))

    async with anyio.create_task_group() as group:
        for n in range(30):
            group.start_soon(reader, n % 3)
    assert len(found) == 30
    assert all(answer == alone[i] for i, answer in found)


@pytest.mark.parametrize("large", [0, 10**12])
async def test_a_cancelled_query_stops(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker thread and on the event loop: one that would never end does."""
    monkeypatch.setattr(execute, "LARGE", large)
    with anyio.fail_after(30):
        with anyio.move_on_after(0.05) as scope:
            await d.q("[:find ?x :in $ % :where (grow ?x)]", DB, RULES)
    assert scope.cancelled_caught
    # The database is none the worse for it.
    assert len(await d.q("[:find ?e :where [?e :n 3]]", DB)) == 400


async def test_an_error_in_a_worker_thread_is_the_query_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "LARGE", 0)
    with pytest.raises(d.QueryCanceled, match="budget of rows"):
        await d.q(JOIN, DB, budget={"rows": 1000})


async def test_the_answer_is_shaped_in_a_worker_thread_too() -> None:
    host = Watched()
    query = (
        "[:find ?a ?b :where [?a :n ?n] [(< ?n 6)] [?b :n ?n] [?b :n 5] :order-by [?b :desc ?a]]"
    )
    found = await q(query, DB, host=host, limit=3)
    assert [row[0] for row in found] == [5, 105, 205]
    assert len(host.threads) > 1
