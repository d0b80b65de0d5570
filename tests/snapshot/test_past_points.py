"""Point queries on views of the past agree with a plain model, and put no attribute together."""

from __future__ import annotations

import random
from typing import Any

import pytest

import datahike_async as d
from datahike_async.database import Database, empty_db
from datahike_async.index.columns import Rows
from datahike_async.snapshot.views import PastView, View
from datahike_async.tx.apply import absorbed

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, dict[str, Any]] = {
    ":id": {":db/unique": ":db.unique/identity"},
    ":tag": {":db/cardinality": ":db.cardinality/many"},
    ":one": {},
}
IDS, ENTITIES = range(3), range(1, 5)
BY_ID = "[:find ?e ?t ?o :in $ ?i :where [?e :id ?i] [?e :tag ?t] [?e :one ?o]]"
BY_ENTITY = "[:find ?t :in $ ?e :where [?e :tag ?t]]"

# transaction, entity, attribute, value, whether it was asserted
Event = tuple[int, int, str, Any, bool]


async def story(seed: int) -> tuple[Database, list[Event], list[int]]:
    """Return a database, all that happened to it, and its transactions."""
    rng = random.Random(seed)
    db = empty_db(SCHEMA, keep_history=True, index_config={":branching-factor": 8})
    events: list[Event] = []
    holder: dict[int, int] = {}
    transactions = [db.max_tx]
    for _ in range(14):
        operations: list[list[Any]] = []
        for e in rng.sample(ENTITIES, 2):
            kind = rng.choice([":db/add", ":db/add", ":db/retract"])
            operations.append([kind, e, ":tag", rng.randint(0, 2)])
            operations.append([kind, e, ":one", rng.randint(0, 2)])
        value, to = rng.choice(IDS), rng.choice(ENTITIES)
        if to not in holder.values():
            if value in holder:
                operations.append([":db/retract", holder[value], ":id", value])
            operations.append([":db/add", to, ":id", value])
            holder[value] = to
        report = await d.with_(db, operations)
        db = report.db_after
        events += [
            (x.tx, x.e, f":{x.a.text}", x.v, x.added)
            for x in report.tx_data
            if f":{x.a.text}" in SCHEMA
        ]
        transactions.append(db.max_tx)
        if rng.random() < 0.3:
            db = Database(View(await absorbed(db.snapshot)))
    return db, events, transactions


def seen(events: list[Event], lo: int, hi: int, history: bool) -> set[tuple[int, str, Any]]:
    """Return the facts that a view from after ``lo`` until ``hi`` shows."""
    if history:
        return {(e, a, v) for t, e, a, v, _ in events if lo < t <= hi}
    live: dict[tuple[int, str, Any], int] = {}
    for t, e, a, v, added in events:
        if t > hi:
            break
        if added:
            live[e, a, v] = t
        else:
            del live[e, a, v]
    return {fact for fact, t in live.items() if t > lo}


@pytest.mark.parametrize("seed", range(6))
async def test_point_queries_see_what_a_window_shows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[int] = []

    def counted(self: PastView, a: int, attr: Any = PastView._attr) -> Rows:
        whole.append(a)
        return attr(self, a)  # type: ignore[no-any-return]

    monkeypatch.setattr(PastView, "_attr", counted)
    db, events, transactions = await story(seed)
    newest = transactions[-1]
    for until in [*transactions[::3], None]:
        for since in [None, *transactions[::4]]:
            for history in (False, True):
                view = db if until is None else db.as_of(until)
                view = view if since is None else view.since(since)
                view = view.history() if history else view
                lo, hi = -1 if since is None else since, newest if until is None else until
                facts = seen(events, lo, hi, history)
                of = {
                    e: {a: {v for x, b, v in facts if (x, b) == (e, a)} for a in SCHEMA}
                    for e in ENTITIES
                }
                for i in IDS:
                    rows = {
                        (e, t, o)
                        for e, has in of.items()
                        if i in has[":id"]
                        for t in has[":tag"]
                        for o in has[":one"]
                    }
                    assert set(await d.q(BY_ID, view, i)) == rows
                for e in ENTITIES:
                    assert set(await d.q(BY_ENTITY, view, e)) == {(t,) for t in of[e][":tag"]}
    assert not whole


async def test_a_view_of_the_past_is_counted_without_putting_an_attribute_together() -> None:
    db, _, transactions = await story(1)
    a = db.snapshot.schema.by_key[":tag"].id
    for view in (db.as_of(transactions[5]), db.history(), db.since(transactions[5])):
        past = view.view
        bound = past.count_attr(a)
        assert isinstance(past, PastView)
        assert past.cached(a) is None
        assert bound >= len(past.attr(a)) == past.count_attr(a)
