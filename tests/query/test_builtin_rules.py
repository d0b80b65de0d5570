"""Rules that are there without being given: valid time, and the relations of two intervals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from datahike_async.database import Database, empty_db
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.query.api import q
from datahike_async.query.language import builtin_rules
from datahike_async.query.language.builtin_rules import BUILTIN_RULES
from datahike_async.query.prepare import NO_RULES, prepare

pytestmark = pytest.mark.anyio

Interval = tuple[int, int]
INTERVALS: list[Interval] = [(a, b) for a in range(6) for b in range(a + 1, 6)]


def points(interval: Interval) -> set[int]:
    return set(range(*interval))


# Said another way than the rules say it: by the points that the intervals hold.
RELATIONS: dict[str, Callable[[Interval, Interval], bool]] = {
    "overlaps": lambda x, y: bool(points(x) & points(y)),
    "equals": lambda x, y: points(x) == points(y),
    "contains": lambda x, y: points(x) >= points(y),
    "strictly-contains": lambda x, y: points(x) >= {min(points(y)) - 1, *points(y), y[1]},
    "precedes": lambda x, y: max(points(x)) < min(points(y)),
    "strictly-precedes": lambda x, y: max(points(x)) + 1 < min(points(y)),
    "immediately-precedes": lambda x, y: max(points(x)) + 1 == min(points(y)),
    "meets": lambda x, y: max(points(x)) + 1 == min(points(y)),
    "succeeds": lambda x, y: min(points(x)) > max(points(y)),
    "strictly-succeeds": lambda x, y: min(points(x)) > max(points(y)) + 1,
    "immediately-succeeds": lambda x, y: min(points(x)) == max(points(y)) + 1,
    "starts": lambda x, y: min(points(x)) == min(points(y)) and points(x) < points(y),
    "started-by": lambda x, y: min(points(x)) == min(points(y)) and points(x) > points(y),
    "finishes": lambda x, y: max(points(x)) == max(points(y)) and points(x) < points(y),
    "finished-by": lambda x, y: max(points(x)) == max(points(y)) and points(x) > points(y),
}


def day(number: int) -> datetime:
    return datetime(2024, 1, 1 + number, tzinfo=UTC)


def test_every_relation_of_intervals_has_its_test() -> None:
    assert {f"interval-{name}?" for name in RELATIONS} == {
        name for name in BUILTIN_RULES if name.startswith("interval-")
    }


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("of", [int, float, day])
async def test_relation(name: str, of: Callable[[int], Any]) -> None:
    rows = [(a, b, c, d) for (a, b), (c, d) in product(INTERVALS, INTERVALS)]
    given = [tuple(map(of, row)) for row in rows]
    query = f"""[:find ?a ?b ?c ?d :in [[?a ?b ?c ?d]]
                 :where (interval-{name}? ?a ?b ?c ?d)]"""
    expected = {
        tuple(map(of, (a, b, c, d))) for a, b, c, d in rows if RELATIONS[name]((a, b), (c, d))
    }
    assert 0 < len(expected) < len(rows)
    assert set(await q(query, given)) == expected


async def test_relation_of_constants_and_texts() -> None:
    assert await q("[:find ?x . :in ?x :where (interval-overlaps? 1 5 4 9)]", 7) == 7
    assert await q("[:find ?x . :in ?x :where (interval-overlaps? 1 4 4 9)]", 7) is None
    assert await q('[:find ?x . :in ?x :where (interval-meets? "a" ?x "f" "k")]', "f") == "f"


@pytest.fixture
async def db() -> Database:
    """Facts of five transactions: two with an end, one without, one without a start, one bare."""
    base = empty_db({":name": {":db/valueType": ":db.type/string"}})
    windows = [("a", 0, 5), ("b", 5, 8), ("c", 3, None), ("d", None, 4), ("e", None, None)]
    for name, start, end in windows:
        meta: dict[str, Any] = {":db/id": ":db/current-tx"}
        if start is not None:
            meta[":db.valid/from"] = day(start)
        if end is not None:
            meta[":db.valid/to"] = day(end)
        base = await base.db_with([{":name": name}, *([meta] if len(meta) > 1 else [])])
    return base


@pytest.mark.parametrize(
    ("call", "days", "expected"),
    [
        ("valid-at ?tx ?x", (0,), "a"),
        ("valid-at ?tx ?x", (4,), "ac"),
        ("valid-at ?tx ?x", (5,), "bc"),
        ("valid-at ?tx ?x", (8,), "c"),
        ("valid-between ?tx ?x ?y", (0, 3), "a"),
        ("valid-between ?tx ?x ?y", (4, 6), "abc"),
        ("valid-between ?tx ?x ?y", (5, 6), "bc"),
        ("valid-between ?tx ?x ?y", (8, 9), "c"),
        ("period-overlaps? ?tx ?x ?y", (5, 6), "bc"),
        ("valid-during ?tx ?x ?y", (0, 5), "a"),
        ("valid-during ?tx ?x ?y", (0, 8), "ab"),
        ("valid-during ?tx ?x ?y", (1, 20), "b"),
    ],
)
async def test_valid_time(db: Database, call: str, days: tuple[int, ...], expected: str) -> None:
    names = " ".join(["?x", "?y"][: len(days)])
    query = f"[:find [?n ...] :in $ {names} :where [_ :name ?n ?tx] ({call})]"
    assert sorted(await q(query, db, *map(day, days))) == list(expected)
    # The order of clauses makes no difference.
    query = f"[:find [?n ...] :in $ {names} :where ({call}) [_ :name ?n ?tx]]"
    assert sorted(await q(query, db, *map(day, days))) == list(expected)


async def test_valid_time_of_another_source(db: Database) -> None:
    query = """[:find [?n ...] :in $ $old ?x
                :where [$old _ :name ?n ?tx] ($old valid-at ?tx ?x)]"""
    assert sorted(await q(query, empty_db(), db, day(5))) == ["b", "c"]


async def test_what_is_not_valid(db: Database) -> None:
    query = "[:find [?n ...] :in $ ?x :where [_ :name ?n ?tx] (not (valid-at ?tx ?x))]"
    assert sorted(await q(query, db, day(5))) == ["a", "d", "e"]
    query = """[:find [?n ...] :in $ ?x ?y :where [_ :name ?n ?tx]
                (or (valid-at ?tx ?x) (valid-at ?tx ?y))]"""
    assert sorted(await q(query, db, day(0), day(7))) == ["a", "b", "c"]


async def test_rules_of_the_user_call_built_in_ones(db: Database) -> None:
    rules = "[[(known ?n ?at) [_ :name ?n ?tx] (valid-at ?tx ?at)]]"
    query = "[:find [?n ...] :in $ % ?at :where (known ?n ?at)]"
    assert sorted(await q(query, db, rules, day(4))) == ["a", "c"]


async def test_rules_of_the_user_come_first(db: Database) -> None:
    rules = "[[(valid-at ?tx ?at) [(= ?at 1)] [(some? ?tx)]]]"
    query = "[:find [?n ...] :in $ % ?at :where [_ :name ?n ?tx] (valid-at ?tx ?at)]"
    assert sorted(await q(query, db, rules, 1)) == ["a", "b", "c", "d", "e"]
    assert await q(query, db, rules, 2) == []
    # Others are there beside it, and those that call it call the user's.
    rules = "[[(valid-between ?tx ?from ?to) [(some? ?tx)] [(< ?from ?to)]]]"
    query = "[:find [?n ...] :in $ % ?x ?y :where [_ :name ?n ?tx] (period-overlaps? ?tx ?x ?y)]"
    assert len(await q(query, db, rules, 1, 2)) == 5
    assert await q(query, db, rules, 2, 1) == []


async def test_missing_values_and_names() -> None:
    with pytest.raises(QueryError) as caught:
        await q("[:find ?a :in ?a :where (interval-meets? ?a 1 ?b 3)]", 1)
    assert caught.value.error == ":query/where"
    with pytest.raises(QueryError):
        await q("[:find ?a :in ?a :where (interval-sideways? ?a 1 2 3)]", 1)


async def test_who_calls_none_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed() -> Any:
        raise AssertionError("the built-in rules were looked at")

    monkeypatch.setattr("datahike_async.query.language.ruleset.builtin_rules", parsed)
    monkeypatch.setattr(NO_RULES, "_complete", None)
    rules = "[[(who-pays-nothing ?x) [(even? ?x)]]]"
    query = "[:find ?x . :in % ?x :where (who-pays-nothing ?x)]"
    assert await q(query, rules, 2) == 2
    with pytest.raises(AssertionError):
        await q("[:find ?x . :in ?x :where (interval-meets? 1 ?x 2 3)]", 2)


def test_completed_rules_are_made_once() -> None:
    names = prepare("[:find ?x :in ?x :where (interval-meets? 1 ?x 2 3)]").builtin_rules
    assert names == {Symbol("interval-meets?")}
    assert NO_RULES.completed(names) is NO_RULES.completed(names)
    assert NO_RULES.completed(frozenset()) is NO_RULES
    assert builtin_rules.builtin_rules() is builtin_rules.builtin_rules()
