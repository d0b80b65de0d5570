"""The :having section: which groups and rows it keeps, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d
from datahike_async.edn.types import Keyword

pytestmark = pytest.mark.anyio

PEOPLE = [(1, "Ivan", 15), (2, "Petr", 37), (3, "Ivan", 37), (4, "Oleg", 20), (5, "Ivan", 15)]
WHERE = ":where [?e :name ?n] [?e :age ?a]"


def people() -> d.Database:
    return d.init_db([x for e, n, a in PEOPLE for x in ((e, ":name", n), (e, ":age", a))])


def groups() -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for _, name, age in PEOPLE:
        out.setdefault(name, []).append(age)
    return out


async def test_groups_by_their_size():
    for least in range(5):
        found = await d.q(
            f"[:find ?n (count ?e) :in $ ?least {WHERE} :having [(>= (count ?e) ?least)]]",
            people(),
            least,
        )
        assert set(found) == {(n, len(g)) for n, g in groups().items() if len(g) >= least}


async def test_an_aggregate_that_find_does_not_show():
    db = people()
    found = await d.q(f"[:find ?n :with ?e {WHERE} :having [(> (count ?e) 1)]]", db)
    assert found == [("Ivan",)]
    found = await d.q(f"[:find ?n (sum ?a) :with ?e {WHERE} :having [(< (max ?a) 37)]]", db)
    assert found == [("Oleg", 20)]
    # What is compared changes nothing of what is shown.
    plain = dict(await d.q(f"[:find ?n (sum ?a) :with ?e {WHERE}]", db))
    shown = dict(await d.q(f"[:find ?n (sum ?a) :with ?e {WHERE} :having [(< (min ?a) 99)]]", db))
    assert shown == plain


async def test_several_predicates_come_before_order_and_limit():
    query = (
        f"[:find ?n (sum ?a) :with ?e {WHERE} :order-by [1 :desc] :limit 1"
        ' :having [(> (sum ?a) 1)] [(!= ?n "Ivan")]]'
    )
    assert await d.q(query, people()) == [("Petr", 37)]
    assert await d.q(query, people(), offset=1) == [("Oleg", 20)]
    assert await d.q(query, people(), offset=2) == []


async def test_without_aggregates_it_compares_what_was_found():
    db = people()
    found = await d.q(f'[:find ?n {WHERE} :having [(< ?n "P")]]', db)
    assert isinstance(found, d.QueryResult)
    assert found == {("Ivan",), ("Oleg",)}
    bag = await d.q(f'[:find ?n :with ?e {WHERE} :having [(= ?n "Ivan")]]', db)
    assert bag == [("Ivan",)] * 3
    assert await d.q(f"[:find ?n {WHERE} :having [(< 2 1)]]", db) == set()
    assert len(await d.q(f"[:find ?n {WHERE} :having [(< 1 2)]]", db)) == 3
    one = "[:find (pull ?e [:age]) . :where [?e :name] :having [(= ?e 2)]]"
    assert await d.q(one, db) == {Keyword("age"): 37}


async def test_the_other_find_forms():
    db = people()
    having = ":having [(> (count ?e) {})]"
    names = f"[:find [?n ...] :with ?e {WHERE} {having}]"
    assert await d.q(names.format(1), db) == ["Ivan"]
    count = f"[:find (count ?e) . {WHERE} {having}]"
    assert await d.q(count.format(4), db) == 5
    assert await d.q(count.format(5), db) is None
    pair = f"[:find [?n (count ?e)] {WHERE} {having}]"
    assert await d.q(pair.format(1), db) == ("Ivan", 3)
    maps = f"[:find ?n (count ?e) :strs n c {WHERE} {having}]"
    assert await d.q(maps.format(1), db) == [{"n": "Ivan", "c": 3}]


async def test_functions_of_ones_own_and_queries_as_data():
    db = people()
    query = f"[:find ?n (count ?e) :in $ ?f {WHERE} :having [(?f ?n (max ?a))] :with ?a]"
    assert await d.q(query, db, lambda n, most: n != "Ivan" and most > 20) == [("Petr", 1)]
    data: dict[str, Any] = {
        ":find": ["?n", ("count", "?e")],
        ":where": [["?e", ":name", "?n"]],
        ":having": [[(">", ("count", "?e"), 1)]],
    }
    assert await d.q(data, db) == [("Ivan", 3)]
    assert await d.q({**data, ":having": []}, db) == await d.q({**data, ":having": None}, db)


async def test_groups_of_nothing_and_values_of_another_type():
    db = people()
    empty = "[:find ?n (count ?e) :where [?e :nosuch ?n] :having [(> (count ?e) 0)]]"
    assert await d.q(empty, db) == []
    assert await d.q(f'[:find ?n (max ?a) {WHERE} :having [(> (max ?a) "x")]]', db) == []


async def test_a_point_query_heeds_it_too():
    db = d.init_db([(1, ":mail", "a")], {":mail": {":db/unique": ":db.unique/identity"}})
    query = "[:find ?e :in $ ?m :where [?e :mail ?m] :having [(> ?e {})]]"
    assert await d.q(query.format(0), db, "a") == {(1,)}
    assert await d.q(query.format(1), db, "a") == set()
