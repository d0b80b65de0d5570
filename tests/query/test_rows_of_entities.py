"""What an attribute has of known entities is what it has of each, however it lies in memory."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datahike_async.database import Database, empty_db
from datahike_async.index.columns import Column, Rows
from datahike_async.index.source import NodeMiss, read, resolve
from datahike_async.query.reading.known import all_of_entities, rows_of_entities
from datahike_async.snapshot import trees as module
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.snapshot.views import View
from datahike_async.tx.apply import absorbed
from datahike_async.values.types import typed_key
from tests.disk import Disk

pytestmark = pytest.mark.anyio

MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, Any] = {
    ":friend": {**MANY, ":db/index": True, ":db/valueType": ":db.type/ref"},
    ":word": {**MANY, ":db/index": True, ":db/valueType": ":db.type/string"},
    ":any": {**MANY, ":db/index": True},
    ":one": {},
}
PEOPLE = 60
EMPTY = empty_db(SCHEMA, keep_history=True, index_config={":branching-factor": 8})


def value(rng: random.Random, name: str) -> Any:
    number = rng.randrange(1, PEOPLE)
    if name == ":any":
        return rng.choice([number, f"w{number}", number / 2, number % 2 == 0])
    return f"w{number}" if name == ":word" else number


async def history(rng: random.Random) -> Database:
    """Return a database with a past, of which some is merged and some is in the memtable."""
    db, merged = EMPTY, rng.randrange(5)
    known: list[tuple[int, str, Any]] = []
    for i in range(5):
        if i == merged:
            db = Database(View(await absorbed(db.snapshot)))
        gone = rng.sample(known, min(len(known), 12))
        names = [rng.choice(list(SCHEMA)) for _ in range(40)]
        facts = [(rng.randrange(1, PEOPLE), a, value(rng, a)) for a in names]
        known += facts
        ops = [[":db/retract", *fact] for fact in gone] + [[":db/add", *fact] for fact in facts]
        db = await db.db_with(ops)
    return db


def stored(db: Database, seed: int) -> Snapshot:
    """Return the state with trees of which no node is resident."""
    snapshot, trees = db.snapshot, db.snapshot.trees
    disk = Disk(seed, trees.factory.decode)
    _, record = trees.flush(disk)
    again = Trees.restore(trees.factory, trees.config, record, disk)
    s = snapshot
    return Snapshot(s.schema, again, s.mem, s.n, s.m, s.max_eid, s.max_tx)


def facts(rows: Rows) -> list[tuple[Any, ...]]:
    added = [True] * len(rows) if rows.added is None else rows.added.tolist()
    columns = (rows.e.tolist(), rows.a.tolist(), map(repr, rows.v.tolist()), rows.t.tolist(), added)
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_many_entities_have_what_each_of_them_has(
    seed: int, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 10**9 if at_hand else 0)
    rng = random.Random(seed)
    db = await history(rng)
    middle = db.snapshot.max_tx - 2
    for state in (db.snapshot, stored(db, seed)):
        now = View(state)
        for view in (now, now.as_of(middle), now.since(middle), now.with_history()):
            for name in SCHEMA:
                a = state.schema.by_key[name].id
                some = np.unique([rng.randrange(-2, PEOPLE + 9) for _ in range(rng.randrange(30))])
                found = await rows_of_entities(view, a, some.astype(np.int64))
                whole = await read(view.attr, a)
                assert facts(found) == facts(whole.take(np.isin(whole.e, some)))


@pytest.mark.parametrize("seed", range(4))
async def test_many_entities_and_values_are_looked_up_together(seed: int) -> None:
    rng = random.Random(seed)
    db = await history(rng)
    for state in (db.snapshot, stored(db, seed)):
        now = View(state)
        for view in (now, now.as_of(db.snapshot.max_tx - 2), now.with_history()):
            some = np.unique([rng.randrange(-2, PEOPLE + 9) for _ in range(rng.randrange(30))])
            found = await all_of_entities(view, some.astype(np.int64))
            each = [await read(view.entity, e) for e in some.tolist() if e >= 0]
            assert facts(found) == [fact for rows in each for fact in facts(rows)]
        for name in (":any", ":friend", ":word"):
            a = state.schema.by_key[name].id
            values = {typed_key(v): v for v in (value(rng, name) for _ in range(40))}
            rows = await read(state.of_values, a, Column.of(list(values.values())))
            each = [await read(now.attr_range, a, v, v) for v in values.values()]
            assert sorted(facts(rows)) == sorted(fact for part in each for fact in facts(part))


async def test_of_few_bounds_in_a_leaf_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    db = await EMPTY.db_with(
        [[":db/add", e, a, e] for e in range(1, 1001) for a in (":one", ":friend")]
        + [[":db/add", e, ":word", f"w{e}"] for e in range(1, 1001)]
    )
    snapshot = await absorbed(db.snapshot)
    copied: list[int] = []
    concat = Rows.concat

    def noted(runs: Any) -> Rows:
        copied.append(sum(map(len, runs)) if len(runs) > 1 else 0)
        return concat(runs)

    monkeypatch.setattr(module, "_LOOK", 0)
    monkeypatch.setattr(Rows, "concat", staticmethod(noted))
    some = np.arange(20, 1000, 90)
    assert len(snapshot.of_entities(snapshot.schema.by_key[":one"].id, some)) == len(some)
    assert max(copied) <= len(some)


async def test_an_attribute_is_put_together_once_looking_up_has_cost_as_much() -> None:
    friends = [[":db/add", e, ":friend", f] for e in range(1, 1001) for f in range(1, 9)]
    snapshot = await absorbed((await EMPTY.db_with(friends)).snapshot)
    friend, one = (snapshot.schema.by_key[name].id for name in (":friend", ":one"))
    trees = snapshot.trees
    some = np.arange(20, 30)

    # Of 8,000 datoms, 32 looks into the trees.
    assert [len(trees.of_entities(friend, some)) for _ in range(3)] == [80] * 3
    assert trees.cached(friend) is None

    # What was looked up so far counts on where the attribute has not changed, and nowhere else.
    other = (await Database(View(snapshot)).db_with([[":db/add", 1, ":one", 1]])).snapshot
    same = (await absorbed(other)).trees
    changed = (await Database(View(snapshot)).db_with([[":db/add", 1, ":friend", 9]])).snapshot
    anew = (await absorbed(changed)).trees
    for made in (same, anew):
        assert len(made.of_entities(friend, some)) == 80
    assert same.cached(friend) is not None
    assert anew.cached(friend) is None
    assert same.cached(one) is None


async def test_nothing_is_fetched_for_putting_an_attribute_together() -> None:
    db = await EMPTY.db_with(
        [[":db/add", e, ":friend", f] for e in range(1, 801) for f in range(1, 9)]
    )
    state = stored(Database(View(await absorbed(db.snapshot))), 1)
    friend = state.schema.by_key[":friend"].id
    disk = state.trees.current[module.Order.EAVT].base._source
    with disk.pinned():
        some = np.arange(500, 600)
        try:
            state.of_entities(friend, some)
        except NodeMiss as miss:
            await resolve(miss, state.of_entities, friend, some)
        waves = disk.waves
        for _ in range(20):
            assert len(state.of_entities(friend, some)) == 800
        assert disk.waves == waves
        assert state.trees.cached(friend) is None


async def test_columns_that_would_not_be_kept_are_not_put_together() -> None:
    db = await EMPTY.db_with([[":db/add", e, ":one", e] for e in range(1, 2001)])
    trees = (await absorbed(db.snapshot)).trees
    one = db.snapshot.schema.by_key[":one"].id
    trees.memory = replace(trees.memory, columns=100_000)
    for _ in range(50):
        assert len(trees.of_entities(one, np.arange(5, 25))) == 20
    assert trees.cached(one) is None
