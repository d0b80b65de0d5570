"""History keeps every interval of a datom, however often it was merged into trees meanwhile."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from datahike_async.database import Database, empty_db
from datahike_async.edn import Keyword
from datahike_async.index.protocol import Order
from datahike_async.snapshot.views import View
from datahike_async.tx.apply import absorbed

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, dict[str, Any]] = {
    ":many": {":db/index": True, ":db/cardinality": ":db.cardinality/many"},
    ":one": {},
}
FIRST = 0x20000001
ORDERS = (":eavt", ":aevt", ":avet")


async def history(transactions: list[list[Any]], merged: set[int]) -> list[list[Any]]:
    """Return all datoms in each order, and all intervals that have ended.

    Before the transactions in ``merged`` trees take all.
    """
    db = empty_db(SCHEMA, keep_history=True, index_config={":branching-factor": 8})
    for i, operations in enumerate([*transactions, []]):
        if i in merged:
            db = Database(View(await absorbed(db.snapshot)))
        if operations:
            db = await db.db_with(operations)
    datoms = [
        sorted(
            (d.e, d.a.text, repr(d.v), d.tx, d.added) for d in datoms if d.a.text in SCHEMA_NAMES
        )
        for datoms in [await db.history().datoms(order) for order in ORDERS]
    ]
    ended: list[Any] = []
    for rows in db.snapshot.intervals(Order.EAVT):
        columns = (rows.e, rows.a, map(repr, rows.v.tolist()), rows.t, rows.until)
        ended += map(tuple, zip(*columns, strict=True))
    return [*datoms, sorted(ended)]


SCHEMA_NAMES = {name[1:] for name in SCHEMA}
ADD, RETRACT = [":db/add", 1, ":many", 5, FIRST], [":db/retract", 1, ":many", 5]


@pytest.mark.parametrize("merged", [{1}, {2}, {3}, {4}, {1, 3}, {2, 4}, {1, 2, 3, 4}])
@pytest.mark.parametrize(
    "transactions",
    [
        [[ADD], [RETRACT], [ADD], [RETRACT]],
        [[ADD], [RETRACT, ADD], [RETRACT]],
        [[ADD], [RETRACT], [ADD, RETRACT]],
        [[ADD, RETRACT], [ADD, RETRACT], [ADD, RETRACT], [ADD]],
    ],
)
async def test_a_datom_that_came_with_one_transaction_id_keeps_all_its_intervals(
    transactions: list[list[Any]], merged: set[int]
) -> None:
    *orders, ended = await history(transactions, merged)
    assert len(ended) == sum(operations.count(RETRACT) for operations in transactions)
    for datoms in orders:
        # Every time it was asserted by the same transaction: that is one datom.
        assert sum(added for *_, added in datoms) == 1
        assert len(datoms) == 1 + sum(RETRACT in operations for operations in transactions)


@pytest.mark.parametrize("merged", [set(), {1}, {2}, {3}, {1, 2, 3}])
@pytest.mark.parametrize("attribute", [":many", ":one"])
async def test_no_datom_comes_twice_where_intervals_meet(attribute: str, merged: set[int]) -> None:
    """A transaction may end a fact, and begin and end it again, and the next one ends it."""
    add, retract = ([f":db/{kind}", 1, attribute, 5] for kind in ("add", "retract"))
    transactions = [[add], [retract, add, retract, add], [retract, add, retract]]
    *orders, ended = await history(transactions, merged)
    assert len(ended) == 4
    t = FIRST
    said = [(t, True), (t + 1, False), (t + 1, True), (t + 2, False), (t + 2, True)]
    expected = sorted((1, attribute[1:], "5", *one) for one in said)
    # :one is not indexed.
    assert orders == [expected, expected, expected if attribute == ":many" else []]


@pytest.mark.parametrize("merged", [set(), {1, 2, 3, 4}])
@pytest.mark.parametrize("value", [5, 5.5, "five"])
async def test_as_of_shows_a_fact_once_where_its_intervals_overlap(
    value: Any, merged: set[int]
) -> None:
    """They do where it was asserted again as of a transaction that was over."""
    db = empty_db(SCHEMA, keep_history=True)
    asserted = [":db/add", 1, ":many", value]
    data = [[asserted], [], [[":db/retract", *asserted[1:]]], [[*asserted, FIRST]]]
    data += [data[2], [[*asserted, FIRST + 1]], data[2]]
    for i, operations in enumerate(data):
        if i in merged:
            db = Database(View(await absorbed(db.snapshot)))
        db = await db.db_with(operations)
    for t, seen in [(FIRST, FIRST), (FIRST + 1, FIRST + 1), (FIRST + 2, FIRST + 1)]:
        then = db.as_of(t)
        for index in (":aevt", ":avet"):
            assert [x.tx for x in await then.datoms(index, ":many")] == [seen]
        assert [x.tx for x in await then.datoms(":eavt", 1)] == [seen]
        assert list(await then.q("[:find ?e ?v :where [?e :many ?v]]")) == [(1, value)]
        assert (await then.pull("[:many]", 1))[":many"] == [value]
    once = await db.as_of(FIRST).history().datoms(":aevt", ":many")
    assert [(x.tx, x.added) for x in once] == [(FIRST, True)]


async def test_no_way_of_reading_history_has_a_datom_twice() -> None:
    """A column is made of the one before the transaction, and of what that said."""
    db = empty_db(SCHEMA, keep_history=True)
    for data in [[ADD[:4]], [RETRACT, ADD[:4], RETRACT]]:
        db = await db.db_with(data)
        a = db.snapshot.schema.by_key[Keyword("many")].id
        view = db.history().view
        rows = [view.attr(a), view.of_entities(a, np.array([1])), view.entity(1)]
    assert list(map(len, rows)) == [3, 3, 3]


@pytest.mark.parametrize("seed", range(12))
async def test_history_does_not_depend_on_when_it_was_merged(seed: int) -> None:
    rng = random.Random(seed)
    transactions = []
    for i in range(rng.randint(10, 40)):
        operations = []
        for _ in range(rng.randint(1, 8)):
            fact = [rng.randint(1, 2), rng.choice([":many", ":one"]), rng.choice([1, True, "x"])]
            explicit = [FIRST + rng.randint(0, min(i, 1))] if rng.random() < 0.8 else []
            kind = [":db/add", *fact, *explicit] if rng.random() < 0.55 else [":db/retract", *fact]
            operations.append(kind)
        transactions.append(operations)
    merged = {i for i in range(len(transactions) + 1) if rng.random() < 0.3}
    assert await history(transactions, merged) == await history(transactions, set())


@pytest.mark.parametrize("merged", [set(), {1}, {2}, {1, 2}])
@pytest.mark.parametrize("t", [[], [FIRST]], ids=["now", "early"])
async def test_what_one_transaction_says_several_times_has_one_interval(
    merged: set[int], t: list[int]
) -> None:
    again = [[":db/add", 1, ":many", 5, *t], RETRACT]
    once, often = [[ADD], [RETRACT, *again], again], [[ADD], [RETRACT, *again * 3], again * 3]
    assert await history(often, merged) == await history(once, merged)
