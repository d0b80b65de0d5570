"""The lazy list that :order-by, :with, aggregates and pulls give, and how results are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

import datahike_async as d
from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Column
from datahike_async.query.answer.result import QueryList, QueryResult

pytestmark = pytest.mark.anyio

ROWS = [(3, "c"), (1, "a"), (2, "b"), (1, "a")]


def listed(rows: list[tuple[Any, ...]] = ROWS) -> QueryList:
    columns = [Column.of([row[i] for row in rows]) for i in range(2)]
    return QueryList(("e", "n"), columns, len(rows))


def given(rows: list[tuple[Any, ...]] = ROWS) -> QueryList:
    return QueryList.of_rows(("e", "n"), rows)


@pytest.mark.parametrize("make", [listed, given])
def test_it_is_a_list(make):
    rows = make()
    assert len(rows) == 4
    assert rows
    assert list(rows) == ROWS
    assert rows == ROWS
    assert ROWS == rows  # noqa: SIM300 - the list asks first
    assert rows != ROWS[:3]
    assert rows != [*ROWS[:3], (1, "b")]
    assert rows != tuple(ROWS)
    assert rows != set(ROWS)
    assert rows == listed()
    assert rows == given()
    assert rows != listed(ROWS[::-1])
    assert (rows[0], rows[-1], rows[3]) == (ROWS[0], ROWS[-1], ROWS[3])
    for bad in (4, -5):
        with pytest.raises(IndexError, match=str(bad)):
            rows[bad]
    assert list(reversed(rows)) == ROWS[::-1]
    assert (2, "b") in rows
    assert (2, "a") not in rows
    assert "b" not in rows
    assert rows.count((1, "a")) == 2
    assert rows.index((1, "a")) == 1
    assert rows.index((1, "a"), 2) == 3
    with pytest.raises(ValueError, match="among"):
        rows.index((1, "a"), 2, 3)
    with pytest.raises(TypeError, match="unhashable"):
        hash(rows)
    assert not make([])
    assert make([]) == []


@pytest.mark.parametrize("make", [listed, given])
@pytest.mark.parametrize(
    "part",
    [
        slice(1, 3),
        slice(None, None, -1),
        slice(-1, None),
        slice(9, 12),
        slice(3, 1),
        slice(0, 4, 2),
    ],
    ids=str,
)
def test_a_slice_is_such_a_list(make, part):
    cut = make()[part]
    assert isinstance(cut, QueryList)
    assert cut == ROWS[part]
    assert len(cut) == len(ROWS[part])
    assert cut.names == ("e", "n")
    assert cut.columns()["n"].tolist() == [n for _, n in ROWS[part]]


@pytest.mark.parametrize("make", [listed, given])
def test_what_it_shares_with_the_set(make):
    rows = make()
    assert list(rows.columns()) == ["e", "n"]
    assert rows.columns()["e"].tolist() == [3, 1, 2, 1]
    assert list(rows.chunks(3)) == [ROWS[:3], ROWS[3:]]
    assert rows.to_dicts()[:2] == [{"e": 3, "n": "c"}, {"e": 1, "n": "a"}]
    assert json.loads(json.dumps(rows.to_dicts()))[0] == {"e": 3, "n": "c"}


def test_two_lists_of_results_compare_types_too():
    ones, trues = (QueryList(("v",), [Column.of([v])], 1) for v in (1, True))
    assert ones != trues
    assert ones == [(True,)]  # as every list of Python
    nan = QueryList(("v",), [Column.of([float("nan")])], 1)
    assert nan == QueryList(("v",), [Column.of([float("nan")])], 1)


async def test_which_queries_give_lists():
    db = d.init_db([(1, ":n", "b"), (2, ":n", "a"), (3, ":n", "b")])
    ordered = await d.q("[:find ?e ?n :where [?e :n ?n] :order-by [?n ?e :desc]]", db)
    bag = await d.q("[:find ?n :with ?e :where [?e :n ?n] :order-by ?n]", db)
    counted = await d.q("[:find ?n (count ?e) :where [?e :n ?n]]", db)
    pulled = await d.q("[:find (pull ?e [:n]) ?e :where [?e :n ?n] :order-by ?e :limit 1]", db)
    assert all(isinstance(x, QueryList) for x in (ordered, bag, counted, pulled))
    assert ordered == [(2, "a"), (3, "b"), (1, "b")]
    assert bag == [("a",), ("b",), ("b",)]
    assert sorted(counted) == [("a", 1), ("b", 2)]
    assert pulled == [({Keyword("n"): "b"}, 1)]
    assert pulled.columns()["pull"][0] == {Keyword("n"): "b"}
    assert type(await d.q("[:find ?e :where [?e :n]]", db)) is QueryResult
    maps = await d.q("[:find ?e :strs e :where [?e :n] :order-by ?e]", db)
    assert maps == [{"e": 1}, {"e": 2}, {"e": 3}]
    assert type(maps) is list


async def test_a_list_is_an_input_as_any_other():
    db = d.init_db([(1, ":n", "b"), (2, ":n", "a")])
    ordered = await d.q("[:find ?e ?n :where [?e :n ?n] :order-by ?n]", db)
    assert await d.q("[:find ?n :in [[?e ?n]]]", ordered) == {("a",), ("b",)}
    assert await d.q("[:find ?n :where [1 ?n]]", ordered) == {("b",)}


async def test_long_lists_are_read_in_chunks():
    db = d.init_db([(i, ":n", i % 7) for i in range(9000)])
    found = await d.q("[:find ?e ?n :where [?e :n ?n] :order-by [?e :desc]]", db)
    expected = [(i, i % 7) for i in range(8999, -1, -1)]
    assert found == expected
    assert list(found) == expected
    assert found[5000:5002] == expected[5000:5002]
    assert found[-1] == (0, 0)


# -- names -------------------------------------------------------------------------------------


async def test_columns_of_one_name_are_numbered():
    db = d.init_db([(1, ":n", "b"), (2, ":n", "a")])
    found = await d.q("[:find (count ?e) (count ?n) (max ?n) :where [?e :n ?n]]", db)
    assert found.names == ("count", "count", "max")
    assert list(found.columns()) == ["count", "count_2", "max"]
    assert found.to_dicts() == [{"count": 2, "count_2": 2, "max": "b"}]
    clash = QueryResult(("a", "a", "a_2"), [Column.of([1])] * 3, 1)
    assert list(clash.columns()) == ["a", "a_3", "a_2"]


# -- to be looked at ---------------------------------------------------------------------------

EVIL = "<script>alert('1')</script>"


@pytest.mark.parametrize("kind", [QueryResult, QueryList])
def test_the_repr_is_short(kind):
    few = kind(("e",), [Column.of([1, 2])], 2)
    assert repr(few) in ("{(1,), (2,)}", "[(1,), (2,)]")
    many = kind(("e", "n"), [Column.of(range(1000)), Column.of(["x" * 10_000] * 1000)], 1000)
    assert len(repr(many)) < 2000
    assert "… 990 more" in repr(many)
    assert repr(kind(("e",), [Column.of([])], 0)) in ("set()", "[]")


@pytest.mark.parametrize("kind", [QueryResult, QueryList])
def test_a_result_prints_as_a_table(kind):
    found = kind(("e", "name"), [Column.of(range(30)), Column.of(["x\x1b[2J\n y\ud800"] * 30)], 30)
    lines = str(found).split("\n")
    assert lines[0].split() == ["e", "name"]
    assert lines[2].split() == ["0", "x\N{REPLACEMENT CHARACTER}[2J", "y\N{REPLACEMENT CHARACTER}"]
    assert len(lines) == 23
    assert lines[-1] == "  … and 10 more"
    assert "(none)" in str(kind(("e",), [Column.of([])], 0))
    assert "object" in str(kind.of_rows(("x",), [(object(),)]))


@pytest.mark.parametrize("kind", [QueryResult, QueryList])
def test_html_is_escaped_and_bounded(kind):
    names = ("e", "<b>")
    found = kind(names, [Column.of(range(70)), Column.of([EVIL, *map(str, range(69))])], 70)
    html = found._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in html
    assert "&lt;b&gt;" in html
    assert html.count("<tr>") == 51
    assert "70 rows" in html
    one = kind(("k",), [Column.of([Keyword("<i>")])], 1)._repr_html_()
    assert "1 row<" in one
    assert "<i>" not in one
    long = kind(("x",), [Column.of(["<" * 10**6])], 1)._repr_html_()
    assert len(long) < 2000
