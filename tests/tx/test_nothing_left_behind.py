"""A transaction that had to wait for nodes leaves nothing for the garbage collector.

While large ones and flushes follow one another what lives is set aside from collections: what
held itself then would be there until the last of them has ended.
"""

from __future__ import annotations

import gc
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.tx import apply
from datahike_async.tx.transaction import Transaction

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :id :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :to :db/valueType :db.type/ref :db/cardinality :db.cardinality/one}]
"""


async def test_runs_that_missed_nodes_are_gone_with_the_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = {"backend": "memory", "id": uuid4()}
    count, misses = 3000, 0
    async with d.connect(store=store, create=True, initial_tx=SCHEMA) as conn:
        await conn.transact([{":id": i} for i in range(count)])
        monkeypatch.setattr(apply, "pays", lambda *args: False)
        ahead = apply._ahead

        async def noted(*args):
            nonlocal misses
            misses += 1
            return await ahead(*args)

        monkeypatch.setattr(apply, "_ahead", noted)
        gc.collect()
        gc.disable()
        try:
            for n in range(3):
                conn._transactor.branch.source.cache.clear()
                await conn.transact(
                    [{":id": count + n * count + i, ":to": [":id", i]} for i in range(count)]
                )
            left = sum(type(x) is Transaction for x in gc.get_objects())
        finally:
            gc.enable()
    assert misses >= 3
    assert left <= 1
