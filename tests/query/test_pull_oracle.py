"""Pull against a naive one, written to be read, on random graphs and patterns.

A pattern is data: names of attributes, and dicts from a name to a pattern, a depth or "...".
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.database import Database, empty_db
from datahike_async.errors import QueryError
from datahike_async.query.pulling import execute as pull_execute
from datahike_async.query.pulling import read as pull_read

REF = {":db/valueType": ":db.type/ref"}
MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, Any] = {
    ":name": {":db/valueType": ":db.type/string"},
    ":tags": MANY,
    ":next": REF,
    ":friends": {**REF, **MANY},
}
ENTITIES = range(1, 9)

Facts = dict[int, dict[str, list[Any]]]


def facts_of(rows: list[tuple[int, str, Any]]) -> Facts:
    out: Facts = {}
    for e, a, v in rows:
        values = out.setdefault(e, {}).setdefault(a, [])
        if a in (":name", ":next"):
            values[:] = [v]
        elif v not in values:
            values.append(v)
    for entity in out.values():
        for values in entity.values():
            values.sort()
    return out


def naive(facts: Facts, pattern: list[Any], e: int, seen: frozenset[int], depth: int = 0) -> Any:
    """Return the map of ``e``; ``seen`` are the entities that the recursion entered so far."""
    out: dict[str, Any] = {}
    for item in pattern:
        for name, sub in item.items() if isinstance(item, dict) else [(item, None)]:
            if name == ":db/id":
                out[name] = e
                continue
            reverse = name.startswith(":_")
            values = referring(facts, name, e) if reverse else facts.get(e, {}).get(name, [])
            if not values:
                continue
            many = reverse or name in (":tags", ":friends")
            if sub is None:
                shown = [{":db/id": v} for v in values] if is_ref(name) else list(values)
            elif isinstance(sub, list):
                shown = [naive(facts, sub, v, frozenset()) for v in values]
            elif sub == depth:
                continue  # as deep as was asked for
            else:
                shown = [
                    {":db/id": v} if v in seen else naive(facts, pattern, v, seen | {v}, depth + 1)
                    for v in values
                ]
            shown = [x for x in shown if x is not None]
            if many:
                out[name] = shown
            elif shown:
                out[name] = shown[0]
    if not out or (list(out) == [":db/id"] and e not in facts):
        return None
    return out


def is_ref(name: str) -> bool:
    return name.lstrip(":_") in ("next", "friends")


def referring(facts: Facts, name: str, e: int) -> list[int]:
    forward = ":" + name[2:]
    return sorted(x for x, entity in facts.items() if e in entity.get(forward, []))


NAMES = st.sampled_from([":name", ":tags", ":next", ":friends", ":db/id", ":_next", ":_friends"])
REFS = st.sampled_from([":next", ":friends", ":_friends"])
FACT = st.one_of(
    st.tuples(st.sampled_from(ENTITIES), st.just(":name"), st.sampled_from("abc")),
    st.tuples(st.sampled_from(ENTITIES), st.just(":tags"), st.integers(0, 3)),
    st.tuples(
        st.sampled_from(ENTITIES), st.sampled_from([":next", ":friends"]), st.sampled_from(ENTITIES)
    ),
)


def distinct_names(pattern: list[Any]) -> bool:
    names = [n for item in pattern for n in (item if isinstance(item, dict) else [item])]
    return len(names) == len(set(names))


PATTERN = st.deferred(
    lambda: st.lists(
        st.one_of(
            NAMES,
            st.dictionaries(
                REFS, PATTERN | st.integers(1, 3) | st.just("..."), min_size=1, max_size=1
            ),
        ),
        min_size=1,
        max_size=3,
    ).filter(distinct_names)
)


def recurs(pattern: list[Any]) -> int:
    """Return how many attributes of a pattern, nested ones not counted, recur."""
    subs = [s for item in pattern if isinstance(item, dict) for s in item.values()]
    return sum(not isinstance(s, list) for s in subs)


def one_recursion_a_scope(pattern: list[Any]) -> bool:
    # Depths are counted for each attribute apart; the naive one counts one.
    subs = [s for item in pattern if isinstance(item, dict) for s in item.values()]
    return recurs(pattern) <= 1 and all(
        one_recursion_a_scope(s) for s in subs if isinstance(s, list)
    )


async def compare(rows: list[Any], pattern: list[Any], columns: int, dense: bool = True) -> None:
    facts = facts_of(rows)
    db: Database = await empty_db(SCHEMA).db_with([[":db/add", *row] for row in rows])
    expected = [naive(facts, pattern, e, frozenset()) for e in ENTITIES]
    with (
        mock.patch.object(pull_execute, "COLUMNS_FROM", columns),
        mock.patch.object(pull_read, "COLUMNS_FROM", columns),
        mock.patch.object(pull_read.Reader, "_dense", return_value=dense),
    ):
        # Twice: the second time columns are at hand.
        for _ in range(2):
            assert await db.pull_many(pattern, list(ENTITIES)) == expected
        for e, one in zip(ENTITIES, expected, strict=True):
            assert await db.pull(pattern, e) == one


CASES = (
    st.lists(FACT, max_size=20),
    PATTERN.filter(one_recursion_a_scope),
    st.sampled_from([1, 3, 1000]),
    st.booleans(),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=200)
@given(*CASES)
def test_pull_agrees_with_a_naive_one(
    backend: str, rows: list[Any], pattern: list[Any], columns: int, dense: bool
) -> None:
    anyio.run(partial(compare, rows, pattern, columns, dense), backend=backend)


class _NeverMet(set[int]):
    def isdisjoint(self, other: Any) -> bool:
        return True


def without_the_last(ones: Any) -> Any:
    def planted(self: Any, attr: Any, ids: list[int]) -> Any:
        found = ones(self, attr, ids)
        return found and (found[0][:-1], found[1][:-1])

    return planted


def in_reverse(values: Any) -> Any:
    def planted(self: Any, attr: Any, reverse: bool, ids: list[int]) -> Any:
        return {e: vs[::-1] for e, vs in values(self, attr, reverse, ids).items()}

    return planted


@pytest.mark.parametrize("fault", ["none", "a value less", "order", "met again"])
def test_planted_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pull_read.Reader
    if fault == "a value less":
        monkeypatch.setattr(reader, "ones", without_the_last(reader.ones))
    elif fault == "order":
        monkeypatch.setattr(reader, "values", in_reverse(reader.values))
    elif fault == "met again":
        monkeypatch.setattr(pull_execute, "set", _NeverMet, raising=False)
        monkeypatch.setattr(pull_execute, "MAX_MAPS", 100)
    rows = [
        *((1, ":friends", 2), (2, ":friends", 1), (1, ":friends", 3)),
        *((1, ":name", "a"), (2, ":name", "b"), (3, ":name", "c")),
    ]
    check = partial(anyio.run, compare, rows, [":name", {":friends": "..."}], 1)
    if fault == "none":
        check()
        return
    with pytest.raises((AssertionError, QueryError)):
        check()
