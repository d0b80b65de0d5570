"""Tags, renamed branches, and branches that are made to be a value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import datahike_async as d
from datahike_async import versions
from datahike_async.env import SYSTEM
from datahike_async.konserve.errors import OutcomeUnknown
from datahike_async.storage.branches import branching, registry
from datahike_async.storage.branches.fence import fence_head
from datahike_async.storage.branches.registry import Registry, change_registry
from datahike_async.storage.branches.retained import floor_at
from datahike_async.storage.keys import tag_key
from datahike_async.transactor.limits import Limits
from tests.stores import on

pytestmark = pytest.mark.anyio

FLUSHING = Limits(flush_rows=4, flush_bytes=200, flush_journal_bytes=400, close_rows=10**9)


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [FLUSHING, Limits()], ids=["flushing", "tail"])
async def test_a_tag_keeps_a_commit_when_its_branch_is_gone(
    config: dict[str, Any], limits: Limits
) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=limits) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        states: dict[UUID, d.Database] = {}
        async with d.connect(on(config, "trial"), limits=limits) as trial:
            for n in range(2, 12):
                db = (await trial.transact([{":n": n}])).db_after
                assert db.commit_id is not None
                states[db.commit_id] = db
            ids = list(states)
            await d.tag(trial, ":now")
            await d.tag(trial, ":then", ids[4])
            await trial.transact([{":n": 12}])
            last = d.commit_id(trial.db())
        assert await d.tags(main) == {d.kw("now"): ids[-1], d.kw("then"): ids[4]}
        await d.delete_branch(main, ":trial")
    async with d.connect(config) as main:
        for commit, db in states.items():
            # The tags keep what was before them, too.
            there = await d.commit_as_db(main, commit)
            assert there == db
            assert there is not None
            assert await numbers(there) == await numbers(db)
        assert await d.commit_as_db(main, last) is None
        await d.branch(main, (await d.tags(main))[d.kw("then")], ":again")
        async with d.connect(on(config, "again")) as again:
            await again.transact([{":n": 100}])
            assert await numbers(again.db()) == [*range(1, 7), 100]
        await d.untag(main, "now")
        assert await d.tags(main) == {d.kw("then"): ids[4]}
        assert await d.commit_as_db(main, ids[-1]) is None
        assert await d.commit_as_db(main, ids[2]) == states[ids[2]]


async def test_a_tag_of_much_that_is_not_flushed(config: dict[str, Any]) -> None:
    limits = Limits(flush_rows=10**6, flush_bytes=10**9, flush_journal_bytes=10**9)
    await d.create_database(config)
    async with d.connect(config, limits=limits) as conn:
        await conn.transact([{":n": 1, ":text": "x" * 50_000}])
        await conn.transact([{":n": 2, ":text": "y" * 50_000}])
        await d.tag(conn, ":v1")
        await d.branch(conn, ":db", ":trial")
    async with d.connect(on(config, "trial")) as trial:
        v1 = await d.commit_as_db(trial, (await d.tags(trial))[d.kw("v1")])
        assert v1 is not None
        assert [x.v[0] for x in await v1.datoms("aevt", ":text")] == ["x", "y"]


async def test_tags_are_named_once(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await d.tag(conn, ":v1")
        with pytest.raises(d.DatabaseExists, match="Tag :v1 already exists") as exists:
            await d.tag(conn, "v1")
        assert exists.value.error == ":tag-already-exists"
        with pytest.raises(d.DatabaseNotFound, match=r"the tags of this database: :v1") as unknown:
            await d.untag(conn, ":v2")
        assert unknown.value.error == ":tag-does-not-exist"
        with pytest.raises(d.ArgumentError, match="A tag is named by a keyword") as name:
            await d.tag(conn, 7)
        assert name.value.error == ":tag-must-be-keyword"
        with pytest.raises(d.DatabaseNotFound, match="neither a branch nor a commit"):
            await d.tag(conn, ":v3", uuid4())
        await d.untag(conn, ":v1")
        assert await d.tags(conn) == {}
        with pytest.raises(d.DatabaseNotFound):
            await d.untag(conn, ":v1")
        await d.tag(conn, ":v1", ":db")
        keys = [x["key"] for x in await conn._transactor.branch.store.keys()]
        assert sum(str(key).startswith("tag/") for key in keys) == 1
    async with d.connect(config, read_only=True) as reader:
        assert len(await d.tags(reader)) == 1
        with pytest.raises(d.WriterError):
            await d.tag(reader, ":v4")


async def test_a_tag_that_is_gone_from_the_store_is_damage(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await d.branch(conn, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            commit = d.commit_id((await trial.transact([{":n": 1}])).db_after)
            await d.tag(trial, ":v1")
        await d.delete_branch(conn, ":trial")
        store = conn._transactor.branch.store
        (key,) = [k["key"] for k in await store.keys() if str(k["key"]).startswith("tag/")]
        await store.dissoc(key)
        with pytest.raises(d.CorruptData, match="though a tag refers to it"):
            await d.commit_as_db(conn, commit)
        assert key == tag_key(UUID(key.removeprefix("tag/")))


# -- other names -----------------------------------------------------------------------------------


async def test_a_branch_gets_another_name(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":tiral")
        old = await d.connect(on(config, "tiral"))
        await old.transact([{":n": 2}])
        await d.rename_branch(main, ":tiral", ":trial")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}
        with pytest.raises(d.DatahikeError):
            await old.transact([{":n": 3}])
        await old.release()
        async with d.connect(on(config, "trial")) as trial:
            assert await numbers(trial.db()) == [1, 2]
            await trial.transact([{":n": 4}])
        with pytest.raises(d.DatabaseNotFound):
            await d.connect(on(config, "tiral"))
        with pytest.raises(d.BadInput, match="cannot be deleted or renamed"):
            await d.rename_branch(main, ":db", ":other")
        with pytest.raises(d.DatabaseNotFound, match="Branch :none does not exist"):
            await d.rename_branch(main, ":none", ":other")
        with pytest.raises(d.DatabaseExists):
            await d.rename_branch(main, ":trial", ":db")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}


async def test_what_is_written_while_a_branch_is_renamed_goes_along(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":old")
        async with d.connect(on(config, "old")) as old:
            begin, times = branching._first, 0

            async def first(*args: Any) -> bool:
                nonlocal times
                times += 1
                if times == 1:
                    await old.transact([{":n": 7}])
                return await begin(*args)

            monkeypatch.setattr(branching, "_first", first)
            await d.rename_branch(main, ":old", ":new")
        assert times == 2
        assert await d.branches(main) == {d.kw("db"), d.kw("new")}
        assert await numbers(await d.branch_as_db(main, ":new")) == [7]


async def test_what_is_written_to_both_names_meanwhile_stays(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":old")
        end = versions._end

        async def slow(*args: Any) -> None:
            monkeypatch.setattr(versions, "_end", end)
            for name, n in (("new", 7), ("old", 8)):
                async with d.connect(on(config, name)) as conn:
                    await conn.transact([{":n": n}])
            await end(*args)

        monkeypatch.setattr(versions, "_end", slow)
        with pytest.raises(d.HeadConflict, match="both are there"):
            await d.rename_branch(main, ":old", ":new")
        assert await numbers(await d.branch_as_db(main, ":old")) == [8]
        assert await numbers(await d.branch_as_db(main, ":new")) == [7]


async def test_a_tag_that_others_made_again_is_left_where_no_answer_came(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as conn:
        await d.tag(conn, ":v1")
        later = (await conn.transact([{":n": 1}])).db_after
        write = registry._write

        async def unheard(*args: Any) -> None:
            monkeypatch.setattr(registry, "_write", write)
            await write(*args)
            await d.tag(conn, ":v1")
            raise OutcomeUnknown("planted")

        monkeypatch.setattr(registry, "_write", unheard)
        await d.untag(conn, ":v1")
        assert await d.tags(conn) == {d.kw("v1"): d.commit_id(later)}


# -- a value for a branch --------------------------------------------------------------------------


@pytest.mark.parametrize("keep_history", [True, False])
async def test_a_branch_is_made_to_be_a_value(config: dict[str, Any], keep_history: bool) -> None:
    await d.create_database({**config, "keep_history": keep_history})
    async with d.connect(config) as main:
        await main.transact([{":n": 1}])
        before = main.db()
        await main.transact([{":n": 2}])
        made = await before.db_with([{":n": 10}])
        await d.force_branch(main, made, ":new", [":db", d.commit_id(before)])
        assert await d.branches(main) == {d.kw("db"), d.kw("new")}
        there = await d.branch_as_db(main, ":new")
        assert await numbers(there) == [1, 10]
        assert d.parent_commit_ids(there) == {d.commit_id(before), d.commit_id(main.db())}
        async with d.connect(on(config, "new")) as new:
            assert new.db() == there
            report = await new.transact([{":n": 11}])
            assert d.parent_commit_ids(report.db_after) == {d.commit_id(there)}
            # Ids of its own again, whatever it was made of.
            eids = {x.v: x.e for x in await new.db().datoms("aevt", ":n")}
            assert eids[11] >= 2**28
            # And over one that is there and open.
            await d.force_branch(main, before, ":new", [":new"])
            with pytest.raises(d.DatahikeError):
                await new.transact([{":n": 12}])
        async with d.connect(on(config, "new")) as new:
            assert await numbers(new.db()) == [1]
            assert d.parent_commit_ids(new.db()) == {d.commit_id(report.db_after)}
            await new.transact([{":n": 13}])
        await d.force_branch(main, await d.branch_as_db(main, ":new"), ":db", [":new"])
    async with d.connect(config) as main:
        assert await numbers(main.db()) == [1, 13]
        await main.transact([{":n": 14}])
        eids = [x.e for x in await main.db().datoms("aevt", ":n")]
        assert len(set(eids)) == 3
        assert await d.branches(main) == {d.kw("db"), d.kw("new")}
    async with d.connect(config) as main:
        assert await numbers(main.db()) == [1, 13, 14]


async def test_a_branch_can_be_a_value_of_this_store_alone(
    config: dict[str, Any], tmp_path: Path
) -> None:
    other = {"store": {"backend": "file", "path": str(tmp_path / "other")}}
    async with d.connect(config, create=True) as main, d.connect(other, create=True) as away:
        for value in (away.db(), d.empty_db(), main.db().as_of(main.db().max_tx), 7):
            with pytest.raises(d.ArgumentError, match="not of this store") as wrong:
                await d.force_branch(main, value, ":new", [":db"])
            assert wrong.value.error == ":db-value-required"
        with pytest.raises(d.ArgumentError, match="at least one parent") as none:
            await d.force_branch(main, main.db(), ":new", [])
        assert none.value.error == ":must-provide-at-least-one-parent"
        with pytest.raises(d.DatabaseNotFound):
            await d.force_branch(main, main.db(), ":new", [":none"])
        with pytest.raises(d.ArgumentError):
            await d.force_branch(main, main.db(), 3, [":db"])
        assert await d.branches(main) == {d.kw("db")}


@pytest.mark.parametrize("config", ["memory"], indirect=True)  # the others' turns keep them out
async def test_a_branch_that_others_delete_meanwhile_is_made_again(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        write = branching.write_head

        async def slow(*args: Any) -> None:
            monkeypatch.setattr(branching, "write_head", write)
            await d.delete_branch(main, ":trial")
            await write(*args)

        monkeypatch.setattr(branching, "write_head", slow)
        await d.force_branch(main, main.db(), ":trial", [":db"])
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}
        assert await numbers(await d.branch_as_db(main, ":trial")) == [1]


@pytest.mark.parametrize("config", ["memory"], indirect=True)
async def test_a_branch_that_others_made_again_is_left_where_no_answer_came(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        write = branching.write_head

        async def unheard(*args: Any) -> None:
            monkeypatch.setattr(branching, "write_head", write)
            await write(*args)
            await d.branch(main, ":db", ":trial")
            async with d.connect(on(config, "trial")) as trial:
                await trial.transact([{":n": 5}])
            raise OutcomeUnknown("planted")

        monkeypatch.setattr(branching, "write_head", unheard)
        await d.delete_branch(main, ":trial")
        assert await numbers(await d.branch_as_db(main, ":trial")) == [5]
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}


async def test_a_branch_made_an_older_value_parts_where_its_parent_says(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        before = main.db()
        await main.transact([{":n": 2}])
        parent = d.commit_id(main.db())
        await d.force_branch(main, before, ":back", [":db"])
        assert await d.merge_base(main, ":db", ":back") == (parent,)
        await main.transact([{":n": 3}])
        async with d.connect(on(config, "back")) as back:
            await back.transact([{":n": 4}])
        assert await d.merge_base(main, ":back", ":db") == (parent,)
        await d.merge(main, ":back")
        # As after a revert of what the branch does not have.
        assert await numbers(main.db()) == [1, 3, 4]


@pytest.mark.parametrize("collected", ["", "told", "not told"])
async def test_a_branch_that_was_forced_and_not_listed_is_listed_by_who_opens_it(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, collected: str
) -> None:
    """Also where a collection has told its head of its epoch meanwhile, or ended before that."""
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])

        async def ended(*args: Any, **options: Any) -> None:
            raise RuntimeError("ended half way")

        with monkeypatch.context() as patch:
            patch.setattr(branching, "list_branch", ended)
            for name in (":db", ":new"):
                with pytest.raises(RuntimeError):
                    await d.force_branch(main, main.db(), name, [":db"])
        store = main._transactor.branch.store
        await d.branch(main, ":db", ":third")
        if collected:

            async def begun(registry: Registry) -> Registry:
                return replace(registry, epoch=registry.epoch + 1)

            await change_registry(store, begun)
        if collected == "told":
            for name in ("db", "third"):
                await fence_head(store, name, 1, SYSTEM)
    eids = []
    # What was begun and never listed a collection has removed.
    for name in ("db", "third") if collected else ("db", "new", "third"):
        async with d.connect(on(config, name)) as conn:
            eids.append((await conn.transact([{":n": 2, ":db/id": "x"}])).tempids["x"])
            assert await d.branches(conn) >= {d.kw(name)}
    assert len(set(eids)) == len(eids)


@pytest.mark.parametrize("config", ["memory"], indirect=True)
@pytest.mark.parametrize("ended", [False, True], ids=["goes on", "is ended"])
async def test_a_branch_that_was_replaced_stays_so_whatever_collections_begin(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Also where what it was made of is kept no more, and where nobody tells it of an epoch."""
    limits = Limits(flush_rows=1, flush_bytes=1, close_rows=1)
    async with d.connect(config, create=True, limits=limits) as main:
        await main.transact([{":n": 1}])
        value = main.db()
        await d.branch(main, ":db", ":trial")
        await d.gc_storage(main)
        for n in range(2, 6):
            await main.transact([{":n": n}])
            await main.sync()
        write = branching.write_head

        async def beside(store: Any, head: Any, *args: Any) -> None:
            await write(store, head, *args)
            monkeypatch.setattr(branching, "write_head", write)
            assert head.base.branch == "trial"
            if ended:
                await change_registry(store, begun)
            else:
                await d.gc_storage(main, retain={"commits": 1})

        async def begun(registry: Registry) -> Registry:
            floors = {name: floor_at(main._transactor.branch.line[0]) for name in registry.branches}
            return replace(registry, epoch=registry.epoch + 1, floors=floors)

        monkeypatch.setattr(branching, "write_head", beside)
        await d.force_branch(main, value, ":trial", [":db"])
        assert await numbers(await d.branch_as_db(main, ":trial")) == [1]
        await d.gc_storage(main, retain={"commits": 1})
        assert await numbers(await d.branch_as_db(main, ":trial")) == [1]
        assert (await d.verify(main, deep=True)).ok
    async with d.connect(on(config, "trial")) as trial:
        await trial.transact([{":n": 9}])


