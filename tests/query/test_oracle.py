"""The engine against the naive evaluator, on databases, queries and rules made at random.

A failure prints the smallest case and the seed; ``--hypothesis-seed=N`` runs it again.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from datahike_async.database import Database
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import QueryError
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from tests.query import generator, oracle
from tests.query.generator import Generated
from tests.query.states import PLANS, Grown, Plan, grown, states_of
from tests.query.ways import WAYS, forced

ANSWERS = "answers that were compared"

FEW = settings(
    max_examples=90,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MANY = settings(FEW, max_examples=1200)


VIEWS = (
    *("now", "as of", "as of the first", "as of the last but one", "since", "history", "earlier"),
    *("filtered", "filtered history"),
)


def seen(state: Grown, view: str) -> tuple[Database, list[oracle.Datom]]:
    """Return a view of a database, and its datoms."""
    db, log = state.db, state.log
    if view == "earlier":
        # A value that somebody holds while transactions, flushes and merges go on.
        db, log = state.earlier[len(state.earlier) // 2] if state.earlier else (db, log)
        return db, oracle.state(log)
    txs = sorted({datom[3] for datom in log})
    if view == "history":
        return db.history(), log
    if view == "now":
        return db, oracle.state(log)
    if view == "filtered":
        return odd(db), [x for x in oracle.state(log) if is_odd(None, x)]
    if view == "filtered history":
        middle = txs[len(txs) // 2]
        return (
            odd(db.history()).filter(columns=lambda db, datoms: datoms.tx >= middle),
            [x for x in log if is_odd(None, x) and x[3] >= middle],
        )
    at = {"as of the first": 0, "as of the last but one": max(0, len(txs) - 2)}
    tx = txs[at.get(view, len(txs) // 2)]
    if view == "since":
        return db.since(tx), oracle.state(log, since=tx)
    return db.as_of(tx), oracle.state(log, as_of=tx)


def is_odd(_: Any, datom: Any) -> bool:
    """Whether a filter keeps a datom: some of each attribute, and of each entity."""
    return (datom[0] + len(repr(datom[1]))) % 3 != 0


def odd(db: Database) -> Database:
    return db.filter(is_odd)


def as_text(query: Generated) -> str:
    with_ = [Keyword("with"), *query.with_] if query.with_ else []
    find: list[Any] = {
        "relation": query.find,
        "collection": [[*query.find, Symbol("...")]],
        "tuple": [query.find],
        "scalar": [*query.find, Symbol(".")],
    }[query.kind]
    form = [Keyword("find"), *find, *with_, Keyword("in"), *query.ins]
    form += [Keyword("where"), *query.where]
    if query.order:
        keys = [[query.find[i], Keyword("desc" if down else "asc")] for i, down in query.order]
        form += [Keyword("order-by"), [x for pair in keys for x in pair]]
        form += [Keyword("offset"), query.offset]
        if query.limit is not None:
            form += [Keyword("limit"), query.limit]
    return write(form)


def bag(rows: Any) -> Counter[Any]:
    return Counter(typed_key(tuple(row)) for row in rows)


REFUSED = {":search/pattern", ":lookup-ref/syntax", ":lookup-ref/unique", ":entity-id/syntax"}


async def compare(
    history: list[Any], queries: list[Generated], ways: list[tuple[str, str]], plan: Plan
) -> Counter[str]:
    """Compare answers, each of one view and found in one way.

    Returns how many were, and how often each state of merging was met.
    """
    async with grown(history, plan) as state:
        met = Counter(await states_of(state, plan.index))
        for query, (view, way) in zip(queries, ways, strict=True):
            met[ANSWERS] += await agrees(state, query, view, way)
        return met


async def agrees(state: Grown, query: Generated, view: str, way: str) -> bool:
    """Compare one answer; return whether there was one."""
    given_db, datoms = seen(state, view)
    text = as_text(query)
    note(f"query: {text}")
    note(f"rules: {write(query.rules)}")
    note(f"datoms: {datoms}")
    extra = iter(query.inputs)
    given_inputs: list[Any] = []
    oracle_ins, oracle_inputs = [], []
    for form in query.ins:
        if form is Symbol("$"):
            given_inputs.append(given_db)
            oracle_ins.append(form)
            oracle_inputs.append(datoms)
        elif form is Symbol("%"):
            given_inputs.append(query.rules)
        else:
            value = next(extra)
            given_inputs.append(value)
            oracle_ins.append(form)
            oracle_inputs.append(value)
    missing = False
    try:
        expected = oracle.evaluate(
            query.find,
            query.where,
            ins=oracle_ins,
            inputs=oracle_inputs,
            with_=query.with_,
            rules=query.rules,
        )
    except oracle.MissingError:
        missing = True
    try:
        with forced(way):
            found = await given_db.q(text, *given_inputs[1:])
    except QueryError as error:
        # An input that can stand for no entity or attribute is refused, not looked for.
        refused = bool(query.inputs) and error.error in REFUSED
        if error.error == ":entity-id/missing":
            # Also where the naive evaluator did not come to look for it.
            refused = oracle.resolve(datoms, error.data[":entity-id"]) is None
        if not refused:
            raise
        return missing
    assert not missing
    if query.order:
        # Rows are ordered by all that they have, so there is one order.
        for i, descending in reversed(query.order):
            expected.sort(key=lambda row, i=i: sort_key(row[i]), reverse=descending)
        stop = None if query.limit is None else query.offset + query.limit
        expected = expected[query.offset : stop]
        assert [typed_key(row) for row in found] == [typed_key(row) for row in expected]
    if query.kind == "collection":
        found = [(value,) for value in found]
    if query.kind in ("relation", "collection"):
        assert len(found) == len(expected) == len(list(found))
        assert bag(found) == bag(expected)
    elif not expected:
        assert found is None
    else:
        # Which of the rows comes is open.
        row = found if query.kind == "tuple" else (found,)
        assert bag([row]) <= bag(expected)
    return True


ASKED = 4
"""Queries for each database: making it takes longer than asking one."""

CASES = (
    generator.cases(ASKED),
    st.lists(
        st.tuples(
            st.sampled_from([*VIEWS, "now", "as of", "history"]),
            st.sampled_from([*WAYS, "ranges of AVET"]),
        ),
        min_size=ASKED,
        max_size=ASKED,
    ),
    PLANS,
)

Case = tuple[list[Any], list[Generated]]
Ways = list[tuple[str, str]]


def run(backend: str, *case: Any) -> Counter[str]:
    return anyio.run(partial(compare, *case), backend=backend)


@FEW
@given(*CASES)
def test_engine_agrees_with_the_oracle_on_asyncio(case: Case, ways: Ways, plan: Plan) -> None:
    run("asyncio", *case, ways, plan)


@settings(FEW, max_examples=30)
@given(*CASES)
def test_engine_agrees_with_the_oracle_on_trio(case: Case, ways: Ways, plan: Plan) -> None:
    run("trio", *case, ways, plan)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(*CASES)
def test_engine_agrees_with_the_oracle_at_length(case: Case, ways: Ways, plan: Plan) -> None:
    run("asyncio", *case, ways, plan)
