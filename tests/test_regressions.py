"""One test for each bug that was once found by hand, so that none of them comes back."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from datahike_async.database import Database, empty_db
from datahike_async.errors import TransactionError

pytestmark = pytest.mark.anyio

SCHEMA: dict[Any, dict[Any, Any]] = {":n": {":db/cardinality": ":db.cardinality/one"}}


async def _names(db: Database) -> dict[int, Any]:
    return {d.e: d.v for d in await db.datoms(":aevt", ":n")}


async def test_speculating_in_a_transaction_function_does_not_reach_the_transaction() -> None:
    base = empty_db(SCHEMA, keep_history=True)

    async def speculate(db: Database) -> list[Any]:
        await db.db_with([[":db/add", 7, ":n", "speculative"]])
        return [[":db/add", 8, ":n", "returned"]]

    report = await base.with_([[":db/add", 6, ":n", "before"], [":db.fn/call", speculate]])
    assert await _names(report.db_after) == {6: "before", 8: "returned"}
    assert {d.e for d in report.tx_data if str(d.a) == ":n"} == {6, 8}


async def test_two_speculations_at_once_on_one_value_do_not_meet() -> None:
    base = empty_db(SCHEMA)
    waiting, done = anyio.Event(), anyio.Event()
    first: list[Database] = []

    async def wait(_db: Database) -> list[Any]:
        waiting.set()
        await done.wait()
        return [[":db/add", 1, ":n", "first"]]

    async def run() -> None:
        first.append(await base.db_with([[":db.fn/call", wait]]))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await waiting.wait()
        second = await base.db_with([[":db/add", 2, ":n", "second"]])
        done.set()
    assert await _names(second) == {2: "second"}
    assert await _names(first[0]) == {1: "first"}
    assert await _names(base) == {}


@pytest.mark.parametrize("tx", ["tx", 2**70, -1, 1.5, True])
async def test_a_transaction_component_that_is_none_is_refused(tx: Any) -> None:
    base = empty_db(SCHEMA)
    with pytest.raises(TransactionError, match="transaction"):
        await base.with_([[":db/add", 1, ":n", "x", tx]])
