"""The data and queries of the wide benchmarks, at a tiny size: all sides give the same answers."""

from __future__ import annotations

from functools import cache
from typing import Any

import anyio
import numpy as np
import pytest

import datahike_async as d
from benchmarks import scale
from benchmarks.analytics import data, ours
from benchmarks.analytics.frames import Polars
from benchmarks.analytics.peer import Peer
from benchmarks.analytics.plan import Sizes, plan
from benchmarks.analytics.sqlite import SQLite
from benchmarks.measure import digest
from benchmarks.peers import Workload
from benchmarks.plan import Bar
from benchmarks.report import Measured, compared, differences

SIZES = Sizes(people=300, graph=300, star=3_000)
PEERS: dict[str, Any] = {"SQLite": SQLite, "polars": Polars}
cached_database = cache(ours.database)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_our_answers(name: str) -> None:
    peer: Peer = PEERS[name]()
    made, compared = "", 0
    for work in plan(SIZES):
        if work.data != made:
            made = work.data
            peer.make(made, getattr(SIZES, made))
        if (call := peer.prepared(work)) is None:
            continue
        theirs = digest(peer.rows(work, call()), ordered=work.ordered)
        assert theirs["rows"] > 0
        assert digest(answer(work), ordered=work.ordered) == theirs, work.name
        compared += 1
    assert compared >= 10


def answer(work: Workload) -> list[Any]:
    return anyio.run(ours.answer, work, cached_database(work.data, getattr(SIZES, work.data)))


def test_a_digest_tells_values_rows_and_order_apart() -> None:
    rows = [(1, "a"), (2, "b")]
    assert digest(rows) == digest(rows[::-1]) == digest([[1, "a"], [2, "b"]])
    assert digest(rows, ordered=True) != digest(rows[::-1], ordered=True)
    assert digest(rows) != digest([(1, "b"), (2, "a")])
    assert digest(rows) != digest(rows[:1])
    assert digest([({"b": 1, d.kw("a"): [2, 1]},)]) == digest([({":a": [1, 2], "b": 1},)])


def test_a_bar_is_missed_where_ours_takes_more_than_its_share_of_the_peers_time() -> None:
    mine = {
        name: Measured(ms, None, {"rows": 1, "digest": 5}, []) for name, ms in (("a", 3), ("b", 5))
    }
    results = {name: {"ms": 2.0, "slow": 1.0, "rows": 1, "digest": 5} for name in mine}
    found = {"SQLite": {"version": "3", "results": results}, "DuckDB": None}
    bars = {name: Bar("SQLite", 0.5) for name in mine}
    assert [row[-1] for row in compared(mine, found, bars)] == ["met", "missed"]
    absent = {name: Bar("DuckDB", 0.5) for name in mine}
    assert [row[-1] for row in compared(mine, found, absent)] == ["not measured"] * 2
    assert differences(mine, found) == []
    results["b"]["digest"] = 6
    assert len(differences(mine, found)) == 1


def test_a_size_is_held_to_the_most_and_to_the_smallest() -> None:
    def judged(name: str, *values: float, slow: float = 1.0) -> str:
        return scale.verdict(name, list(values), [slow] * len(values))[-1]

    assert judged("q4, ms", 0.1, 4.9) == "met"
    assert judged("q4, ms", 0.1, 5.1) == "missed"
    assert judged("q4, ms", 0.1, 5.1, slow=2.0) == "met"
    assert judged("point query, ms", 0.1, 0.14) == "met"
    assert judged("point query, ms", 0.1, 0.16) == "missed"
    assert judged("opening, ms", 0.1, 9) == ""


def test_lookup_refs_are_to_people_of_earlier_transactions() -> None:
    first, second = scale.batches(scale.BATCH + 10, refs=True)
    assert len(first) == scale.BATCH
    assert ":boss" not in first[0]
    ids = {entity[":id"] for entity in first}
    assert all(entity[":boss"][1] in ids and entity[":spouse"][1] in ids for entity in second)


def test_the_data_are_of_the_shape_that_is_told() -> None:
    graph = data.graph(5_000)
    assert len(graph.a) == pytest.approx(50_000, rel=0.02)
    assert not np.any(graph.a == graph.b)
    apart = np.abs(graph.a - graph.b)
    near = np.minimum(apart, 5_000 - apart) <= data.NEIGHBOURS
    assert near.mean() == pytest.approx(data.NEAR, abs=0.03)
    sales = data.star(5_000).sales.columns
    assert sales[":returned"].mean() == pytest.approx(0.1, abs=0.02)
    assert set(sales[":product"].tolist()) <= set(range(1, data.PRODUCTS + 1))
    assert len(data.people(100).columns) == 10
    again = data.people.__wrapped__(100)
    assert list(again.facts()) == list(data.people(100).facts())
