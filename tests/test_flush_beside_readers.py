"""Trees are merged in a thread while readers fill their column cache: neither is disturbed."""

from __future__ import annotations

import sys
import threading

import pytest

import datahike_async as d
from datahike_async.snapshot.trees import Trees
from datahike_async.tx.apply import absorbed

ATTRIBUTES = 300


@pytest.fixture
def fast_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.anyio
async def test_a_merge_while_columns_are_cached(fast_switches):
    db = await d.empty_db(keep_history=True).db_with([{f":a{i}": i for i in range(ATTRIBUTES)}])
    snapshot = await absorbed(db.snapshot)
    whole, schema = snapshot.trees, snapshot.schema
    failures: list[BaseException] = []
    for _ in range(30):
        trees = Trees(
            whole.factory, whole.config, whole.current, whole.temporal, whole.max_eid, whole.max_tx
        )

        def read(trees: Trees = trees) -> None:
            try:
                for attr in schema.attrs:
                    trees.attr(attr.id)
            except Exception as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive():
            try:
                trees.merge({}, {}, {}, schema, whole.max_eid, whole.max_tx)
            except RuntimeError as error:
                failures.append(error)
                break
        reader.join()
    assert failures == []
