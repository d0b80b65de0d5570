"""One test for each bug that was once found by hand, so that none of them comes back."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.database import Database, empty_db
from datahike_async.errors import TransactionError
from datahike_async.index.protocol import Order
from datahike_async.transactor.limits import Limits

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


@pytest.mark.anyio
@pytest.mark.parametrize("value", [1, 2])
async def test_an_attribute_that_is_narrowed_keeps_the_one_value_that_is_left(value: int) -> None:
    """Runs have added both values: the newest of them is not the one that is there."""
    config: dict[str, Any] = {"store": {"backend": "memory", "id": uuid4()}}
    attribute = {":db/ident": ":n", ":db/valueType": ":db.type/long"}
    many, one = ({":db/cardinality": f":db.cardinality/{name}"} for name in ("many", "one"))
    flushing = Limits(close_rows=1)
    async with d.connect(config, create=True, limits=flushing) as conn:
        await conn.transact(
            [{**attribute, **many}, *({":db/id": -i, ":n": 7} for i in range(1, 60))]
        )
    for n in (1, 2):
        async with d.connect(config, limits=flushing) as conn:
            await conn.transact([[":db/add", 999, ":n", n]])
    async with d.connect(config, limits=flushing) as conn:
        assert len(conn.db().snapshot.trees.current[Order.EAVT].runs) == 2
        gone = [":db/retract", 999, ":n", 3 - value]
        narrowed = await conn.transact([gone, {":db/ident": ":n", **one}])
        for db in (conn.db(), narrowed.db_after):
            assert await d.q("[:find ?v . :where [999 :n ?v]]", db) == value
    async with d.connect(config) as conn:
        assert await d.q("[:find ?v . :where [999 :n ?v]]", conn.db()) == value