async def test_a_tag_stands_for_its_commit(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":n": 1}])
        await d.tag(conn, ":v1")
        commit = d.commit_id(conn.db())
        await conn.transact([{":n": 2}])
        await d.branch(conn, ":v1", ":again")
        assert await numbers(await d.branch_as_db(conn, ":again")) == [1]
        await d.tag(conn, ":v1.0", "v1")
        assert (await d.tags(conn))[d.kw("v1.0")] == commit
        assert await d.merge_base(conn, ":v1", ":db") == (commit,)
        async with d.pin(conn, ":v1") as db:
            assert d.commit_id(db) == commit
        # A branch of its name comes first.
        await d.branch(conn, ":db", ":v1")
        await d.branch(conn, ":v1", ":third")
        assert await numbers(await d.branch_as_db(conn, ":third")) == [1, 2]


async def test_a_connection_and_a_value_stand_for_their_commit(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":n": 1}])
        before = conn.db()
        await d.branch(conn, before, ":one")
        async with d.connect(on(config, "one")) as one:
            await one.transact([{":n": 2}])
            await d.tag(conn, ":v1", one)
            await d.tag(conn, ":v0", before)
            tags = await d.tags(conn)
            assert tags == {d.kw("v0"): d.commit_id(before), d.kw("v1"): d.commit_id(one.db())}
            await d.branch(conn, one, ":two")
            assert await numbers(await d.branch_as_db(conn, ":two")) == [1, 2]
            assert await d.merge_base(conn, one, conn) == (d.commit_id(before),)
            assert [x.v for x in (await d.merge_preview(conn, one.db())).added] == [2]
            async with d.pin(conn, one) as db:
                assert db == one.db()
            await d.force_branch(conn, before, ":three", [one])
            report = await d.merge_db(conn, [one], [{":n": 3}])
            assert d.commit_id(one.db()) in d.parent_commit_ids(report.db_after)
            assert await d.rebase(one, conn) == []


