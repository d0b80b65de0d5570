"""Database values of a connection, and what their functions may do."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    return {**found, "path": str(tmp_path / "db")} if request.param == "file" else found


async def test_a_transaction_function_cannot_wait_for_its_own_writer(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store) as conn:

        async def nested(db: d.Database) -> list[Any]:
            await conn.transact([{":a": 1}])
            return []

        with pytest.raises(d.TransactionError, match="its own branch"):
            await conn.transact([[":db.fn/call", nested]])
        await conn.transact([{":a": 2}])
        assert await conn.db().q("[:find [?v ...] :where [_ :a ?v]]") == [2]


async def test_the_same_state_is_equal_wherever_it_lies(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=Limits(flush_rows=20)) as conn:
        # Until a flush comes to lie between the commit and now.
        with anyio.fail_after(30):
            report = await conn.transact([{":n": 0}])
            while conn.db().snapshot is report.db_after.snapshot:
                report = await conn.transact([{":n": n} for n in range(12)])
                await anyio.sleep(0.02)
        assert conn.db() == report.db_after
        assert hash(conn.db()) == hash(report.db_after)
        assert conn.db() != report.db_before
