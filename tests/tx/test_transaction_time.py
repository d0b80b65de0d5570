"""When a transaction happened, when what it says is valid, and what of it is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import datahike_async as d
from datahike_async.env import Env
from datahike_async.tx.facts import MOST_AHEAD

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :why :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :email :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}]
"""
EARLY, MID, LATE = (datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3))
INSTANT, TX = ":db/txInstant", "datomic.tx"


@pytest.fixture
async def db():
    env = Env.seeded(1)
    return await d.empty_db(keep_history=True, schema_flexibility="write", env=env).db_with(SCHEMA)


# -- instants ------------------------------------------------------------------------------------

WAYS = {
    "meta": lambda at: ([{":n": 1}], {INSTANT: at}),
    "map": lambda at: ([{":n": 1}, {":db/id": TX, INSTANT: at}], None),
    "add": lambda at: ([{":n": 1}, [":db/add", ":db/current-tx", INSTANT, at]], None),
    "call": lambda at: (
        [{":n": 1}, [":db.fn/call", lambda _: [[":db/add", TX, INSTANT, at]]]],
        None,
    ),
    "twice the same": lambda at: ([{":n": 1}, {":db/id": TX, INSTANT: at}], {INSTANT: at}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_an_instant_of_ones_own_replaces_the_clocks_in_the_history_too(db, way):
    forms, meta = WAYS[way](MID)
    report = await db.with_(forms, meta)
    assert report.instant == MID
    own = [(x.v, x.added) for x in report.tx_data if x.e == report.tx]
    assert own == [(MID, True)]
    past = await report.db_after.history().datoms("eavt", report.tx, INSTANT)
    assert [(x.v, x.added) for x in past] == [(MID, True)]
    assert await report.db_after.q("[:find ?n . :where [_ :n ?n]]") == 1


async def test_an_instant_of_ones_own_is_kept_in_a_large_load(db):
    report = await db.with_([{":n": i} for i in range(2000)], {INSTANT: MID})
    assert [x.v for x in await report.db_after.datoms("eavt", report.tx, INSTANT)] == [MID]


async def test_an_instant_of_ones_own_is_kept_beside_late_tempids(db):
    db = await db.db_with([{":email": "a"}])
    report = await db.with_(
        [
            [":db/add", "t", ":n", 1],
            {":db/id": TX, INSTANT: MID},
            [":db/add", "t", ":email", "a"],
        ]
    )
    assert report.instant == MID
    assert report.tempids["t"] == await db.entid([":email", "a"])


@pytest.mark.parametrize("way", WAYS)
async def test_an_instant_in_the_future_is_refused_beyond_a_small_skew(db, way):
    now = (await db.with_([{":n": 0}])).instant
    allowed, refused = now + MOST_AHEAD - timedelta(seconds=1), now + 2 * MOST_AHEAD
    assert (await db.with_(*WAYS[way](allowed))).instant == allowed
    with pytest.raises(d.TransactionError) as caught:
        await db.with_(*WAYS[way](refused))
    assert caught.value.error == ":transact/future-instant"
    assert "60 seconds" in str(caught.value)


async def test_an_instant_before_the_last_one_is_taken_and_the_clock_goes_on(db):
    old = await db.with_([{":n": 1}], {INSTANT: EARLY})
    older = await old.db_after.with_([{":n": 2}], {INSTANT: EARLY - timedelta(days=1)})
    assert older.instant < old.instant
    assert (await older.db_after.with_([{":n": 3}])).instant > MID


async def test_two_instants_of_ones_own_are_refused(db):
    for forms, meta in (
        ([{":db/id": TX, INSTANT: EARLY}, {":db/id": TX, INSTANT: MID}], None),
        ([{":db/id": TX, INSTANT: EARLY}], {INSTANT: MID}),
    ):
        with pytest.raises(d.TransactionError) as caught:
            await db.with_(forms, meta)
        assert caught.value.error == ":transact/syntax"
        assert "two instants" in str(caught.value)


async def test_instants_of_ones_own_are_there_again_after_opening(tmp_path):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config)
    async with d.connect(config) as conn:
        await conn.transact(SCHEMA)
        report = await conn.transact([{":n": 1}, {":db/id": TX, INSTANT: MID}])
    async with d.connect(config) as conn:
        past = await conn.db().history().datoms("eavt", report.tx, INSTANT)
        assert [(x.v, x.added) for x in past] == [(MID, True)]


# -- valid time ------------------------------------------------------------------------------------

FROM, TO = ":db.valid/from", ":db.valid/to"
WINDOWS = {
    "meta": lambda a, b: ([{":n": 1}], {FROM: a, TO: b}),
    "map": lambda a, b: ([{":db/id": TX, FROM: a, TO: b}], None),
    "maps": lambda a, b: ([{":db/id": TX, FROM: a}, {":n": 1}, {":db/id": TX, TO: b}], None),
    "add": lambda a, b: ([[":db/add", TX, FROM, a], [":db/add", TX, TO, b]], None),
    "cas": lambda a, b: ([[":db/cas", TX, FROM, None, a], [":db/cas", TX, TO, None, b]], None),
    "meta and add": lambda a, b: ([[":db/add", TX, TO, b]], {FROM: a}),
    "large load": lambda a, b: ([{":n": i} for i in range(2000)], {FROM: a, TO: b}),
    "entity": lambda a, b: ([{":db/id": 100, FROM: a, TO: b}], None),
}


@pytest.mark.parametrize("keep_history", [True, False])
@pytest.mark.parametrize("way", WINDOWS)
async def test_valid_time_that_does_not_begin_before_it_ends_is_refused(way, keep_history):
    db = d.empty_db(keep_history=keep_history, schema_flexibility="write")
    db = await db.db_with(SCHEMA)
    await db.with_(*WINDOWS[way](EARLY, LATE))
    for since, until in ((LATE, EARLY), (MID, MID)):
        with pytest.raises(d.TransactionError) as caught:
            await db.with_(*WINDOWS[way](since, until))
        assert caught.value.error == ":transact/invalid-valid-times"


def test_init_db_refuses_a_valid_time_that_ends_before_it_began():
    tx = 536870914
    assert d.init_db([(tx, FROM, EARLY, tx), (tx, TO, LATE, tx)])
    with pytest.raises(d.TransactionError) as caught:
        d.init_db([(tx, FROM, LATE, tx), (tx, TO, EARLY, tx)])
    assert caught.value.error == ":transact/invalid-valid-times"


@pytest.mark.parametrize(
    "forms",
    [
        lambda tx: [[":db/add", tx, FROM, LATE]],
        lambda tx: [{":db/id": tx, TO: EARLY}],
        lambda tx: [[":db/cas", tx, TO, MID, EARLY]],
        lambda tx: [[":db/retract", tx, TO], [":db/add", tx, TO, EARLY]],
        lambda tx: [d.Datom(tx, d.kw("db.valid/to"), EARLY, tx)],
    ],
)
async def test_valid_time_of_an_earlier_transaction_stays_in_order(db, forms):
    first = await db.with_([{":n": 1}], {FROM: EARLY, TO: MID})
    with pytest.raises(d.TransactionError) as caught:
        await first.db_after.with_(forms(first.tx))
    assert caught.value.error == ":transact/invalid-valid-times-cross-tx"
    # Both ends may move together.
    moved = [[":db/add", first.tx, FROM, MID], [":db/add", first.tx, TO, LATE]]
    await first.db_after.with_(moved)


# -- without history -------------------------------------------------------------------------------


async def test_without_history_what_is_said_of_a_transaction_is_reported_and_not_stored():
    db = await d.empty_db(schema_flexibility="write").db_with(SCHEMA)
    report = await db.with_([{":n": 1}], {":why": "because", INSTANT: MID})
    assert report.tx_meta[d.kw("why")] == "because"
    assert report.instant == MID
    assert [x.a for x in report.tx_data] == [d.kw("n")]
    assert not len(await report.db_after.datoms("eavt", report.tx))
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":n": 1}], {":why": 5})
    assert caught.value.error == ":transact/schema"
    # What is said as data is kept: it is data.
    kept = await db.with_([{":n": 1}, {":db/id": TX, ":why": "because"}])
    assert [x.v for x in await kept.db_after.datoms("eavt", kept.tx)] == ["because"]


async def test_without_history_an_idempotency_key_and_its_answer_are_stored_alone(tmp_path):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}, "keep_history": False}
    await d.create_database(config)
    async with d.connect(config) as conn:
        await conn.transact(SCHEMA)
        forms, meta = [{":db/id": "t", ":n": 1}], {":why": "because"}
        first = await conn.transact(forms, meta, idempotency_key="k")
        assert first.tx_meta[d.kw("why")] == "because"
        again = await conn.transact(forms, meta, idempotency_key="k")
        assert again.repeated
        assert (again.tx, again.tempids, again.instant) == (first.tx, first.tempids, first.instant)
        stored = {str(x.a) for x in await conn.db().datoms("eavt", first.tx)}
        assert ":why" not in stored
