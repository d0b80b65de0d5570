"""What a query may use: rows, bytes, seconds, rounds; errors name the budget and the clause."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.database import init_db
from datahike_async.query.running import engine as execute

pytestmark = pytest.mark.anyio

DB = init_db([(e, ":n", e % 3) for e in range(1, 301)] + [(e, ":up", e + 1) for e in range(1, 300)])
PAIRS = "[:find (count ?a) . :where [?a :n ?x] [?b :n ?y] [(not= ?a ?b)]]"
RULES = """[[(grow ?x) [(ground 1) ?x]]
            [(grow ?x) (grow ?y) [(inc ?y) ?x]]
            [(apart ?a ?b) [?a :up ?b]]
            [(apart ?a ?b) [?a :up ?c] [?c :up ?d] (apart ?d ?b)]]"""


async def refused(query: str, *inputs: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(d.QueryCanceled) as caught:
        await d.q(query, DB, *inputs, **options)
    assert caught.value.error == ":query/canceled"
    data: dict[str, Any] = {**caught.value.data, "text": str(caught.value)}
    return data


async def test_rows() -> None:
    data = await refused(PAIRS, budget=d.Budget(rows=50_000))
    assert (data[":budget"], data[":limit"]) == ("rows", 50_000)
    assert data[":clause"] == "[(not= ?a ?b)]"
    for part in ("[(not= ?a ?b)]", "90000 rows", "50,000", "larger budget"):
        assert part in data["text"]
    assert await d.q(PAIRS, DB, budget=d.Budget(rows=90_000)) == 300


async def test_bytes() -> None:
    data = await refused(PAIRS, budget={"bytes": 100_000})
    assert (data[":budget"], data[":limit"]) == ("bytes", 100_000)
    assert data[":clause"] == "[(not= ?a ?b)]"


async def test_rows_of_a_single_clause_count_too() -> None:
    data = await refused("[:find ?a :where [?a :n]]", budget={":rows": 100})
    assert data[":clause"] == "[?a :n]"


async def test_recursion() -> None:
    data = await refused(
        "[:find ?x :in $ % :where (grow ?x)]", RULES, budget=d.Budget(recursion=20)
    )
    assert (data[":budget"], data[":limit"]) == ("recursion", 20)
    assert "21 rounds" in data["text"]


async def test_rules_that_make_values_without_end_stop_at_the_rows() -> None:
    data = await refused("[:find ?x :in $ % :where (grow ?x)]", RULES, budget={"rows": 500})
    assert data[":budget"] == "rows"


async def test_a_closure_counts_its_rows() -> None:
    rules = "[[(over ?a ?b) [?a :up ?b]] [(over ?a ?b) [?a :up ?c] (over ?c ?b)]]"
    query = "[:find (count ?a) . :in $ % :with ?b :where (over ?a ?b)]"
    data = await refused(query, rules, budget={"rows": 10_000})
    assert data[":clause"] == "(over ?a ?b)"
    assert await d.q(query, DB, rules, budget={"rows": 50_000}) == 299 * 300 // 2


@pytest.mark.parametrize("given", [{"timeout": 30}, {"budget": d.Budget(seconds=0.03)}])
async def test_seconds(given: dict[str, Any]) -> None:
    with anyio.fail_after(20):
        data = await refused("[:find ?x :in $ % :where (grow ?x)]", RULES, **given)
    assert (data[":budget"], data[":limit"]) == ("seconds", 0.03)
    assert "timeout of 30 ms" in data["text"]


async def test_the_lower_of_timeout_and_seconds_counts() -> None:
    data = await refused(
        "[:find ?x :in $ % :where (grow ?x)]",
        RULES,
        timeout=60_000,
        budget=d.Budget(seconds=0.02),
    )
    assert data[":limit"] == 0.02


async def test_a_query_inside_a_query_has_what_is_left() -> None:
    inner = "[:find (count ?b) . :where [?b :n ?x] [?c :n ?y] [(not= ?b ?c)]]"
    query = f"""[:find ?n . :where [?a :up 2] [(q "{inner}" $) ?n]]"""
    assert await d.q(query, DB) == 300
    data = await refused(query, budget={"rows": 10_000})
    assert data[":budget"] == "rows"


async def test_a_budget_in_an_argument_map() -> None:
    with pytest.raises(d.QueryCanceled, match="budget of rows"):
        await d.q({":query": PAIRS, ":args": [DB], ":budget": {"rows": 5000}})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rowz": 5}, "rowz"),
        ({"rows": 0}, "rows"),
        ({"rows": 2.5}, "rows"),
        ({"seconds": "soon"}, "soon"),
        ({"bytes": True}, "bytes"),
        (5, "5"),
        ("rows", "rows"),
    ],
)
async def test_bad_budgets(given: Any, named: str) -> None:
    with pytest.raises(d.QueryError, match=named) as caught:
        await d.q(PAIRS, DB, budget=given)
    assert caught.value.error == ":query/budget"


async def test_no_limit_is_said_by_none() -> None:
    assert d.Budget().rows is not None
    assert await d.q(PAIRS, DB, budget=d.Budget(rows=None)) == 300


async def test_time_is_over_in_worker_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "LARGE", 0)
    with anyio.fail_after(20):
        data = await refused("[:find ?x :in $ % :where (grow ?x)]", RULES, timeout=30)
    assert data[":budget"] == "seconds"
