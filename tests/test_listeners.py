"""Listeners: each on its own, whatever the others do, at a bounded cost."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store() -> dict[str, Any]:
    store = {"backend": "memory", "id": uuid4()}
    await d.create_database(store=store, schema_flexibility="read")
    return store


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


async def test_a_stuck_listener_costs_a_bounded_number_of_reports(
    store: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    let = anyio.Event()
    heard: list[d.TxReport] = []

    async def stuck(report: d.TxReport) -> None:
        heard.append(report)
        await let.wait()

    def waiting() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "Transact" for thing in gc.get_objects())

    async with d.connect(store=store, limits=Limits(listener_reports=5)) as conn:
        conn.listen(stuck, "stuck")
        await conn.transact([{":n": 0}])
        await until(lambda: heard)
        with caplog.at_level(logging.WARNING, "datahike_async.listeners"):
            for n in range(1, 21):
                await conn.transact([{":n": n}])
            assert waiting() <= 5 + 1
            assert caplog.text.count("'stuck' is 5 reports behind") == 1
            let.set()
            await until(lambda: len(heard) == 6)
        assert "'stuck' missed 15 reports" in caplog.text
        # In order, the newest among them, and the gap can be seen.
        assert [r.tx for r in heard[1:]] == [conn.db().max_tx - 4 + n for n in range(5)]
        assert heard[1].db_before != heard[0].db_after
        assert heard[2].db_before == heard[1].db_after


async def test_a_stuck_listener_holds_up_no_other(store: dict[str, Any]) -> None:
    heard: list[int] = []

    async def stuck(report: d.TxReport) -> None:
        await anyio.sleep_forever()

    conn = await d.connect(store=store, limits=Limits(close_seconds=0.05))
    conn.listen(stuck)
    conn.listen(lambda report: heard.append(report.tx))
    reports = [await conn.transact([{":n": n}]) for n in range(3)]
    await until(lambda: len(heard) == 3)
    assert heard == [report.tx for report in reports]
    with anyio.fail_after(10):
        await conn.release()


async def test_a_listener_may_release_its_connection(store: dict[str, Any]) -> None:
    conn = await d.connect(store=store)

    async def last(report: d.TxReport) -> None:
        await conn.release()

    conn.listen(last)
    await conn.transact([{":n": 1}])
    with anyio.fail_after(2):
        await conn.release()
    assert conn.closed


async def test_listeners_run_in_the_context_of_who_listens(store: dict[str, Any]) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []
    async with d.connect(store=store) as conn:
        token = who.set("Ada")
        conn.listen(lambda report: seen.append(who.get()))
        who.reset(token)
        await conn.transact([{":n": 1}])
        await until(lambda: seen)
    assert seen == ["Ada"]


async def test_transaction_functions_see_nothing_of_who_opened_the_connection(
    store: dict[str, Any],
) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    def function(db: d.Database) -> list[Any]:
        seen.append(who.get())
        return []

    token = who.set("Ada")
    async with d.connect(store=store) as conn:
        await conn.transact([[":db.fn/call", function]])
    who.reset(token)
    assert seen == ["nobody"]


async def test_a_listener_whose_work_is_cancelled_elsewhere_gets_the_reports_that_wait(
    store: dict[str, Any], anyio_backend: str
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("tasks that are awaited and cancelled are asyncio's")
    heard: list[int] = []

    async def listener(report: d.TxReport) -> None:
        heard.append(report.tx)
        if len(heard) == 1:
            await anyio.sleep(0.05)  # others gather meanwhile
            task = asyncio.ensure_future(asyncio.sleep(10))
            task.cancel()
            await task

    async with d.connect(store=store) as conn:
        conn.listen(listener)
        for n in range(3):
            await conn.transact([{":n": n}])
    assert len(heard) == 3
