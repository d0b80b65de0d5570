"""Aggregates: those on columns against those value by value, the user's own, and chance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async import api
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryCanceled, QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.index.columns import FLOAT, INT, Column
from datahike_async.query.api import q
from datahike_async.query.builtins import aggregates
from datahike_async.query.builtins.aggregates import AGGREGATES, Groups, aggregate
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

NAN, INF = math.nan, math.inf
FAST = ["sum", "avg", "median", "variance", "stddev", "min", "max", "count", "count-distinct"]
INTS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63)]),
)
FLOATS = st.one_of(
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)),
    st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1e308, -1e308, 5e-324]),
)


def both_ways(name: str, column: Column, groups: Groups) -> tuple[list[Any], list[Any]]:
    fast = aggregates._vectorised(name, column, groups)
    assert fast is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregates, "_vectorised", lambda *args: None)
        slow = aggregate(Symbol(name), [], column, groups)
    assert isinstance(slow, Column)
    return fast.tolist(), slow.tolist()


def close(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if type(a) is not float or a == b or (a != a and b != b):
        return typed_key(a) == typed_key(b)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("name", FAST)
@given(rows=st.lists(st.tuples(st.integers(0, 4), INTS), min_size=1, max_size=30))
def test_on_columns_of_ints(name: str, rows: list[tuple[int, int]]) -> None:
    column = Column(INT, np.array([v for _, v in rows], np.int64))
    groups = Groups(np.array([g for g, _ in rows], np.int64), 5)
    fast, slow = both_ways(name, column, groups)
    if name in ("variance", "stddev"):
        # Doubles hold these ints only in part: what is lost goes with the square of the largest.
        scale = max(float(max(abs(v) for _, v in rows)), 1.0)
        unit = 1e-12 * (scale**2 if name == "variance" else scale)
        for a, b in zip(fast, slow, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=unit * (1 if name == "variance" else 1e4))
    else:
        assert all(map(close, fast, slow)), (fast, slow)


@pytest.mark.parametrize("name", FAST)
@given(rows=st.lists(st.tuples(st.integers(0, 4), FLOATS), min_size=1, max_size=30))
def test_on_columns_of_doubles(name: str, rows: list[tuple[int, float]]) -> None:
    large = any(abs(v) > 1e300 and v not in (INF, -INF) for _, v in rows)
    if large and name in ("sum", "avg", "variance", "stddev"):
        return  # whether such sums overflow depends on their order
    column = Column(FLOAT, np.array([v for _, v in rows], np.float64))
    groups = Groups(np.array([g for g, _ in rows], np.int64), 5)
    fast, slow = both_ways(name, column, groups)
    if name in ("variance", "stddev"):
        for a, b in zip(fast, slow, strict=True):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-3, nan_ok=True)
    else:
        assert all(map(close, fast, slow)), (fast, slow)


def one(name: str, *values: Any) -> Any:
    groups = Groups(np.zeros(len(values), np.int64), 1)
    found = aggregate(Symbol(name), [], aggregates.column_of(list(values)), groups)
    assert isinstance(found, Column)
    return found.tolist()[0]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("sum", (1, 2, 3), 6),
        ("sum", (2**63 - 1, 2**63 - 1), 2**64 - 2),
        ("sum", (-(2**63), -(2**63), -1), -(2**64) - 1),
        ("sum", (2**70, 1), 2**70 + 1),
        ("sum", (1, 2.5), 3.5),
        ("sum", (Decimal("1.5"), 1), Decimal("2.5")),
        ("sum", (Decimal("1.5"), 0.5), 2.0),
        ("sum", (Fraction(1, 2), Fraction(1, 3)), Fraction(5, 6)),
        ("sum", (1.5, NAN), NAN),
        ("avg", (1, 2), 1.5),
        ("avg", (2, 4), 3.0),
        ("avg", (2**60, 2**60 + 2**10), 2.0**60 + 2**9),
        ("avg", (2**63 - 1, 2**63 - 1), 2.0**63),
        ("avg", (Decimal("1.5"), 0.5), 1.0),
        ("avg", (INF, -INF), NAN),
        ("median", (3, 1, 2), 2.0),
        ("median", (4, 1, 2, 3), 2.5),
        ("median", (1.5, NAN, 2.0), NAN),
        ("median", (1.7e308,), 1.7e308),
        ("median", (Decimal(1), 2), 1.5),
        ("variance", (10, 15, 20, 35, 75), 554.0),
        ("variance", (5,), 0.0),
        ("variance", (INF, 1.0), NAN),
        ("stddev", (1, 3), 1.0),
        ("stddev", (Decimal(1), 3.0), 1.0),
        ("min", (2.5, NAN, -1.0), -1.0),
        ("max", (2.5, NAN, -1.0), NAN),
        ("min", (NAN, NAN), NAN),
        ("min", (1, "a", None), None),
        ("max", (1, "a", 2.5), "a"),
        ("max", (2**53, 2**53 + 1, float(2**53)), 2**53 + 1),
        ("min", (datetime(2020, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)), None),
        ("count", (1, 1, 1), 3),
        ("count-distinct", (1, 1.0, True, 1, NAN, NAN), 4),
        ("distinct", (1, 1, "a"), ValueSet([1, "a"])),
    ],
)
def test_result(name: str, values: tuple[Any, ...], expected: Any) -> None:
    if isinstance(values[0], datetime):
        expected = min(values)
    found = one(name, *values)
    assert type(found) is type(expected)
    assert typed_key(found) == typed_key(expected)


@pytest.mark.parametrize("name", ["sum", "avg", "median", "variance", "stddev"])
@pytest.mark.parametrize("value", ["a", True, None, datetime(2020, 1, 1, tzinfo=UTC)])
def test_what_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(QueryError, match=name) as caught:
        one(name, 1, value)
    assert caught.value.error == ":query/where"


pytestmark = pytest.mark.anyio
RED = [("a", 3), ("a", 1), ("a", 2), ("b", 9), ("b", 7)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("(min ?n)", {"a": 1, "b": 7}),
        ("(min 2 ?n)", {"a": (1, 2), "b": (7, 9)}),
        ("(max 2 ?n)", {"a": (2, 3), "b": (7, 9)}),
        ("(max 0 ?n)", {"a": (), "b": ()}),
        ("(count ?n)", {"a": 3, "b": 2}),
        ("(avg ?n)", {"a": 2.0, "b": 8.0}),
        ("(sample 0 ?n)", {"a": (), "b": ()}),
        ("(rand 0 ?n)", {"a": (), "b": ()}),
        ("(distinct ?n)", {"a": frozenset({1, 2, 3}), "b": frozenset({7, 9})}),
    ],
)
async def test_in_find(call: str, expected: dict[str, Any]) -> None:
    assert dict(await q(f"[:find ?k {call} :in [[?k ?n]]]", RED)) == expected


async def test_every_aggregate_in_groups_without_rows() -> None:
    for name in AGGREGATES:
        assert len(await q(f"[:find ?k ({name} ?n) :in [[?k ?n]]]", [])) == 0
        assert await q(f"[:find ({name} ?n) . :in [?n ...]]", []) is None


# -- chance ------------------------------------------------------------------------------------

CHANCES = [
    "[:find (rand ?n) . :in [?n ...]]",
    "[:find (rand 20 ?n) . :in [?n ...]]",
    "[:find (sample 5 ?n) . :in [?n ...]]",
    "[:find [?r ...] :in [?n ...] :where [(rand) ?r]]",
    "[:find [?r ...] :in [?n ...] :where [(rand 5) ?r]]",
    "[:find [?r ...] :in [?n ...] :where [(rand-int ?n) ?r]]",
    "[:find [?r ...] :in [?n ...] :where [(random-uuid) ?r]]",
    "[:find [?r ...] :in [?n ...] :where [(range ?n) ?c] [(shuffle ?c) ?r]]",
    "[:find [?r ...] :in [?n ...] :where [(range ?n) ?c] [(rand-nth ?c) ?r]]",
    '[:find ?r . :in [?n ...] :where [(q "[:find (rand 20 ?x) . :in [?x ...]]" [1 2 3]) ?r]]',
]


@pytest.mark.parametrize("query", CHANCES)
@pytest.mark.parametrize("ask", [q, api.q])
async def test_chance_is_injected(query: str, ask: Callable[..., Any]) -> None:
    numbers = list(range(1, 50))
    first = await ask(query, numbers, rng=Random(7))
    assert await ask(query, numbers, rng=Random(7)) == first
    others = [await ask(query, numbers, rng=Random(seed)) for seed in range(9) if seed != 7]
    assert any(other != first for other in others)
    await ask(query, numbers)


@pytest.mark.parametrize("query", CHANCES)
async def test_chance_leaves_the_global_generator_alone(query: str) -> None:
    before = random.getstate()
    await q(query, [1, 2, 3])
    assert random.getstate() == before


async def test_what_is_no_generator() -> None:
    with pytest.raises(QueryError, match="rng"):
        await q(CHANCES[0], [1], rng=5)


async def test_samples() -> None:
    assert sorted(await q("[:find (sample 9 ?n) . :in [?n ...]]", [1, 2, 3])) == [1, 2, 3]
    found = await q("[:find (rand 9 ?n) . :in [?n ...]]", [1, 2, 3])
    assert len(found) == 9
    assert set(found) <= {1, 2, 3}
    with pytest.raises(QueryCanceled, match="values") as caught:
        await q("[:find (rand 1000000000 ?n) . :in [?n ...]]", [1, 2, 3])
    assert caught.value.error == ":query/canceled"


@pytest.mark.parametrize("call", ["(min -1 ?n)", '(max "2" ?n)', "(sample 1.5 ?n)", "(sum 2 ?n)"])
async def test_bad_counts(call: str) -> None:
    with pytest.raises(QueryError):
        await q(f"[:find {call} . :in [?n ...]]", [1, 2])


# -- the user's own ----------------------------------------------------------------------------


def spread(values: list[Any]) -> Any:
    return max(values) - min(values)


async def spread_later(values: list[Any]) -> Any:
    await pause()
    return spread(values)


class Spread:
    async def __call__(self, values: list[Any]) -> Any:
        return await spread_later(values)


async def pause() -> None:
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "function", [spread, spread_later, Spread()], ids=["sync", "async", "class"]
)
@pytest.mark.parametrize("ask", [q, api.q])
async def test_custom_aggregates(function: Callable[..., Any], ask: Callable[..., Any]) -> None:
    expected = {"a": 2, "b": 2}
    for form in ("(aggregate ?f ?n)", "(?f ?n)"):
        assert dict(await ask(f"[:find ?k {form} :in ?f [[?k ?n]]]", function, RED)) == expected
    query = "[:find ?k (aggregate f ?n) (count ?n) :in f [[?k ?n]]]"
    assert set(await ask(query, function, RED)) == {("a", 2, 3), ("b", 2, 2)}
    register_function("my/spread", function)
    try:
        assert dict(await ask("[:find ?k (my/spread ?n) :in [[?k ?n]]]", RED)) == expected
        query = "[:find (aggregate my/spread ?n) . :in [[?k ?n]]]"
        assert await ask(query, RED) == 8
    finally:
        unregister_function("my/spread")


async def test_custom_aggregates_take_constants() -> None:
    async def scaled(factor: int, values: list[Any]) -> Any:
        return [factor * sum(values)]

    query = "[:find ?k (?f 10 ?n) :in ?f [[?k ?n]]]"
    assert dict(await q(query, scaled, RED)) == {"a": (60,), "b": (160,)}


@pytest.mark.parametrize("wait", [False, True])
async def test_custom_aggregates_that_fail(wait: bool) -> None:
    def sync(values: list[Any]) -> Any:
        return values[99]

    async def later(values: list[Any]) -> Any:
        return values[99]

    with pytest.raises(QueryError, match="IndexError") as caught:
        await q("[:find (aggregate ?f ?n) . :in ?f [?n ...]]", later if wait else sync, [1, 2])
    assert caught.value.error == ":query/where"


async def test_a_registered_aggregate_stands_before_a_built_in_one() -> None:
    register_function("sum", lambda values: "mine")
    try:
        assert await q("[:find (sum ?n) . :in [?n ...]]", [1, 2]) == "mine"
    finally:
        unregister_function("sum")
    assert await q("[:find (sum ?n) . :in [?n ...]]", [1, 2]) == 3
