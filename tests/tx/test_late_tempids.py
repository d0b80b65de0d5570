"""Tempids that are used before they are said to be known entities: found together, in few runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.tx.apply import Transaction
from datahike_async.tx.entities import Bindings

pytestmark = pytest.mark.anyio


def attribute(name: str, type_: str, **more: str) -> dict[str, Any]:
    props = {":db/ident": name, ":db/valueType": f":db.type/{type_}"}
    props |= {":db/cardinality": ":db.cardinality/one"}
    return props | {f":db/{key}": value for key, value in more.items()}


IDENTITY = ":db.unique/identity"
SCHEMA = [
    attribute(":email", "string", unique=IDENTITY),
    attribute(":id", "long", unique=IDENTITY),
    attribute(":name", "string"),
    attribute(":ssn", "string", unique=":db.unique/value"),
    attribute(":of", "ref", unique=IDENTITY),
]


@pytest.fixture
async def db():
    return await d.empty_db(schema_flexibility="write").db_with(SCHEMA)


@pytest.fixture
def work(monkeypatch):
    """Count the runs of transactions, and the items that they carry out."""
    counts = {"runs": 0, "items": 0}
    begin, item = Transaction.begin, Transaction.item

    def begun(self, *args):
        counts["runs"] += 1
        return begin(self, *args)

    def carried(self, one):
        counts["items"] += 1
        return item(self, one)

    monkeypatch.setattr(Transaction, "begin", begun)
    monkeypatch.setattr(Transaction, "item", carried)
    return counts


async def test_many_late_tempids_take_two_runs(db, work):
    n = 400
    db = await db.db_with([{":email": f"e{i}"} for i in range(n)])
    work.update(runs=0, items=0)
    report = await db.with_(
        [[":db/add", f"t{i}", ":name", f"n{i}"] for i in range(n)]
        + [{":db/id": f"t{i}", ":email": f"e{i}"} for i in range(n)]
    )
    assert work == {"runs": 2, "items": 4 * n}
    for i in range(n):
        assert report.tempids[f"t{i}"] == await db.entid([":email", f"e{i}"])
    assert len(await report.db_after.datoms("aevt", ":name")) == n
    assert await report.db_after.count() == await db.count() + n


async def test_late_tempids_that_are_found_through_one_another_take_two_runs(db, work):
    n = 100
    db = await db.db_with(
        [{":db/id": "r", ":email": "root"}]
        + [{":db/id": f"t{i}", ":of": f"t{i - 1}" if i else "r"} for i in range(n)]
    )
    work.update(runs=0, items=0)
    report = await db.with_(
        [[":db/add", f"t{i}", ":name", f"n{i}"] for i in range(n)]
        + [[":db/add", f"t{i}", ":of", f"t{i - 1}" if i else "r"] for i in reversed(range(n))]
        + [{":db/id": "r", ":email": "root"}]
    )
    assert work["runs"] == 2
    known = await db.entid([":email", "root"])
    for i in range(n):
        (known,) = [x.e for x in await db.datoms("avet", ":of", known)]
        assert report.tempids[f"t{i}"] == known


async def test_errors_of_a_state_that_is_not_to_be_are_none(db, work):
    # On its way the first run sees each :ssn on a fresh entity and on the known one.
    db = await db.db_with([{":email": f"e{i}"} for i in range(30)])
    forms = []
    for i in range(30):
        ssn = [":db/add", f"t{i}", ":ssn", f"s{i}"]
        forms += [ssn, [":db/add", f"t{i}", ":email", f"e{i}"], ssn]
    work.update(runs=0)
    report = await db.with_(forms)
    assert work["runs"] == 2
    assert len(await report.db_after.datoms("aevt", ":ssn")) == 30


async def test_errors_beside_late_tempids_are_raised(db):
    db = await db.db_with([{":email": f"e{i}"} for i in range(3)])
    late = [[":db/add", "t0", ":name", "n"], {":db/id": "t0", ":email": "e0"}]
    before = list(await db.datoms("eavt"))
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([*late, [":db/add", 1, ":nope", 1], *late])
    assert caught.value.error == ":transact/schema"
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([*late, [":db/add", "t0", ":email", "e1"]])
    assert caught.value.error == ":transact/upsert"
    assert list(await db.datoms("eavt")) == before


async def test_a_guess_that_does_not_come_true_is_dropped(db, work):
    """Once t0 is known to be the first entity, "old" is free, and t1 is a new entity."""
    db = await db.db_with([{":id": 1, ":email": "old"}])
    work.update(runs=0)
    report = await db.with_(
        [
            [":db/add", "t0", ":email", "new"],
            [":db/add", "t1", ":name", "one"],
            [":db/add", "t0", ":id", 1],
            [":db/add", "t1", ":email", "old"],
        ]
    )
    assert work["runs"] == 3
    first, after = await db.entid([":id", 1]), report.db_after
    assert report.tempids["t0"] == first != report.tempids["t1"]
    assert await after.pull("[:email]", first) == {":email": "new"}
    assert await after.pull("[:email :name]", report.tempids["t1"]) == {
        ":email": "old",
        ":name": "one",
    }


async def test_a_guess_is_not_confirmed_by_what_it_says_itself(db):
    """Were t1 the first entity, it would have taken "new" before it is asked who has it."""
    db = await db.db_with([{":id": 1, ":email": "old"}])
    report = await db.with_(
        [
            [":db/add", "t1", ":name", "one"],
            [":db/add", "t2", ":email", "new"],
            [":db/add", "t2", ":email", "old"],
            [":db/add", "t1", ":email", "new"],
            [":db/add", "t1", ":email", "new"],
        ]
    )
    first, after = await db.entid([":id", 1]), report.db_after
    assert report.tempids["t2"] == first != report.tempids["t1"]
    assert await after.pull("[:email :name]", first) == {":email": "old"}
    assert await after.pull("[:email :name]", report.tempids["t1"]) == {
        ":email": "new",
        ":name": "one",
    }


refs = st.sampled_from(["t0", "t1", "t2", "t3"])
forms = st.one_of(
    st.tuples(refs, st.just(":name"), st.sampled_from(["x", "y"])),
    st.tuples(refs, st.just(":email"), st.sampled_from(["e0", "e1", "e2", "e3"])),
    st.tuples(refs, st.just(":id"), st.integers(0, 3)),
    st.tuples(refs, st.just(":ssn"), st.sampled_from(["s0", "s1"])),
    st.tuples(refs, st.just(":of"), refs),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tx=st.lists(forms, min_size=2, max_size=10))
async def test_finding_many_late_tempids_a_run_answers_as_finding_one(db, monkeypatch, tx):
    db = await db.db_with(
        [
            {":db/id": "a", ":id": 0, ":email": "e0", ":ssn": "s0"},
            {":db/id": "b", ":id": 1, ":email": "e1", ":of": "a"},
            {":id": 2, ":of": "b"},
        ]
    )
    items = [[":db/add", *form] for form in tx]

    async def outcome() -> Any:
        try:
            report = await db.with_(items)
        except d.TransactionError:
            return "refused"  # of several reasons the one or the other may be named
        datoms = await report.db_after.datoms("eavt")
        # Fresh ids may be others: what counts is who is who.
        fresh = {e: ref for ref, e in sorted(report.tempids.items()) if e > db.max_eid}
        name = lambda e: fresh.get(e, e)  # noqa: E731
        return (
            {ref: name(e) for ref, e in report.tempids.items()},
            {(name(x.e), x.a, name(x.v) if x.a is d.kw("of") else x.v) for x in datoms},
        )

    many = await outcome()
    with monkeypatch.context() as patch:
        patch.setattr(Bindings, "guessing", property(lambda self: False))
        one = await outcome()
    # One at a time gives up where later items would have settled whom a tempid means.
    assert many == one or one == "refused"
