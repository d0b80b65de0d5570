"""Reading and merging leave no circles: they would hold on to nodes until a collection comes.

While much is made that is no garbage, collections are put off (``collector``).
"""

from __future__ import annotations

import gc

import numpy as np
import pytest

from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.hitchhiker_tree.factory import HitchhikerTreeFactory
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.levels.merging import Merging
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.protocol import Order
from datahike_async.index.source import read
from tests.disk import Disk

SIZES = {
    PersistentSetFactory: {"branching-factor": 8},
    HitchhikerTreeFactory: {"index-data-node-size": 8, "index-b-factor": 8, "index-log-size": 16},
}


def rows_of(entities: range, value: int) -> Rows:
    e = np.array(entities, np.int64)
    return Rows(e, np.full(len(e), 40, np.int32), Column(INT, e * 0 + value), e * 0 + 1)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", SIZES)
async def test_no_circles_are_left(kind: type, little_to_collect: None) -> None:
    factory = LevelsFactory(kind())
    disk = Disk(1, factory.decode)
    config = factory.check_config(SIZES[kind])
    levels = factory.empty(Order.AEVT, False, config)
    levels = levels.merge_below([rows_of(range(2000), 1)], [])
    levels = levels.merge([rows_of(range(0, 2000, 10), 2)], [rows_of(range(0, 2000, 10), 1)])
    levels = levels.flush(disk)[0]
    lower, upper = (40, 100), (40, 1500)
    bounds = [Column(INT, np.array([40, 40])), Column(INT, np.array([100, 1500]))]
    calls = {
        "count": lambda: levels.count_slice(lower, upper),
        "estimate": lambda: levels.estimate(lower, upper),
        "cuts": lambda: levels.cuts((40,), (40,), 100),
        "slice": lambda: levels.slice(lower, upper),
        "chunks": lambda: list(levels.chunks(lower, upper)),
        "back": lambda: list(levels.chunks(lower, upper, reverse=True)),
        "lookup": lambda: levels.lookup_many(bounds),
        "addresses": lambda: list(levels.addresses()),
        "leaves": lambda: levels.runs[0].adds.leaves(0, 1000),
    }
    gc.disable()
    try:
        for name, call in calls.items():
            await read(call)
            assert not gc.collect(), name
        merge = Merging(levels, -1)
        while await read(merge.step):
            merge.write(disk)
        assert len(merge.done()) == 2000
        del merge
        assert not gc.collect(), "merging"
    finally:
        gc.enable()
