"""Large transactions in columns do what the same items do one by one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.errors import TransactionError
from datahike_async.index.persistent_set.merge import Merge
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.snapshot.draft import Draft
from datahike_async.tx import apply, bulk, collect
from datahike_async.values.types import typed_key

ONE = ":db.cardinality/one"


def attribute(name: str, kind: str, **properties: Any) -> dict[str, Any]:
    made = {":db/ident": name, ":db/valueType": f":db.type/{kind}", ":db/cardinality": ONE}
    return {**made, **{f":db/{key}": value for key, value in properties.items()}}


SCHEMA = [
    attribute(":id", "long", unique=":db.unique/identity"),
    attribute(":key", "string", unique=":db.unique/identity"),
    attribute(":mail", "string", unique=":db.unique/value"),
    attribute(":n", "long", index=True),
    attribute(":x", "double"),
    attribute(":name", "string", maxLength=5),
    attribute(":any", "number"),
    attribute(":gone", "string", noHistory=True),
    attribute(":tags", "keyword", cardinality=":db.cardinality/many"),
    attribute(":best", "ref"),
    attribute(":friends", "ref", cardinality=":db.cardinality/many"),
    attribute(":part", "ref", isComponent=True),
    attribute(":pair", "tuple", tupleTypes=[":db.type/long", ":db.type/string"]),
    attribute(":a", "long"),
    attribute(":b", "long"),
    attribute(":a+b", "tuple", tupleAttrs=[":a", ":b"], unique=":db.unique/identity"),
]
BEFORE = [
    {
        ":id": i,
        ":key": f"k{i}",
        ":mail": f"m{i}",
        ":n": i % 3,
        ":name": f"n{i}",
        ":gone": "g",
        ":tags": [":t/a", ":t/b"],
    }
    for i in range(8)
]
ids = st.integers(0, 14)
lookups = st.one_of(
    st.builds(lambda i: [":id", i], ids), st.builds(lambda i: [":key", f"k{i}"], ids)
)
known = st.integers(0, 7).map(lambda i: [":id", i])
VALUES: dict[str, Any] = {
    ":id": ids,
    ":key": ids.map("k{}".format),
    ":mail": ids.map("m{}".format),
    ":n": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    ":x": st.floats() | st.sampled_from([0.0, -0.0]),
    ":name": st.text("aé", max_size=5),
    ":any": st.sampled_from([1, 1.0, 2**70, 2.5]),
    ":gone": st.sampled_from(["g", "h"]),
    ":tags": st.lists(st.sampled_from([":t/a", ":t/b", ":t/c"]), max_size=3),
    ":best": known,
    ":friends": st.lists(known, max_size=2),
    ":part": lookups | ids.map(lambda i: i + 17),
    ":pair": st.tuples(ids, st.text(max_size=2)),
    ":a": ids,
    ":b": ids,
}


def named(style: str, i: int) -> dict[str, Any]:
    """What says which entity the map of a row is about."""
    return {
        "new": {},
        "fresh": {":id": 100 + i},
        "upsert": {":id": i},
        "key": {":key": f"k{i}", ":mail": f"m{i}"},
        "both": {":id": i, ":key": f"k{i}"},
        "tempid": {":db/id": -1 - i, ":id": i},
        "id": {":db/id": 17 + i},
        "lookup": {":db/id": [":key", f"k{i}"]},
    }[style]


STYLES = ("new", "fresh", "upsert", "key", "both", "tempid", "id", "lookup")
PLAIN = (":n", ":x", ":name", ":gone", ":tags", ":best", ":friends", ":part", ":pair", ":any")


@st.composite
def transactions(draw: Any) -> list[dict[str, Any]]:
    """Maps of one or two shapes, most of which need no more than a look."""
    items = []
    usual = draw(st.integers(0, 4))
    for _ in range(draw(st.integers(1, 2))):
        style = draw(st.sampled_from(STYLES))
        most = st.sampled_from(PLAIN) if usual else st.sampled_from([*VALUES])
        keys = draw(st.lists(most, min_size=style in ("new", "id", "lookup"), max_size=3))
        rows = draw(st.lists(st.integers(0, 7 if usual else 14), max_size=5, unique=usual > 0))
        items += [{**named(style, i), **{key: draw(VALUES[key]) for key in keys}} for i in rows]
    return items


def listed(datoms: Any) -> list[Any]:
    return [
        (x.e, x.a, typed_key(x.v), x.tx, x.added) for x in datoms if x.a != d.kw("db/txInstant")
    ]


async def outcome(db: Any, items: Any) -> Any:
    try:
        report = await db.with_(items)
    except TransactionError as error:
        return str(error), error.data
    after = report.db_after
    views = [after, after.history()] if after.snapshot.keep_history else [after]
    return (
        listed(report.tx_data),
        report.tempids,
        after.max_eid,
        [listed(await db.datoms(index)) for db in views for index in ("eavt", "aevt", "avet")],
    )


async def made(keep_history: bool, absorbed: bool) -> Any:
    db = await d.empty_db(keep_history=keep_history, schema_flexibility="write").db_with(SCHEMA)
    db = await db.db_with(BEFORE)
    return db._wrap(await apply.absorbed(db.snapshot)) if absorbed else db


@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize("keep_history", [True, False])
def test_columns_do_what_items_do_one_by_one(
    keep_history: bool, absorbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = anyio.run(made, keep_history, absorbed)
    seen: list[bool] = []
    carry_out = bulk.carry_out

    def noted(*args: Any, **options: Any) -> Any:
        found = carry_out(*args, **options)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(apply, "carry_out", noted)
    monkeypatch.setattr(apply, "_MANY", 10**9)
    monkeypatch.setattr(collect, "_ALIKE", 0)
    monkeypatch.setattr(bulk, "_SPREAD", 10**9)

    @settings(max_examples=150, deadline=None)
    @given(items=transactions())
    def check(items: Any) -> None:
        monkeypatch.setattr(apply, "LEAST", 10**9)
        one_by_one = anyio.run(outcome, db, items)
        monkeypatch.setattr(apply, "LEAST", 1)
        assert anyio.run(outcome, db, items) == one_by_one

    check()
    assert sum(seen) > len(seen) / 4
    assert len(seen) > 20


@pytest.mark.anyio
async def test_what_lies_in_the_memtable_is_found_and_goes_along(monkeypatch: Any) -> None:
    async with d.connect({"store": {"backend": "memory"}}, create=True) as conn:
        await conn.transact([*SCHEMA, *BEFORE[:4]])
        assert conn.db().snapshot.n
        items = [{":id": i, ":n": 7, ":db/id": -1 - i} for i in range(bulk.LEAST)]
        report = await conn.transact(items, idempotency_key="once")
        assert not conn.db().snapshot.n
        assert len(await conn.db().datoms("avet", ":id")) == bulk.LEAST
        assert await conn.db().q("[:find (count ?e) . :where [?e :n 7] [?e :key]]") == 4
        again = await conn.transact(items, idempotency_key="once")
        assert again.repeated
        assert again.tempids == report.tempids
        assert len(again.tempids) == bulk.LEAST


@pytest.mark.anyio
async def test_values_that_lie_all_over_an_index_wait_for_a_flush(monkeypatch: Any) -> None:
    """What one transaction adds would rewrite all of it; the memtable is not merged for that."""
    db = await d.empty_db(keep_history=True, schema_flexibility="write").db_with(SCHEMA)
    db = await db.db_with([{":id": 1000 * i} for i in range(40_000)])
    near = await db.db_with([{":id": -1 - i} for i in range(2_000)])
    assert near.snapshot.n > 2_000
    monkeypatch.setattr(Draft, "ready", None)
    apart = [{":id": 20_000 * i + 1} for i in range(2_000)]
    assert (await near.db_with(apart)).snapshot.n > 4_000
    monkeypatch.undo()
    after = await near.db_with([{":id": 10**9 + i} for i in range(2_000)])
    assert not after.snapshot.n


@pytest.mark.anyio
async def test_a_large_transaction_takes_as_many_looks_in_a_large_database(
    monkeypatch: Any,
) -> None:
    """As many passes over indexes, and no more leaves, whatever there is already."""
    asked: list[int] = []
    look = PersistentSet.lookup_many

    def noted(self: Any, bounds: Any) -> Any:
        asked.append(len(bounds[0]))
        return look(self, bounds)

    monkeypatch.setattr(PersistentSet, "lookup_many", noted)
    leaves: list[int] = []
    cut = Merge.cut
    monkeypatch.setattr(
        Merge, "cut", lambda self, rows: leaves.append(len(rows)) or cut(self, rows)
    )
    # With runs it depends on what is in them.
    config = {"runs": False}
    empty = d.empty_db(keep_history=True, schema_flexibility="write", index_config=config)
    db = await empty.db_with(SCHEMA)
    seen = []
    for k in range(6):
        asked.clear(), leaves.clear()
        first = 4_000 * k
        items = [
            {":id": i, ":n": i, ":x": 0.5, ":name": f"{i}", ":best": [":id", max(i - 4_000, first)]}
            for i in range(first, first + 4_000)
        ]
        db = await db.db_with(items[:1])
        db = await db.db_with(items[1:])
        seen.append((len(asked), sum(asked), sum(leaves)))
    # The first has nothing to look into yet, and no leaf that is not full.
    assert len({calls for calls, _, _ in seen[1:]}) == 1
    assert max(rows for _, _, rows in seen[1:]) < 1.2 * min(rows for _, _, rows in seen[1:])
