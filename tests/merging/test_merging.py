"""Merging branches: what is taken over, each kind of conflict, strategies, names, undoing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.merging.two import SCHEMA, SMALL, Two, definition

pytestmark = pytest.mark.anyio


async def test_what_one_side_changed_is_taken_over(two: Two) -> None:
    await two.go(
        [[":db/add", 100, ":age", 7], [":db/retract", 100, ":tag", "a"]],
        [[":db/add", 101, ":age", 9], [":db/add", 100, ":tag", "c"], {":db/id": 200, ":name": "B"}],
    )
    report = await two.merged()
    assert {(x.e, str(x.a), x.v) for x in report.added} == {
        (101, ":age", 9),
        (100, ":tag", "c"),
        (200, ":name", "B"),
    }
    assert [(x.e, x.v) for x in report.retracted] == [(101, 2)]
    ada = await two.has(100)
    assert (ada[":age"], ada[":tag"]) == (7, ["b", "c"])
    db = two.ours.db()
    assert d.commit_id(two.theirs.db()) in d.parent_commit_ids(db)
    assert report.transaction is not None
    assert report.transaction.db_after == db
    # Again is nothing, and nobody writes anything for it.
    again = await d.merge(two.ours, ":theirs")
    assert again.up_to_date
    assert again.transaction is None
    assert two.ours.db() == db
    # Their side takes all of it over.
    assert (await d.merge(two.theirs, ":db")).conflicts == ()
    found = await d.diff(two.ours.db(), two.theirs.db())
    assert not found.added
    assert not found.removed


async def test_the_same_change_on_both_sides_is_none(two: Two) -> None:
    same = [[":db/add", 100, ":age", 7], [":db/retract", 100, ":tag", "a"]]
    await two.go(same, same)
    report = await two.merged()
    assert not report.changes
    assert report.transaction is not None  # that it was merged is worth a commit


CONFLICTS: list[tuple[str, Any, Any, list[tuple[str, Any, str | None]]]] = [
    (
        "a value",
        [[":db/add", 100, ":age", 7]],
        [[":db/add", 100, ":age", 8]],
        [("value", 100, ":age")],
    ),
    (
        "two first values",
        [[":db/add", 100, ":first", "x"]],
        [[":db/add", 100, ":first", "y"]],
        [("value", 100, ":first")],
    ),
    (
        "theirs retracted a value",
        [[":db/add", 100, ":age", 7]],
        [[":db/retract", 100, ":age", 1]],
        [("deleted", 100, ":age")],
    ),
    (
        "ours retracted a value",
        [[":db/retract", 100, ":age", 1]],
        [[":db/add", 100, ":age", 7]],
        [("deleted", 100, ":age")],
    ),
    (
        "theirs retracted an entity",
        [[":db/add", 100, ":age", 7]],
        [[":db/retractEntity", 100]],
        [("entity", 100, None)],
    ),
    (
        "ours retracted an entity",
        [[":db/retractEntity", 100]],
        [[":db/add", 100, ":age", 7]],
        [("entity", 100, None)],
    ),
    (
        "a unique value of old entities",
        [[":db/add", 100, ":mail", "x"]],
        [[":db/add", 101, ":mail", "x"]],
        [("unique", 100, ":mail")],
    ),
    (
        "a unique value that is no identity",
        [{":db/id": 200, ":badge": "x"}],
        [{":db/id": 300, ":badge": "x"}],
        [("unique", 200, ":badge")],
    ),
    (
        "an identity of a new and an old entity",
        [[":db/add", 100, ":mail", "x"]],
        [{":db/id": 300, ":mail": "x"}],
        [("unique", 100, ":mail")],
    ),
    (
        "one of theirs is two of ours",
        [{":db/id": 200, ":mail": "x"}, {":db/id": 201, ":name": "X"}],
        [{":db/id": 300, ":mail": "x", ":name": "X"}],
        [("identity", 200, ":mail"), ("identity", 201, ":name")],
    ),
    (
        "two of theirs are one of ours",
        [{":db/id": 200, ":mail": "x", ":name": "X"}],
        [{":db/id": 300, ":mail": "x"}, {":db/id": 301, ":name": "X"}],
        [("identity", 200, ":mail")],
    ),
    (
        "theirs refers to what ours retracted",
        [[":db/retractEntity", 101]],
        [[":db/add", 100, ":friend", 101]],
        [("reference", 100, ":friend")],
    ),
    (
        "ours refers to what theirs retracted",
        [[":db/add", 100, ":boss", 101]],
        [[":db/retractEntity", 101]],
        [("reference", 100, ":boss")],
    ),
    (
        "a reference to a transaction",
        [],
        [[":db/add", 100, ":boss", ":db/current-tx"]],
        [("transaction", 100, ":boss")],
    ),
    (
        "a definition",
        [definition(":new", "string")],
        [definition(":new", "long")],
        [("schema", "new", ":db/valueType")],
    ),
    (
        "data that the other side's definition takes no more",
        [[":db/retract", ":last", ":db/ident", ":last"]],
        [[":db/add", 100, ":last", "x"]],
        [("schema-data", None, ":last")],
    ),
    (
        "several values where the other side allows one",
        [
            [":db/retract", 100, ":tag", "b"],
            {":db/id": ":tag", ":db/cardinality": ":db.cardinality/one"},
        ],
        [[":db/add", 100, ":tag", "c"]],
        [("cardinality", 100, ":tag")],
    ),
    (
        "a value that is too long",
        [{":db/id": ":first", ":db/maxLength": 2}],
        [[":db/add", 100, ":first", "long"]],
        [("predicate", None, ":first")],
    ),
    (
        "valid times",
        [[":db/add", 100, ":db.valid/from", datetime(2024, 1, 1, tzinfo=UTC)]],
        [[":db/add", 100, ":db.valid/to", datetime(2023, 1, 1, tzinfo=UTC)]],
        [("refused", 100, None)],
    ),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"), [c[1:] for c in CONFLICTS], ids=[c[0] for c in CONFLICTS]
)
async def test_a_conflict_says_what_it_is(
    two: Two, ours: Any, theirs: Any, wanted: list[tuple[str, Any, str | None]]
) -> None:
    await two.go(ours, theirs)
    found = await two.conflicts()
    named = []
    for kind, entity, attribute in wanted:
        if isinstance(entity, str):
            entity = await two.ours.db().entid(f":{entity}")
        named.append((kind, entity, None if attribute is None else d.kw(attribute[1:])))
    assert found == named
    if not {kind for kind, _, _ in wanted} & {"value", "deleted"}:
        # What is no matter of values is settled by nothing.
        assert await two.conflicts(on_conflict="theirs") == named
        assert await two.conflicts(on_conflict="ours", resolve=lambda conflict: "ours") == named


@pytest.mark.parametrize(
    ("options", "age", "first"),
    [
        ({"on_conflict": "ours"}, 7, None),
        ({"on_conflict": "theirs"}, 8, "y"),
        ({"resolve": lambda c: [c.base] if c.kind == "value" else []}, 1, None),
        ({"resolve": lambda c: None, "on_conflict": "theirs"}, 8, "y"),
        ({"resolve": lambda c: "theirs" if c.attribute == d.kw("first") else [50]}, 50, "y"),
    ],
)
async def test_values_are_settled(two: Two, options: Any, age: int, first: str | None) -> None:
    await two.go([[":db/add", 101, ":first", "x"]], [])
    await d.merge(two.theirs, ":db")
    await two.go(
        [[":db/add", 100, ":age", 7], [":db/retract", 101, ":first", "x"]],
        [[":db/add", 100, ":age", 8], [":db/add", 101, ":first", "y"]],
    )
    report = await two.merged(**options)
    assert {(one.kind, str(one.attribute)) for one in report.settled} == {
        ("value", ":age"),
        ("deleted", ":first"),
    }
    assert (await two.has(100))[":age"] == age
    assert (await two.has(101)).get(":first") == first


async def test_strategies_of_the_schema_settle(two: Two) -> None:
    start = {":db/id": 100, ":most": 1, ":least": 5, ":when": 1, ":sum": 10, ":all": ["x", "y"]}
    await two.ours.transact([start])
    await d.merge(two.theirs, ":db")
    d.register_function("test.merging/sum", lambda base, ours, theirs: ours + theirs - base)
    try:
        await two.go(
            [
                {":db/id": 100, ":most": 4, ":least": 4, ":when": 2, ":sum": 13, ":all": "o"},
                [":db/retract", 100, ":all", "x"],
            ],
            [
                {":db/id": 100, ":most": 3, ":least": 3, ":when": 3, ":sum": 12, ":all": "t"},
                [":db/retract", 100, ":all", "y"],
            ],
        )
        await two.merged()
    finally:
        d.unregister_function("test.merging/sum")
    found = await two.has(100)
    assert [found[f":{name}"] for name in ("most", "least", "when", "sum")] == [4, 3, 3, 15]
    assert found[":all"] == ["o", "t", "x", "y"]


async def test_a_strategy_is_one_that_there_is(two: Two) -> None:
    for name in (":db.merge/most", ":max"):
        with pytest.raises(d.TransactionError, match="no strategy") as caught:
            await two.ours.transact([{":db/id": ":age", ":db.merge/strategy": name}])
        assert caught.value.error == ":schema/validation"
    await two.go([[":db/add", 100, ":sum", 1]], [[":db/add", 100, ":sum", 2]])
    with pytest.raises(d.TransactionError, match="not registered") as caught:
        await d.merge(two.ours, ":theirs")
    assert caught.value.error == ":merge/strategy"
    for name in ("strategy", "also"):
        with pytest.raises(d.TransactionError):
            await two.ours.transact([definition(f":db.merge/{name}", "string")])


async def test_composite_tuples_follow(two: Two) -> None:
    await two.go([[":db/add", 100, ":first", "x"]], [[":db/add", 100, ":last", "y"]])
    report = await two.merged()
    assert {str(x.a) for x in report.added} == {":last"}
    assert (await two.has(100))[":whole"] == ("x", "y")


async def test_definitions_come_before_data(two: Two) -> None:
    new = [
        definition(":new/part"),
        definition(":new/ref", "ref", isComponent=True),
        {**definition(":new/pair", "tuple"), ":db/tupleAttrs": [d.kw("new/part"), d.kw("age")]},
    ]
    await two.theirs.transact(new)
    await two.theirs.transact([{":db/id": 300, ":new/part": 3, ":age": 4, ":new/ref": 100}])
    await two.merged()
    found = await two.has(300)
    assert found[":new/pair"] == (3, 4)
    assert found[":new/ref"] == {":db/id": 100} or found[":new/ref"][d.kw("db/id")] == 100


async def test_unique_values_may_change_places(two: Two) -> None:
    await two.ours.transact([[":db/add", 100, ":badge", "x"], [":db/add", 101, ":badge", "y"]])
    await d.merge(two.theirs, ":db")
    await two.theirs.transact(
        [
            [":db/retract", 100, ":badge", "x"],
            [":db/retract", 101, ":badge", "y"],
            [":db/add", 100, ":badge", "y"],
            [":db/add", 101, ":badge", "x"],
        ]
    )
    await two.merged()
    assert (await two.has(100))[":badge"] == "y"


async def test_two_ids_of_one_entity_stay_one(two: Two) -> None:
    await two.go(
        [{":db/id": 200, ":mail": "x", ":age": 4}],
        [{":db/id": 300, ":mail": "x", ":tag": "t"}, [":db/add", 100, ":boss", 300]],
    )
    report = await two.merged()
    assert report.same == {300: 200}
    assert (await two.has(200))[":tag"] == ["t"]
    assert (await two.has(100))[":boss"][d.kw("db/id")] == 200
    await d.merge(two.theirs, ":db")
    assert (await two.has(300, two.theirs))[":age"] == 4
    for age in (5, 6, 7):
        # Whoever names it by whichever id.
        await two.go([[":db/add", 200, ":age", age]], [[":db/add", 300, ":tag", f"t{age}"]])
        await two.merged()
        await d.merge(two.theirs, ":db")
        here, there = await two.has(200), await two.has(300, two.theirs)
        assert here[":age"] == there[":age"] == age
        assert here[":tag"] == there[":tag"]
    await two.go([], [[":db/retractEntity", 300]])
    await two.merged()
    assert set(await two.has(200)) <= {":db/id"}
    assert ":boss" not in await two.has(100)


@pytest.mark.parametrize("limits", [SMALL, Limits(close_rows=10**9)], ids=["flushing", "tail"])
async def test_names_and_strategies_are_there_when_it_is_opened_again(
    store: dict[str, Any], limits: Limits
) -> None:
    config = {"store": store}
    async with d.connect(config, create=True, limits=limits) as ours:
        await ours.transact(SCHEMA)
        await d.branch(ours, ":db", ":theirs")
        async with d.connect(ours.config, branch=":theirs", limits=limits) as theirs:
            two = Two(ours, theirs)
            await two.go([{":mail": "x", ":most": 1}], [{":mail": "x", ":tag": "t"}])
            await two.merged()
            await two.go([{":mail": f"o{i}"} for i in range(60)], [])
            await two.go([[":db/add", [":mail", "o1"], ":age", 1]], [])
    async with (
        d.connect(config, limits=limits) as ours,
        d.connect({**config, "branch": ":theirs"}, limits=limits) as theirs,
    ):
        two = Two(ours, theirs)
        most = [[":db/add", [":mail", "x"], ":most", 7]]
        await two.go([[":db/add", [":mail", "x"], ":most", 3]], most)
        report = await two.merged()
        assert [one.settled for one in report.settled] == [":db.merge/max"]
        found = await two.has([":mail", "x"])
        assert (found[":most"], found[":tag"]) == (7, ["t"])
        assert found[":db.merge/also"] == [await theirs.db().entid([":mail", "x"])]


async def test_a_diff_leaves_names_out(two: Two) -> None:
    await two.go([{":db/id": 200, ":mail": "x"}], [{":db/id": 300, ":mail": "x"}])
    before = two.ours.db()
    await two.merged()
    found = await d.diff(before, two.ours.db())
    assert not found.added
    assert not found.removed


async def test_names_go_round(two: Two) -> None:
    """a → b → c → a, three rounds, each branch having made the same entity."""
    await d.branch(two.ours, ":db", ":third")
    async with d.connect(two.ours.config, branch=":third") as third:
        line = [two.ours, two.theirs, third]
        ids = [200, 300, 400]
        for conn, e in zip(line, ids, strict=True):
            await conn.transact([{":db/id": e, ":mail": "x"}])
        for number in range(3):
            for conn, e in zip(line, ids, strict=True):
                await conn.transact([[":db/add", e, ":tag", f"{e} {number}"]])
            for i in (0, 1, 2, 0, 1):
                await d.merge(line[(i + 1) % 3], line[i].config.branch)
            found = [await two.has(e, conn) for conn, e in zip(line, ids, strict=True)]
            assert len({tuple(one[":tag"]) for one in found}) == 1
            assert len(found[0][":tag"]) == 3 * (number + 1)
            for conn in line:
                count = await d.q("[:find (count ?e) . :where [?e :mail]]", conn.db())
                assert count == 1


async def test_branches_that_merged_one_another_crosswise(two: Two) -> None:
    await two.go([[":db/add", 100, ":age", 7]], [[":db/add", 100, ":tag", "c"]])
    ours, theirs = d.commit_id(two.ours.db()), d.commit_id(two.theirs.db())
    await d.merge(two.ours, theirs)
    await d.merge(two.theirs, ours)
    assert set(await d.merge_base(two.ours, ":db", ":theirs")) == {ours, theirs}
    await two.go([[":db/add", 100, ":age", 8]], [[":db/add", 101, ":age", 8]])
    report = await two.merged()
    assert {(x.e, x.v) for x in report.added} == {(101, 8)}


async def test_bases_that_do_not_agree_are_named(two: Two) -> None:
    await two.go([[":db/add", 100, ":age", 7]], [[":db/add", 100, ":age", 8]])
    ours, theirs = d.commit_id(two.ours.db()), d.commit_id(two.theirs.db())
    await d.merge(two.ours, theirs, on_conflict="ours")
    await d.merge(two.theirs, ours, on_conflict="ours")
    with pytest.raises(d.MergeConflict, match=str(ours)) as caught:
        await d.merge(two.ours, ":theirs")
    assert caught.value.error == ":merge/several-bases"
    assert set(caught.value.report.bases) == {ours, theirs}


async def test_the_base_is_found_through_flushes(store: dict[str, Any]) -> None:
    config = {"store": store, "schema_flexibility": "read"}
    async with AsyncExitStack() as stack:
        main = await stack.enter_async_context(d.connect(config, create=True, limits=SMALL))
        await main.transact([{":db/id": 1, ":n": 0}])
        lines = {"db": main}
        for name in ("x", "y"):
            await d.branch(main, ":db", f":{name}")
            lines[name] = await stack.enter_async_context(
                d.connect(main.config, branch=name, limits=SMALL)
            )
        start = d.commit_id(main.db())
        for i in range(30):
            for k, conn in enumerate(lines.values()):
                await conn.transact([[":db/add", 10 + 40 * k + i, ":n", i]])
        assert await d.merge_base(main, ":x", ":y") == (start,)
        side = d.commit_id(lines["x"].db())
        await d.merge(main, ":x")
        for i in range(30):
            for k, conn in enumerate(lines.values()):
                await conn.transact([[":db/add", 210 + 40 * k + i, ":n", i]])
        assert await d.merge_base(main, ":x", ":db") == (side,)
        assert await d.merge_base(main, ":y", ":db") == (start,)
        await d.merge(lines["y"], ":db")
        assert await d.merge_base(main, ":x", ":y") == (side,)
        assert await d.merge_base(main, ":y", ":db") == (d.commit_id(main.db()),)
        await d.merge(lines["y"], ":x")
        await d.merge(main, ":y")
        assert len(await main.db().datoms("aevt", ":n")) == 181
        # A commit is newer than all that it was made on.
        db = main.db()
        for parent in d.parent_commit_ids(db):
            found = await d.commit_as_db(main, parent)
            assert found is not None
            assert found.max_tx < db.max_tx


async def test_a_branch_that_was_forced_has_the_base_that_it_was_given(two: Two) -> None:
    before = two.ours.db()
    await two.go([[":db/add", 100, ":age", 7]], [])
    await two.go([[":db/add", 100, ":age", 8]], [])
    now = d.commit_id(two.ours.db())
    await d.force_branch(two.ours, before, ":back", [":db"])
    await two.go([[":db/add", 101, ":age", 9]], [])
    assert await d.merge_base(two.ours, ":db", ":back") == (now,)
    report = await d.merge(two.ours, ":back")
    assert {(x.e, x.v) for x in report.added} == {(100, 1)}
    assert (await two.has(101))[":age"] == 9


async def test_what_is_new_on_two_branches_has_ids_of_its_own(two: Two) -> None:
    await two.go([{":first": "x", ":tag": "o"}], [{":first": "y", ":friend": {":first": "z"}}])
    theirs = [x.e for x in await two.theirs.db().datoms("aevt", ":first")]
    await two.merged()
    found = {x.v: x.e for x in await two.ours.db().datoms("aevt", ":first")}
    assert {found["y"], found["z"]} == set(theirs)
    assert len(set(found.values())) == 3
    # What another branch has made comes back as it was.
    gone = await two.ours.transact([[":db/retractEntity", found["y"]]])
    await d.revert(two.ours, gone)
    assert (await two.has(found["y"]))[":first"] == "y"


async def test_a_merge_is_planned_anew_where_others_commit_meanwhile(two: Two) -> None:
    await two.theirs.transact([[":db/add", 100, ":tag", f"t{i}"] for i in range(200)])
    done = []

    async def other() -> None:
        for i in range(20):
            await two.ours.transact([[":db/add", 101, ":tag", f"o{i}"]])

    async def merge() -> None:
        done.append(await d.merge(two.ours, ":theirs"))

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        group.start_soon(merge)
        group.start_soon(merge)
    assert sorted(report.up_to_date for report in done) == [False, True]
    assert len((await two.has(100))[":tag"]) == 202
    assert len((await two.has(101))[":tag"]) == 20
