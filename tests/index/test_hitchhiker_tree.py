"""What the hitchhiker-tree has of its own: its settings, what waits in branches, what it writes."""

from __future__ import annotations

from random import Random

import pytest

import datahike_async as d
from benchmarks.indexes import measured
from datahike_async.index.hitchhiker_tree.factory import HitchhikerTreeFactory
from datahike_async.index.hitchhiker_tree.node import Buffered
from datahike_async.index.persistent_set.node import Leaf
from datahike_async.index.protocol import Order
from datahike_async.index.registry import HITCHHIKER_TREE, PERSISTENT_SET
from datahike_async.index.testing import Model

FACTORY = HitchhikerTreeFactory()
SMALL = {"index-b-factor": 6, "index-data-node-size": 16, "index-log-size": 60}


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("order", Order)
def test_no_more_waits_than_there_is_room_for_and_numbers_add_up(order, temporal):
    random, model = Random(1), Model(order, temporal)
    index = FACTORY.empty(order, temporal, SMALL)
    waited = 0

    def check(node, depth):
        nonlocal waited
        if isinstance(node, Leaf):
            return len(node.rows), {depth}
        assert isinstance(node, Buffered)
        assert 0 < len(node.keys) <= SMALL["index-b-factor"]
        room = SMALL["index-log-size"] * (1 if node.level == 1 else 8)
        assert len(node.buffer) <= room
        waited = max(waited, len(node.buffer))
        found = [check(child, depth + 1) for child in node.nodes]
        assert [n for n, _ in found] == node.counts
        more = sum(map(len, node.buffer.adds)) - sum(map(len, node.buffer.removes))
        return sum(node.counts) + more, set.union(*(depths for _, depths in found))

    for t in range(20):
        adds, removes = model.batch(random, t, 80, spread=300)
        index = index.merge(model.runs(adds), model.runs(removes))
        model = model.merge(adds, removes)
        count, depths = check(index._root, 0)
        assert count == len(index) == len(model)
        assert len(depths) == 1
    assert waited > 60


def test_random_updates_write_less_than_copying_each_leaf():
    # All are handed down at about the same time, so what counts is the mean.
    copied, kept = (sum(measured(x, 200_000, 8)[:2]) for x in (PERSISTENT_SET, HITCHHIKER_TREE))
    assert kept < 0.6 * copied


@pytest.mark.anyio
async def test_datahikes_settings_are_honoured():
    config = {
        "store": {"backend": "memory", "id": "7d7f1a3a-0d1c-4d1e-9f3f-0f6c0f7c3a11"},
        "index": ":datahike.index/hitchhiker-tree",
        "index-config": {":index-b-factor": 17, ":index-data-node-size": 300, ":index-log-size": 9},
    }
    async with d.connect(config, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": n} for n in range(2000)])
    async with d.connect(config) as conn:
        for index in conn.db().snapshot.trees.indexes():
            base = index.base
            assert (base._branch, base._leaf, base._log) == (17, 300, 9)
        assert await conn.db().q("[:find (count ?e) . :where [?e :n _]]") == 2000
    await d.delete_database(config)


@pytest.mark.parametrize("bad", [0, -1, 2**21, "64", True, None])
def test_a_setting_that_is_none_is_refused(bad):
    with pytest.raises(d.ConfigError, match="index-log-size is the number of changes"):
        FACTORY.check_config({":index-log-size": bad})
    with pytest.raises(d.ConfigError, match="it knows :index-b-factor"):
        FACTORY.check_config({":branching-factor": 512})
    assert FACTORY.check_config({}, remote=True)["index-data-node-size"] == 1024