@pytest.mark.parametrize("config", ["memory"], indirect=True)
async def test_nothing_is_no_database(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        for wrong in (None, conn.db()):
            for look in (d.info, d.verify, lambda of: d.backup(of, config)):
                with pytest.raises(d.ArgumentError, match="A connection or a configuration"):
                    await look(wrong)


async def test_what_names_nothing_says_what_would(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await d.tag(conn, ":v1")
        commit = d.commit_id(conn.db())

        async def pinned(wanted: Any) -> None:
            async with d.pin(conn, wanted):
                pass

        attempts: list[Any] = [
            lambda it: d.branch(conn, it, ":new"),
            lambda it: d.tag(conn, ":new", it),
            lambda it: d.merge(conn, it),
            lambda it: d.merge_base(conn, ":db", it),
            lambda it: d.merge_db(conn, [it], []),
            lambda it: d.rebase(conn, it),
            lambda it: d.force_branch(conn, conn.db(), ":new", [it]),
            pinned,
        ]
        for attempt in attempts:
            with pytest.raises(d.DatabaseNotFound, match=f"UUID: UUID.'{commit}'"):
                await attempt(str(commit))
            with pytest.raises(d.NameNotFound, match=r"':v2' is neither .* tags\(conn\) ") as none:
                await attempt(":v2")
            # As any other name that is mistyped.
            assert isinstance(none.value, d.BadInput)
            for no_commit in (await conn.db().db_with([{":n": 1}]), conn.db().history()):
                with pytest.raises(d.ArgumentError, match="is neither: it is a view"):
                    await attempt(no_commit)
        with pytest.raises(d.ArgumentError, match=r"commit_id\(db\)"):
            await d.branch(conn, ":db", conn.db())
        for taken in (lambda: d.branch(conn, conn, ":db"), lambda: d.tag(conn, ":v1")):
            with pytest.raises(d.NameTaken) as there:
                await taken()
            assert isinstance(there.value, d.BadInput)
        with pytest.raises(d.ArgumentError, match="a UUID, or"):
            await d.revert(conn, str(commit))
