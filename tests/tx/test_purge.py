"""Purges: what they name is in no view any more, whatever the past; the rest is as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from datahike_async.values.types import typed_key
from tests.indexes import TREE

pytestmark = pytest.mark.anyio

FLUSHING = Limits(flush_rows=8, flush_bytes=500, flush_journal_bytes=900, close_rows=10**9)
NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
TX0 = 0x20000000
Datom = tuple[int, str, Any, int, bool]


def attribute(ident: str, type_: str, many: bool = False, **more: Any) -> dict[str, Any]:
    return {
        ":db/ident": ident,
        ":db/valueType": f":db.type/{type_}",
        ":db/cardinality": f":db.cardinality/{'many' if many else 'one'}",
        **{f":db/{key}": value for key, value in more.items()},
    }


SCHEMA = [
    attribute(":id", "long", unique=":db.unique/identity"),
    attribute(":name", "string", index=True),
    attribute(":tag", "string", many=True),
    attribute(":age", "long"),
    attribute(":friend", "ref", many=True),
    attribute(":part", "ref", many=True, isComponent=True),
    attribute(":name+age", "tuple", tupleAttrs=[":name", ":age"]),
]


@pytest.fixture(params=["memory", "file", "lmdb"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "initial_tx": SCHEMA, **(TREE if request.param == "memory" else {})}


async def past(db: d.Database) -> set[Datom]:
    """Return all datoms of the past and the present but those of composite tuples."""
    return {
        (x.e, str(x.a), typed_key(x.v), x.tx, x.added)
        for x in await db.history().datoms("eavt")
        if str(x.a) != ":name+age"
    }


async def grown(conn: d.Connection, rng: random.Random, steps: int) -> list[datetime]:
    """Let some entities have a past; return the instants of its transactions."""
    out = []
    for _ in range(steps):
        items: list[Any] = []
        for _ in range(rng.randrange(1, 5)):
            e, v = rng.randrange(100, 108), rng.randrange(4)
            kind = rng.randrange(9)
            items.append(
                [":db/add", e, ":name", f"name {v}"]
                if kind < 2
                else [":db/add", e, ":age", v]
                if kind < 4
                else [":db/add", e, ":tag", f"tag {v}"]
                if kind == 4
                else [":db/add", e, ":friend", 100 + v]
                if kind == 5
                else [":db/retract", e, ":tag", f"tag {v}"]
                if kind == 6
                else [":db/retract", e, ":name"]
                if kind == 7
                else [":db/retract", e, ":friend", 100 + v]
            )
        out.append((await conn.transact(items)).instant)
    return out


async def check(conn: d.Connection, forms: list[Any], gone: Callable[[Datom], bool]) -> None:
    before = await past(conn.db())
    report = await conn.transact([*forms, {":db/id": 200, ":age": 1}])
    tx = report.tx
    expected = {x for x in before if not gone(x)}
    found = await past(conn.db())
    assert {x for x in found if x[3] != tx} == expected
    assert all(str(x.a) in (":db/txInstant", ":age", ":name+age") for x in report.tx_data)
    now = conn.db()
    # Composite tuples are those of the parts that are there.
    parts = {
        (e, n, a)
        for e, n, a in await d.q(
            '[:find ?e ?n ?a :where [?e :age ?a] [(get-else $ ?e :name "-") ?n]]', now
        )
    }
    tuples = await d.q("[:find ?e ?t :where [?e :name+age ?t]]", now)
    assert {(e, t[0] or "-", t[1]) for e, t in tuples if t[1] is not None} == parts
    # All indexes say the same.
    aevt = {(x.e, x.a, typed_key(x.v), x.tx) for x in await now.history().datoms("aevt")}
    assert aevt == {(x.e, x.a, typed_key(x.v), x.tx) for x in await now.history().datoms("eavt")}
    names = [(x.e, x.v, x.tx, x.added) for x in await now.history().datoms("avet", ":name")]
    assert set(names) == {
        (x.e, x.v, x.tx, x.added) for x in await now.history().datoms("aevt", ":name")
    }


@pytest.mark.parametrize("limits", [FLUSHING, NEVER], ids=["flushing", "tail"])
async def test_what_is_purged_is_in_no_view_and_the_rest_is_as_it_was(
    config: dict[str, Any], limits: Limits
) -> None:
    rng = random.Random(3)
    await d.create_database(config)
    async with d.connect(config, limits=limits) as conn:
        for _ in range(4):
            instants = await grown(conn, rng, 12)
            e = rng.randrange(100, 108)
            await check(
                conn,
                [[":db.purge/attribute", e, ":tag"]],
                lambda x, e=e: x[:2] == (e, ":tag"),
            )
            e = rng.randrange(100, 108)
            await check(
                conn,
                [[":db/purge", e, ":name", "name 1"], [":db/purge", e, ":tag", "tag 2"]],
                lambda x, e=e: (
                    x[0] == e
                    and (x[1], x[2])
                    in ((":name", typed_key("name 1")), (":tag", typed_key("tag 2")))
                ),
            )
            e = rng.randrange(100, 104)
            await check(
                conn,
                [[":db.purge/entity", e]],
                lambda x, e=e: x[0] == e or (x[1] == ":friend" and x[2] == typed_key(e)),
            )
            found = await d.q("[:find ?e ?n :where [?e :name ?n] [?e :age]]", conn.db())
            e, name = rng.choice(sorted(found))
            await check(
                conn,
                [[":db/purge", e, ":name", name]],
                lambda x, e=e, name=name: x[:3] == (e, ":name", typed_key(name)),
            )
            await ended_before(conn, instants[6])
    async with d.connect(config) as conn:
        assert await d.q("[:find ?a . :where [200 :age ?a]]", conn.db()) == 1
        await grown(conn, rng, 3)


async def ended_before(conn: d.Connection, point: datetime) -> None:
    """Purge what had ended before an instant: those intervals, and no others."""
    db = conn.db()
    when = {x.e: x.v for x in await db.datoms("aevt", ":db/txInstant")}
    ended = set()
    facts: dict[Any, list[Datom]] = {}
    for x in sorted(await past(db), key=lambda x: (x[3], x[4])):
        facts.setdefault(x[:3], []).append(x)
    for line in facts.values():
        opened: Datom | None = None
        for _, group in groupby(line, key=lambda x: x[3]):
            # What was not there is asserted before it is retracted, in one transaction, too.
            for x in sorted(group, key=lambda x: x[4] == (opened is not None)):
                if x[4]:
                    opened = x
                    continue
                if opened is not None and when[x[3]] < point:
                    ended |= {opened, x}
                opened = None
    await check(conn, [[":db.history.purge/before", point]], lambda x: x in ended)


async def test_an_entity_goes_with_its_components_and_with_what_refers_to_it(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact(
            [
                {":id": 1, ":name": "whole", ":part": [{":id": 2, ":part": [{":id": 3}]}]},
                {":id": 4, ":friend": [[":id", 1]]},
                {":id": 5, ":friend": [[":id", 4]], ":part": [{":id": 6}]},
            ]
        )
        await conn.transact([[":db/retract", [":id", 4], ":friend", [":id", 1]]])
        # Also with those that were retracted, which the past still has.
        await conn.transact([{":db/id": [":id", 1], ":part": [{":id": 7, ":part": [{":id": 8}]}]}])
        await conn.transact([[":db/retractEntity", [":id", 7]]])
        report = await conn.transact([[":db.purge/entity", [":id", 1]]])
        history = conn.db().history()
        assert sorted(x.v for x in await history.datoms("aevt", ":id")) == [4, 5, 6]
        assert not await d.q("[:find ?f :where [?e :id 4] [?e :friend ?f]]", history)
        assert report.purged > 5
        assert await conn.db().entid([":id", 1]) is None


async def test_what_cannot_be_purged_is_said_and_nothing_is_done(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        first = await conn.transact([{":id": 1, ":name": "Ada", ":age": 3}])
        before = await past(conn.db())
        eid = await conn.db().entid(":name")
        for form, why in (
            ([":db.purge/entity", [":id", 9]], "there is no entity"),
            ([":db.purge/entity", eid], "is an attribute of the schema"),
            ([":db.purge/entity", first.tx], "is a transaction"),
            ([":db.purge/attribute", [":id", 1], ":none"], "there is no attribute ':none'"),
            ([":db.purge/attribute", first.tx, ":db/txInstant"], "the database itself needs"),
            ([":db.purge/attribute", eid, ":db/ident"], "the database itself needs"),
            ([":db/purge", [":id", 1], ":name+age", ["Ada", 3]], "purge those"),
        ):
            with pytest.raises(d.TransactionError, match=why) as caught:
                await conn.transact([{":id": 2}, form])
            assert caught.value.error == ":transact/purge"
        for form in (
            [":db/purge", [":id", 1], ":name"],
            [":db.purge/entity"],
            [":db.history.purge/before", "yesterday"],
            [":db.history.purge/before", datetime(2020, 1, 1)],
        ):
            with pytest.raises(d.TransactionError) as caught:
                await conn.transact([form])
            assert caught.value.error == ":transact/syntax"
        assert await past(conn.db()) == before
        # A value that is not there is none the less said to be nothing.
        assert (await conn.transact([[":db/purge", [":id", 1], ":name", "Bob"]])).purged == 0
        assert await d.q("[:find ?n . :where [_ :name ?n]]", conn.db()) == "Ada"


async def test_without_history_there_is_nothing_to_purge(config: dict[str, Any]) -> None:
    async with d.connect({**config, "keep_history": False}, create=True) as conn:
        await conn.transact([{":id": 1}])
        with pytest.raises(d.TransactionError, match="gc_storage") as caught:
            await conn.transact([[":db.purge/entity", [":id", 1]]])
        assert caught.value.error == ":transact/purge"


async def test_a_purge_comes_before_the_rest_of_its_transaction(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":id": 1, ":name": "Ada"}])
        report = await conn.transact(
            [
                [":db/add", [":id", 1], ":name", "Ann"],
                [":db.purge/attribute", [":id", 1], ":name"],
                {":id": 2, ":name": "Bob"},
            ]
        )
        names = await d.q("[:find [?n ...] :where [_ :name ?n]]", conn.db().history())
        assert sorted(names) == ["Ann", "Bob"]
        assert [x.v for x in report.tx_data if str(x.a) == ":name"] == ["Ann", "Bob"]
        assert await d.q("[:find ?n . :where [_ :name ?n]]", report.db_before) == "Ada"

        def purging(db: d.Database) -> list[Any]:
            return [[":db.purge/entity", [":id", 1]]]

        with pytest.raises(d.TransactionError, match="made by a transaction function"):
            await conn.transact([[":db.fn/call", purging]])
        many = [{":id": i, ":name": f"n{i}"} for i in range(3000)]
        report = await conn.transact([*many, [":db.purge/entity", [":id", 2]]])
        assert len(await conn.db().datoms("aevt", ":id")) == 3000
        assert not [x for x in await conn.db().history().datoms("aevt", ":name") if x.v == "Bob"]


async def test_commits_before_a_purge_are_gone_and_as_of_stays(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        old = [(await conn.transact([{":id": i, ":name": f"n{i}"}])).db_after for i in range(4)]
        report = await conn.transact([[":db.purge/entity", [":id", 0]]])
        then = conn.db().as_of(old[2].max_tx)
        assert sorted(await d.q("[:find [?n ...] :where [_ :name ?n]]", then)) == ["n1", "n2"]
        after = (await conn.transact([{":id": 9}])).db_after
    async with d.connect(config) as conn:
        for db in old:
            assert await d.commit_as_db(conn, d.commit_id(db)) is None
        there = await d.commit_as_db(conn, d.commit_id(report.db_after))
        assert there == report.db_after
        assert [db.commit_id async for db in d.branch_history(conn)] == [
            d.commit_id(after),
            d.commit_id(report.db_after),
        ]
        assert await d.commit_as_db(conn, d.commit_id(after)) == after


async def test_nothing_of_it_is_left_once_the_garbage_is_collected(
    config: dict[str, Any],
) -> None:
    if config["store"]["backend"] == "file":
        pytest.skip("nodes lie in packs")
    await d.create_database(config)
    # Without a flush that was under way at the purge, and writes garbage after it was listed.
    async with d.connect(config, limits=NEVER) as conn:
        for i in range(40):
            await conn.transact([{":id": i, ":name": f"SECRET {i}" if i % 4 == 1 else f"n{i}"}])
        await conn.transact([[":db/retract", [":id", 5], ":name", "SECRET 5"]])
        forms = [[":db.purge/attribute", [":id", i], ":name"] for i in range(1, 40, 4)]
        report = await conn.transact(forms)
        assert report.purged == 20  # with the composite tuples
        await d.gc_storage(conn, retain={"commits": 1})
        store = conn._transactor.branch.store
        for item in await store.keys():
            data = await store.get(item["key"]) if item["type"] != "binary" else None
            raw = data if isinstance(data, bytes) else await store.bget(item["key"])
            assert b"SECRET" not in (raw or b""), item["key"]
