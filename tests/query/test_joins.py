"""Joins, negation and order over many rows, held to what Python computes, and counted.

What is counted is what costs: rows that are made, arrays that are sorted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryCanceled
from datahike_async.index import arrays
from datahike_async.index.arrays import Among, ascending, between
from datahike_async.index.columns import INT, Column
from datahike_async.looks import PIECE
from datahike_async.query.answer import shaping
from datahike_async.query.limits.budget import Budget, Meter
from datahike_async.query.relations import joins, relation
from datahike_async.query.relations.joins import join, parts_of, semi
from datahike_async.query.relations.relation import Relation, distinct
from datahike_async.query.relations.state import State
from datahike_async.query.running import engine

A, B, C = map(Symbol, ("?a", "?b", "?c"))
Pairs = set[tuple[int, int]]
NEAR = st.integers(-3, 3)
FAR = st.one_of(NEAR, st.sampled_from([-(2**63), 2**63 - 1, 2**61, -(2**61), 2**32]))
PAIRS = st.one_of(*(st.sets(st.tuples(n, n), max_size=24) for n in (NEAR, FAR)))


def table(first: Symbol, second: Symbol, pairs: Any) -> Relation:
    rows = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return Relation({first: Column(INT, rows[:, 0]), second: Column(INT, rows[:, 1])}, len(rows))


def rows_of(found: Relation, *names: Symbol) -> list[tuple[int, ...]]:
    return sorted(zip(*(found.columns[n].tolist() for n in names), strict=True))


@pytest.fixture(params=["few", "many"])
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    with ExitStack() as stack:
        if request.param == "many":
            small = [(joins, n, 0) for n in ("_LOOKED_UP", "_TESTED", "_DENSE", "PIECE")]
            for module, name, value in (*small, (arrays, "_MARKED", 0), (relation, "_ORDERED", 0)):
                stack.enter_context(mock.patch.object(module, name, value))
        yield


@pytest.mark.usefixtures("ways")
@given(PAIRS, PAIRS)
def test_a_join_has_the_pairs_of_equal_keys(one: Pairs, two: Pairs) -> None:
    found = join(table(A, B, one), table(B, C, two))
    expected = sorted((a, b, c) for a, b in one for b2, c in two if b == b2)
    assert rows_of(found, A, B, C) == expected


@pytest.mark.usefixtures("ways")
@given(PAIRS, PAIRS, PAIRS)
def test_what_closes_a_circle_leaves_out_only_what_it_would_not_match(
    one: Pairs, two: Pairs, last: Pairs
) -> None:
    only = table(A, C, last)
    for left, right in ((table(A, B, one), table(B, C, two)), (table(B, C, two), table(A, B, one))):
        found = join(join(left, right, None, only), only)
        expected = [(a, b, c) for a, b in one for b2, c in two if b == b2 and (a, c) in last]
        assert rows_of(found, A, B, C) == sorted(expected)


@pytest.mark.usefixtures("ways")
@given(PAIRS, PAIRS)
def test_rows_that_match_or_do_not_by_two_columns(one: Pairs, two: Pairs) -> None:
    left, right = table(A, B, one), table(A, B, two)
    assert rows_of(semi(left, right, keep=True), A, B) == sorted(one & two)
    assert rows_of(semi(left, right, keep=False), A, B) == sorted(one - two)
    assert rows_of(join(left, right), A, B) == sorted(one & two)


@given(st.lists(FAR), st.lists(FAR))
def test_a_set_that_is_marked_holds_what_it_was_given(among: list[int], values: list[int]) -> None:
    with mock.patch.object(arrays, "_MARKED", 0):
        known = Among(np.array(among, np.int64), 10**6)
    found = known.holds(np.array(values, np.int64))
    assert found.tolist() == [v in among for v in values]


@given(st.lists(st.integers(-9, 9), max_size=60), st.data())
def test_a_part_of_an_order_is_found_without_sorting_all(
    values: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    array = np.array(values, np.int64)
    with mock.patch.object(arrays, "_SAMPLE", 4):
        positions, before = between(array, start, stop)
    found = positions[np.argsort(array[positions], kind="stable")][start - before : stop - before]
    assert found.tolist() == np.argsort(array, kind="stable")[start:stop].tolist()


@given(st.lists(NEAR, max_size=5))
def test_ascending(values: list[int]) -> None:
    assert ascending(np.array(values, np.int64)) is (values == sorted(set(values)))


# -- counted -----------------------------------------------------------------------------------


def test_pairs_that_a_circle_does_not_close_are_never_made() -> None:
    """Of 250,000 pairs some thousand are kept; no column is taken of more."""
    hub = np.arange(500)
    left = table(A, B, [(int(a), 0) for a in hub])
    right = table(B, C, [(0, int(c)) for c in hub])
    only = table(A, C, {(int(a), int(c)) for a in hub for c in (a, (a * 7) % 500)})
    taken: list[int] = []
    real = Column.take

    def counted(self: Column, positions: Any) -> Column:
        taken.append(len(positions))
        return real(self, positions)

    with mock.patch.object(Column, "take", counted):
        found = join(left, right, None, only)
    assert left.count * right.count > PIECE
    assert found.count == only.count
    assert max(taken) == only.count
    with pytest.raises(QueryCanceled):
        join(left, right, Meter(Budget(rows=PIECE)), only)


def test_a_join_with_distinct_keys_sorts_nothing_and_keeps_the_order() -> None:
    rng = np.random.default_rng(3)
    many = Relation(
        {A: Column(INT, np.arange(9_000)), B: Column(INT, rng.integers(0, 99, 9_000))}, 9_000
    )
    few = table(B, C, [(b, b % 7) for b in range(90)])
    with mock.patch.object(joins, "_ranges", side_effect=AssertionError("searched")):
        for found in (join(many, few), join(few, many)):
            assert ascending(found.columns[A].data)
            assert found.count == int((many.columns[B].data < 90).sum())
            assert (found.columns[C].data == found.columns[B].data % 7).all()


def test_rows_of_which_a_column_ascends_are_known_to_be_distinct() -> None:
    rows = Relation({A: Column(INT, np.arange(5_000)), B: Column(INT, np.zeros(5_000, int))}, 5_000)
    with mock.patch.object(relation, "group_codes", side_effect=AssertionError("numbered")):
        assert distinct(rows) is rows


def test_two_columns_close_a_circle_where_each_is_of_one_side() -> None:
    ab, bc = table(A, B, ()), table(B, C, ())
    assert parts_of(table(A, C, ()), ab, bc)
    assert parts_of(table(C, A, ()), ab, bc)
    assert not parts_of(table(A, B, ()), ab, bc)
    assert not parts_of(table(B, C, ()), ab, bc)


# -- queries -----------------------------------------------------------------------------------

REF_MANY = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
LONG = {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/one"}
BOOLEAN = LONG | {":db/valueType": ":db.type/boolean"}
SCHEMA = {":knows": REF_MANY, ":n": LONG, ":m": LONG, ":odd": BOOLEAN}


def people(count: int, friends: int) -> tuple[d.Database, Pairs]:
    rng = np.random.default_rng(5)
    a = np.repeat(np.arange(1, count + 1), friends)
    b = rng.integers(1, count + 1, len(a))
    pairs = {(int(x), int(y)) for x, y in zip(a, b, strict=True)}
    facts: list[tuple[int, str, Any]] = [(x, ":knows", y) for x, y in sorted(pairs)]
    facts += [(e, ":n", e % 50) for e in range(1, count + 1)]
    facts += [(e, ":m", e * 7919 % 1009) for e in range(1, count + 1)]
    facts += [(e, ":odd", True) for e in range(1, count + 1, 3)]
    return d.init_db(facts, SCHEMA, schema_flexibility="write"), pairs


@pytest.mark.anyio
async def test_triangles_are_those_that_python_finds() -> None:
    db, pairs = people(600, 20)
    knows: dict[int, set[int]] = {}
    for a, b in pairs:
        knows.setdefault(a, set()).add(b)
    expected = Counter(a for a, b in pairs for c in knows.get(b, ()) if c in knows[a])
    tested: list[int] = []
    real = joins._tested

    def counted(*args: Any) -> Any:
        found = real(*args)
        tested.append(len(found[0]) if found else -1)
        return found

    query = "[:find ?a (count ?c) :with ?b :where [?a :knows ?b] [?b :knows ?c] [?a :knows ?c]]"
    with mock.patch.object(joins, "_tested", counted), mock.patch.object(joins, "PIECE", 1000):
        found = [await d.q(query, db) for _ in range(2)]
    assert dict(found[0]) == dict(found[1]) == expected
    assert sum(expected.values()) in tested


@pytest.mark.anyio
async def test_what_many_rows_must_not_match_is_read_by_itself() -> None:
    db, _ = people(9_000, 1)
    query = "[:find ?e :where [?e :n ?n] (not [?e :odd true])]"
    given_rows: list[int] = []
    carried: list[list[Symbol]] = []
    real, real_without = State.inner, engine.without

    def counted(self: State, consts: Any, relations: Any = ()) -> State:
        given_rows.append(sum(r.count for r in relations))
        return real(self, consts, relations)

    def told(left: Relation, right: Relation) -> Relation:
        carried.append(list(left.columns))
        return real_without(left, right)

    with mock.patch.object(State, "inner", counted), mock.patch.object(engine, "without", told):
        found = await d.q(query, db)
        assert given_rows == [0]
        # What nobody asks for is not carried along.
        assert carried == [[Symbol("?e")]]
        with mock.patch.object(engine, "_ALONE", 10**9):
            assert set(await d.q(query, db)) == set(found)
        assert given_rows == [0, 9_000]
    assert {row[0] for row in found} == {e for e in range(1, 9_001) if e % 3 != 1}


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["[?m ?e]", "[?m :desc ?e :desc]", "[?n :desc ?m ?e]"])
async def test_a_page_of_an_order_sorts_the_rows_around_it_alone(order: str) -> None:
    db, _ = people(9_000, 1)
    text = f"[:find ?n ?m ?e :where [?e :n ?n] [?e :m ?m] :order-by {order}"
    whole = list(await d.q(text + "]", db))
    sizes: list[int] = []

    def counted(values: Any) -> Any:
        sizes.append(len(values))
        return arrays.order_of(values)

    with mock.patch.object(shaping, "order_of", counted):
        for offset in (0, 4_000, 8_990):
            page = await d.q(f"{text} :offset {offset} :limit 20]", db)
            assert list(page) == whole[offset : offset + 20]
    assert max(sizes) < 9_000 // 5
