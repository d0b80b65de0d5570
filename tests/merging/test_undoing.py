"""Undoing: reverts of transactions and of merges, and what is no merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from tests.merging.two import Two

pytestmark = pytest.mark.anyio


async def same(before: d.Database, after: d.Database) -> bool:
    found = await d.diff(before, after)
    return not found.added and not found.removed


async def test_what_was_done_is_undone(two: Two) -> None:
    conn = two.ours
    before = conn.db()
    report = await conn.transact(
        [[":db/add", 100, ":age", 7], [":db/retractEntity", 101], {":db/id": 200, ":first": "x"}]
    )
    undone = await d.revert(conn, report)
    assert undone.bases == (d.commit_id(report.db_after),)
    assert await same(before, conn.db())
    # Again there is nothing left of it.
    assert (await d.revert(conn, report.tx)).transaction is None
    # Of several the newest goes first.
    first = await conn.transact([[":db/add", 100, ":age", 8]])
    second = await conn.transact([[":db/add", 100, ":age", 9]])
    with pytest.raises(d.MergeConflict) as caught:
        await d.revert(conn, first)
    assert [one.kind for one in caught.value.report.conflicts] == ["value"]
    await d.revert(conn, first, d.commit_id(second.db_after))
    assert await same(before, conn.db())
    # What revert, or a merge, returned is a report as well.
    again = await d.revert(conn, undone)
    assert await same(report.db_after, conn.db())
    await d.revert(conn, again)
    assert await same(before, conn.db())


async def test_a_merge_is_undone_to_either_side(two: Two) -> None:
    await two.go(
        [{":db/id": 200, ":mail": "x", ":age": 4}],
        [{":db/id": 300, ":mail": "x", ":tag": "t"}, [":db/add", 101, ":age", 3]],
    )
    before = two.ours.db()
    report = await two.merged()
    with pytest.raises(d.ArgumentError, match="parent="):
        await d.revert(two.ours, report.transaction)
    undone = await d.revert(two.ours, report.transaction, parent=1)
    assert await same(before, two.ours.db())
    await d.revert(two.ours, undone.transaction)
    await d.revert(two.ours, report.transaction, parent=2)
    found = await two.has(200)
    assert (found[":tag"], found.get(":age")) == (["t"], None)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: d.merge(c, ":nowhere"), ":branch-does-not-exist"),
        (lambda c: d.merge(c, uuid4()), ":branch-does-not-exist"),
        (lambda c: d.merge(c, 7), ":branch-must-be-keyword"),
        (lambda c: d.merge(c, c.db().history()), ":argument/invalid"),
        (lambda c: d.merge(c, ":theirs", on_conflict="mine"), ":argument/invalid"),
        (lambda c: d.merge(c, ":theirs", resolve="mine"), ":argument/invalid"),
        (lambda c: d.merge_preview(c, ":nowhere"), ":branch-does-not-exist"),
        (lambda c: d.merge_base(c, ":db", ":nowhere"), ":branch-does-not-exist"),
        (lambda c: d.revert(c), ":argument/invalid"),
        (lambda c: d.revert(c, "x"), ":argument/invalid"),
        (lambda c: d.revert(c, 3), ":revert/no-such-transaction"),
        (lambda c: d.revert(c, uuid4()), ":revert/no-such-transaction"),
        (lambda c: d.revert(c, c.db().max_tx, parent=0), ":argument/invalid"),
        (lambda c: d.revert(c, c.db().max_tx, parent=2), ":argument/invalid"),
    ],
)
async def test_what_is_no_merge_says_so(two: Two, call: Callable[..., Any], error: str) -> None:
    with pytest.raises(d.DatahikeError) as caught:
        await call(two.ours)
    assert caught.value.error == error


async def test_resolve_says_what_it_may(two: Two) -> None:
    await two.go([[":db/add", 100, ":age", 7]], [[":db/add", 100, ":age", 8]])
    with pytest.raises(d.ArgumentError, match="resolve returned"):
        await d.merge(two.ours, ":theirs", resolve=lambda c: 9)
    with pytest.raises(ZeroDivisionError):
        await d.merge(two.ours, ":theirs", resolve=lambda c: 1 // 0)


async def test_new_checks_of_theirs_are_held_against_what_ours_asserted(two: Two) -> None:
    """As ours are against what theirs did; what was there before either is left alone."""
    d.register_function("test.merging/adult", lambda age: age >= 18)
    try:
        await two.go(
            [[":db/add", 100, ":age", 7], {":db/id": 300, ":name": "Old", ":age": 80}],
            [
                {":db/ident": ":age", ":db.attr/preds": d.sym("test.merging/adult")},
                {":db/ident": ":tag", ":db/maxLength": 2},
            ],
        )
        await two.ours.transact([[":db/add", 300, ":tag", "long"]])
        # 2 at 101 has been there before anybody asked for more.
        found = await two.conflicts()
        assert sorted(found, key=str) == [
            ("predicate", 100, d.kw("age")),
            ("predicate", 300, d.kw("tag")),
        ]
        await two.go([[":db/add", 100, ":age", 70], [":db/retract", 300, ":tag", "long"]], [])
        await two.merged()
        with pytest.raises(d.TransactionError, match="failed the predicate"):
            await two.ours.transact([[":db/add", 100, ":age", 3]])
    finally:
        d.unregister_function("test.merging/adult")


async def test_what_does_not_pass_a_new_check_and_is_replaced_by_theirs_is_no_conflict(
    two: Two,
) -> None:
    d.register_function("test.merging/adult", lambda age: age >= 18)
    try:
        await two.go([[":db/add", 100, ":age", 7]], [[":db/add", 100, ":age", 30]])
        await two.theirs.transact(
            [{":db/ident": ":age", ":db.attr/preds": d.sym("test.merging/adult")}]
        )
        assert await two.conflicts(on_conflict="ours") == [("predicate", 100, d.kw("age"))]
        await two.merged(on_conflict="theirs")
        assert (await two.has(100))[":age"] == 30
    finally:
        d.unregister_function("test.merging/adult")
