"""explain and query_stats: what will be done, and what was."""

from __future__ import annotations

from pathlib import Path

import pytest

import datahike_async as d
from datahike_async.database import init_db

pytestmark = pytest.mark.anyio

DB = init_db(
    [(e, ":n", e % 100) for e in range(1, 2001)] + [(e, ":up", e // 2) for e in range(2, 2001)],
    {":up": {":db/valueType": ":db.type/ref"}, ":n": {":db/valueType": ":db.type/long"}},
)
RULES = "[[(over ?a ?b) [?a :up ?b]] [(over ?a ?b) [?a :up ?c] (over ?c ?b)]]"


async def test_a_plan_as_text_and_as_data() -> None:
    query = "[:find ?e :where [?e :n 3] [?e :up ?u] (not [?u :n 1])]"
    found = await d.explain(query, DB)
    text = str(found)
    assert text.splitlines()[0] == query
    for clause in ("[?e :n 3]", "[?e :up ?u]", "(not [?u :n 1])", "  [?u :n 1]"):
        assert clause in text
    steps = found.data()
    assert [s["depth"] for s in steps] == [0, 0, 0, 1]
    assert [s["operator"] for s in steps[:3]] == [
        "AEVT column, filtered",
        "AEVT column, joined on ?e",
        "anti-join",
    ]
    assert 1 <= steps[0]["estimated"] <= 100
    assert "rows" not in steps[0]
    # It is a copy: nobody changes the plan of another.
    steps[0]["clause"] = "?"
    assert found.data()[0]["clause"] == "[?e :n 3]"


async def test_explaining_runs_nothing() -> None:
    def never(_: object) -> bool:
        raise AssertionError("a plan calls no function")

    found = await d.explain("[:find ?e :in $ f :where [?e :n ?n] [(f ?n)]]", DB, never)
    assert [s["operator"] for s in found.data()] == ["AEVT column", "predicate"]


async def test_analyze_says_what_happened() -> None:
    query = "[:find ?e ?u :where [?e :n 3] [?e :up ?u]]"
    await DB.q(query)
    found = await DB.explain(query, analyze=True)
    first, second = found.data()
    assert first["rows"] == second["rows"] == 20
    assert first["nodes"] == first["waves"] == 0
    assert first["ms"] >= 0
    assert str(found).splitlines()[2].split()[-3:] == ["ms", "nodes", "waves"]


async def test_nodes_and_waves_of_a_cold_database(tmp_path: Path) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config, schema_flexibility="read")
    async with d.connect(config) as conn:
        await conn.transact([{":db/id": e, ":n": e % 7, ":m": e} for e in range(1, 3000)])
    query = "[:find ?e ?m :where [?e :n 3] [?e :m ?m]]"
    async with d.connect(config) as conn:
        cold = (await conn.db().explain(query, analyze=True)).data()
        warm = (await conn.db().explain(query, analyze=True)).data()
    assert sum(s["nodes"] for s in cold) > sum(s["waves"] for s in cold) > 0
    assert sum(s["nodes"] for s in warm) == 0
    assert [s["rows"] for s in cold] == [s["rows"] for s in warm]


async def test_rules_are_told_once_with_their_branches() -> None:
    found = (await d.explain("[:find ?a ?b :in $ % :where (over ?a ?b)]", DB, RULES)).data()
    assert found[0]["clause"] == "(over ?a ?b)"
    assert found[0]["operator"] == "closure"
    assert [s["clause"] for s in found[1:]].count("[?a :up ?b]") == 1
    assert all(s["depth"] == 1 for s in found[1:])


async def test_seeks_of_a_point_query() -> None:
    db = init_db([(1, ":mail", "a"), (1, ":n", 2)], {":mail": {":db/unique": ":db.unique/value"}})
    query = "[:find ?n :in $ ?m :where [?e :mail ?m] [?e :n ?n]]"
    found = (await d.explain(query, db, "a")).data()
    assert [(s["clause"], s["operator"]) for s in found] == [
        ("[?e :mail ?m]", "AVET seek"),
        ("[?e :n ?n]", "EAVT seek"),
    ]


async def test_clauses_are_written_as_they_were() -> None:
    where = """[?e :n ?n] [_ :up ?e] [(> ?n 2)] [(+ ?n 1) ?m] [(ground [[1 2]]) [[?x _]]]
               (or-join [[?e] ?z] (and [?e :n ?z] [?e :up]) [?e :up ?z])
               (not-join [?e] [?e :n 5]) ($ over ?e ?y) [?e :n ?n ?tx]"""
    text = str(await d.explain(f"[:find ?e :in $ % :where {where}]", DB, RULES))
    for clause in (
        "[_ :up ?e]",
        "[(> ?n 2)]",
        "[(+ ?n 1) ?m]",
        "[(ground [[1 2]]) [[?x _]]]",
        "(or-join [[?e] ?z] (and [?e :n ?z] [?e :up]) [?e :up ?z])",
        "(not-join [?e] [?e :n 5])",
        "(over ?e ?y)",
        "[?e :n ?n ?tx]",
    ):
        assert clause in text


async def test_query_stats() -> None:
    query = "[:find ?e :where [?e :n ?n] (or [?e :n 1] [?e :n 2]) [(even? ?n)]]"
    stats = await DB.query_stats(query)
    assert stats.result == await DB.q(query)
    data = stats.data()
    assert data[":ret"] == stats.result
    kinds = [c[":type"] for c in data[":query-stats"]]
    assert kinds.count(":or") == kinds.count(":predicate") == 1
    assert ":lookup" in kinds
    for clause in data[":query-stats"]:
        assert clause[":t"] >= 0
        assert clause[":rows"] >= 0
        assert clause[":rels"] is not None
    assert (await d.query_stats(query, DB)).result == stats.result
    assert (await d.q({":query": query, ":args": [DB], ":stats?": True})).result == stats.result


async def test_what_cannot_be_planned_is_an_error() -> None:
    with pytest.raises(d.QueryError, match=r"\?x not bound"):
        await d.explain("[:find ?e :where [?e :n] [(> ?x 1)]]", DB)
    with pytest.raises(d.QueryError, match="Unknown rule"):
        await d.explain("[:find ?e :where (nowhere ?e)]", DB)
