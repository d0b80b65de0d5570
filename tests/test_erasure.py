"""Erasure: after a purge nothing of it is in the store, and the report would have said so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve.errors import StoreIOError
from datahike_async.storage import erasure
from datahike_async.transactor import branch, flushing
from datahike_async.transactor.limits import Limits
from tests.indexes import TREE
from tests.stores import on

pytestmark = pytest.mark.anyio

FLUSHING = Limits(flush_rows=8, flush_bytes=500, flush_journal_bytes=900, close_rows=10**9)
NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)


ID = {
    ":db/ident": ":id",
    ":db/unique": ":db.unique/identity",
    ":db/valueType": ":db.type/long",
    ":db/cardinality": ":db.cardinality/one",
}


@pytest.fixture(params=["memory", "file", "lmdb"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    # For packs of which some nodes are needed; in memory with changes that wait in upper nodes.
    index = TREE if request.param == "memory" else {"index_config": {"branching-factor": 16}}
    return {"store": store, "schema_flexibility": "read", **index}


async def filled(conn: d.Connection, start: int = 0, count: int = 24) -> None:
    """Assert names, a fourth of them secret, one transaction each."""
    for i in range(start, start + count):
        name = f"SECRET {i}" if i % 4 == 1 else f"name {i}"
        await conn.transact([{":db/id": 100 + i, ":name": name, ":n": 10_000_019 + i}])


def secrets(count: int = 24) -> list[Any]:
    return [[":db.purge/attribute", 100 + i, ":name"] for i in range(1, count, 4)]


def raw(config: dict[str, Any]) -> set[str]:
    """Return the files in which a secret stands, as a stranger would look for it."""
    path = config["store"].get("path")
    if path is None or config["store"]["backend"] == "lmdb":
        return set()  # what LMDB has freed is there until it is compacted
    return {file.name for file in Path(path).rglob("*") if b"SECRET" in file.read_bytes()}


async def names(db: d.Database) -> dict[int, str]:
    return {x.e: x.v for x in await db.history().datoms("aevt", ":name") if x.added}


@pytest.mark.parametrize("limits", [FLUSHING, NEVER], ids=["flushing", "tail"])
async def test_nothing_of_it_is_left(config: dict[str, Any], limits: Limits) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=limits) as conn:
        await filled(conn)
        await conn.transact([[":db/retract", 105, ":name", "SECRET 5"]])
        await conn.transact([[":db/add", 113, ":name", "name now"]])
        before = await names(conn.db())
        seen = await d.erasure_report(conn, ["SECRET", 10_000_019, "not there", b"SECRET"])
        assert {0, 1} <= {kept.value for kept in seen.found} <= {0, 1, 3}
        assert not seen.clean
        assert not seen.unread
        done = await d.purge(conn, secrets())
        assert done.datoms == 7  # with what came for one of them
        assert not done.untagged
        after = await d.erasure_report(conn, ["SECRET", b"SECRET"])
        assert after.clean, after.found
        assert raw(config) == set()
        kept = {e: v for e, v in before.items() if (e - 100) % 4 != 1}
        assert await names(conn.db()) == kept
        assert (await d.verify(conn, deep=True)).ok
        # All else goes on.
        await filled(conn, 24, 12)
    async with d.connect(config) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 36
        assert (await d.verify(conn, deep=True)).ok


async def test_what_others_hold_is_found_and_purged_everywhere(config: dict[str, Any]) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=FLUSHING) as conn:
        await conn.transact([{":db/id": 50, ":name": "before"}])
        await d.tag(conn, ":clean")
        await filled(conn)
        await d.branch(conn, ":db", ":trial")
        await d.tag(conn, ":v1")
        async with (
            d.connect(on(config, "trial"), limits=FLUSHING) as trial,
            d.pin(conn, conn.db().commit_id),
        ):
            await filled(trial, 24, 8)
            await trial.transact([[":db/retract", 101, ":name"]])
            await d.purge(conn, secrets())
            held = await d.erasure_report(conn, ["SECRET"])
            assert any(kept.key.startswith("tag/") for kept in held.found) or held.found
            assert not held.clean
            assert "SECRET 5" in (await names(trial.db())).values()
            done = await d.purge(conn, secrets(32), everywhere=True)
            assert set(done.reports) == {d.kw("db"), d.kw("trial")}
            assert done.untagged == (d.kw("v1"),)
            assert (await d.erasure_report(conn, ["SECRET"])).clean
            assert raw(config) == set()
            assert len(await trial.db().datoms("aevt", ":n")) == 32
            assert set(await d.tags(conn)) == {d.kw("clean")}
            clean = await d.commit_as_db(conn, (await d.tags(conn))[d.kw("clean")])
            assert clean is not None
            assert await names(clean) == {50: "before"}
        assert (await d.verify(conn, deep=True)).ok


async def test_an_entity_that_one_branch_alone_has_is_no_error_on_others(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([ID])
        await d.branch(conn, ":db", ":trial")
        await conn.transact([{":id": 1, ":name": "SECRET"}])
        done = await d.purge(conn, [[":db.purge/entity", [":id", 1]]], everywhere=True)
        assert set(done.reports) == {d.kw("db")}
        assert done.datoms == 2
        with pytest.raises(d.TransactionError, match="there is no entity"):
            await d.purge(conn, [[":db.purge/entity", [":id", 1]]])
        assert (await d.erasure_report(conn, ["SECRET"])).clean


async def test_a_form_that_names_nothing_elsewhere_does_not_keep_the_others_from_it(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as conn:
        await d.tag(conn, ":empty")
        await conn.transact([ID])
        await conn.transact([{":id": 1, ":name": "SECRET one"}])
        await d.branch(conn, ":db", ":trial")
        await d.tag(conn, ":v1")
        await conn.transact([{":id": 2, ":name": "SECRET two"}])
        forms = [[":db.purge/entity", [":id", n]] for n in (2, 1)]
        done = await d.purge(conn, forms, everywhere=True)
        assert set(done.reports) == {d.kw("db"), d.kw("trial")}
        assert done.untagged == (d.kw("v1"),)
        assert (await d.erasure_report(conn, ["SECRET"])).clean
        assert set(await d.tags(conn)) == {d.kw("empty")}


async def test_what_is_called_otherwise_on_another_branch_is_purged_there(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([ID])
        await conn.transact([{":id": 1, ":name": "SECRET"}])
        await d.branch(conn, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            await trial.transact([{":db/id": [":id", 1], ":id": 7}])
            await trial.transact([{":id": 1, ":name": "another SECRET"}])
            await d.purge(conn, [[":db.purge/entity", [":id", 1]]], everywhere=True)
            assert await names(trial.db()) == {}
        assert (await d.erasure_report(conn, ["SECRET"])).clean


async def test_an_ident_goes_with_its_entity(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":db/id": 50, ":db/ident": ":SECRET/name", ":n": 1}])
        await d.purge(conn, [[":db.purge/entity", ":SECRET/name"]])
        assert (await d.erasure_report(conn, ["SECRET"])).clean
        assert await conn.db().entid(":SECRET/name") is None
        report = await conn.transact([{":db/id": "new", ":db/ident": ":SECRET/name"}])
        assert report.tempids["new"] != 50
    async with d.connect(config) as conn:
        assert await conn.db().entid(":SECRET/name") == report.tempids["new"]


async def test_a_flush_under_way_leaves_nothing_behind(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what was there before the purge after the purge is done."""
    await d.create_database(config)
    async with d.connect(config, limits=NEVER) as conn:
        await filled(conn)
        flush, began, go_on = branch.flush, anyio.Event(), anyio.Event()
        flushes = 0

        async def slow(*args: Any, **more: Any) -> Any:
            nonlocal flushes
            flushes += 1
            if flushes == 1:
                began.set()
                await go_on.wait()
            return await flush(*args, **more)

        monkeypatch.setattr(branch, "flush", slow)
        transactor = conn._transactor
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transactor.renew, frozenset({"none"}))
            await began.wait()
            tasks.start_soon(d.purge, conn, secrets())
            while flushes < 2:
                await anyio.sleep(0.001)
            await anyio.sleep(0.05)
            go_on.set()
        assert (await d.erasure_report(conn, ["SECRET"])).clean
        assert raw(config) == set()


async def test_others_write_on_while_it_is_erased(config: dict[str, Any]) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=FLUSHING) as conn:
        await filled(conn)
        stopped = False
        written = 0

        async def write() -> None:
            nonlocal written
            while not stopped:
                await conn.transact([{":db/id": 1000 + written, ":n": written}])
                written += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            with anyio.fail_after(30):
                await d.purge(conn, secrets())
            stopped = True
        assert written
        assert (await d.erasure_report(conn, ["SECRET"])).clean
        found = [x.e for x in await conn.db().datoms("aevt", ":n") if x.e >= 1000]
        assert found == [*range(1000, 1000 + written)]
        assert (await d.verify(conn, deep=True)).ok


async def test_it_is_written_anew_a_part_at_a_time(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_RENEWED", 1000)
    await d.create_database(config)
    async with d.connect(config, limits=FLUSHING) as conn:
        await filled(conn, count=96)
        blobs: list[frozenset[str]] = []
        prepare = flushing.Branch.prepare_flush

        async def noted(self: Any, renewing: frozenset[str] = frozenset(), *rest: Any) -> Any:
            if renewing:
                blobs.append(renewing)
            return await prepare(self, renewing, *rest)

        monkeypatch.setattr(flushing.Branch, "prepare_flush", noted)
        await d.purge(conn, secrets(40))
        await d.purge(conn, secrets(96))
        # One key a node holds nothing but what is needed.
        assert (len(blobs) > 1) == (config["store"]["backend"] == "file")
        assert (await d.erasure_report(conn, ["SECRET"])).clean
        assert raw(config) == set()
        assert (await d.verify(conn, deep=True)).ok


async def test_what_failed_is_told_and_done_the_next_time(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=FLUSHING) as conn:
        await filled(conn, count=72)
        fails = 1
        prepare = flushing.Branch.prepare_flush

        async def failing(self: Any, renewing: frozenset[str] = frozenset(), *rest: Any) -> Any:
            nonlocal fails
            if renewing and fails:
                fails -= 1
                error = StoreIOError("no room")
                error.retryable = True
                raise error
            return await prepare(self, renewing, *rest)

        monkeypatch.setattr(flushing.Branch, "prepare_flush", failing)
        if config["store"]["backend"] == "file":
            with pytest.raises(d.StorageError, match="no room"):
                await d.purge(conn, secrets(72))
        await conn.transact([{":n": 1}])
        await d.purge(conn, secrets(72))
        assert (await d.erasure_report(conn, ["SECRET"])).clean


async def test_who_releases_meanwhile_is_told(config: dict[str, Any]) -> None:
    await d.create_database(config)
    conn = await d.connect(config, limits=FLUSHING)
    await filled(conn)
    transactor = conn._transactor
    await conn.release()
    with pytest.raises(d.ConnectionClosed):
        await transactor.renew(frozenset({"pack/x"}))


async def test_values_are_found_at_any_depth(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact(
            [
                {":db/ident": ":t", ":db/valueType": ":db.type/tuple",
                 ":db/cardinality": ":db.cardinality/one",
                 ":db/tupleTypes": [":db.type/string", ":db.type/long"]},
                {":t": ["deep", 77_777_777], ":f": 2.718281828, ":k": d.kw("found/me")},
            ]
        )  # fmt: skip
        for value in ("deep", 77_777_777, 2.718281828, d.kw("found/me"), "und/m"):
            assert not (await d.erasure_report(conn, [value])).clean, value
        for value in ("deepest", 77_777_778, 77_777_777.0, True, d.kw("lost/me")):
            found = await d.erasure_report(conn, [value])
            assert value is True or found.clean, (value, found.found)
        # What can't be there, or isn't looked for, must not be shown as erased.
        for wrong in (
            "text", b"bytes", 7, [], [None], [object()], [""], [b""], [("deep", 77_777_777)],
            [datetime(2026, 1, 1)], {"deep": 1},
        ):  # fmt: skip
            with pytest.raises(d.ArgumentError):
                await d.erasure_report(conn, wrong)
        await conn.transact([{":at": datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)}])
        east = datetime(2026, 1, 1, 14, 0, 0, 123456, timezone(timedelta(hours=2)))
        assert not (await d.erasure_report(conn, [east])).clean


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        7,
        [],
        "[]",
        [[":db/add", 1, ":name", "x"]],
        [{":name": "x"}],
        [":db.purge/entity", 1],
        [[":db.purge/entityy", 1]],
        [[]],
        {":db.purge/entity": 1},
    ],
)
async def test_purge_takes_forms_that_purge_alone(wrong: Any) -> None:
    config = {"store": {"backend": "memory", "id": uuid4()}, "schema_flexibility": "read"}
    async with d.connect(config, create=True) as conn:
        before = conn.db()
        with pytest.raises(d.ArgumentError, match="purge"):
            await d.purge(conn, wrong, everywhere=True)
        assert conn.db() == before


async def test_what_purge_and_the_report_say_can_be_printed_and_sent() -> None:
    config = {"store": {"backend": "memory", "id": uuid4()}, "schema_flexibility": "read"}
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":db/id": 7, ":name": "SECRET"}])
        await d.tag(conn, ":old")
        held = await d.erasure_report(conn, ["SECRET"])
        assert " places have something: " in str(held)
        assert "value 0 is in head/db" in str(held)
        assert "not looked at: backups" in str(held)
        assert json.loads(json.dumps(d.jsonable(held)))["clean"] is False
        done = await d.purge(conn, "[[:db.purge/entity 7]]", everywhere=True)
        assert str(done).startswith("branch :db: 1 datoms purged by transaction 5")
        assert "tags taken back: :old" in str(done)
        assert " blobs freed, " in str(done)
        told = json.loads(json.dumps(d.jsonable(done)))
        assert told["datoms"] == 1
        assert told["untagged"] == [":old"]
        assert told["reports"][":db"]["tx"] == done.reports[d.kw("db")].tx
        assert told["collected"]["branches"][":db"]["checkpoints"] >= 1
        assert str(await d.erasure_report(conn, ["SECRET"])).startswith("nothing was found: ")
        assert max(map(len, map(repr, (held, done, done.collected)))) < 130


async def test_branches_that_a_purge_has_parted_are_not_merged_or_rebased() -> None:
    config = {"store": {"backend": "memory", "id": uuid4()}, "schema_flexibility": "read"}
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":db/id": 7, ":name": "SECRET"}])
        await d.branch(conn, ":db", ":side")
        async with d.connect(config, branch=":side") as side:
            await side.transact([{":name": "x"}])
            await d.purge(conn, [[":db.purge/entity", 7]], everywhere=True)
            assert await d.merge_base(conn, ":db", ":side") == ()
            for attempt in (d.merge(conn, ":side"), d.rebase(side, ":db"), d.rebase(conn, ":side")):
                with pytest.raises(d.MergeConflict, match="none in common") as caught:
                    await attempt
                assert caught.value.error == ":merge/no-base"


@pytest.mark.parametrize("keep_history", [False, True])
async def test_what_was_retracted_without_a_past_goes_once_runs_are_merged(
    tmp_path: Path, keep_history: bool
) -> None:
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db")},
        "keep_history": keep_history,
    }
    bare = {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/one"}
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await conn.transact([{":db/ident": ":note", ":db/noHistory": True, **bare}])
        await conn.transact([{":db/id": 100 + i, ":note": f"note {i}"} for i in range(100)])
        await conn.transact([[":db/add", 50, ":note", "SECRET"]])
        await d.compact(conn)
        await conn.transact([[":db/retract", 50, ":note", "SECRET"]])
        # In the index there is no past of it that a purge could find; it says what helps.
        if not keep_history:
            with pytest.raises(d.DatahikeError, match="compact, and collect with gc_storage"):
                await d.purge(conn, [[":db.purge/entity", 50]])
        for i in range(2):  # the first time says which packs are to be written anew
            await d.compact(conn)
            await d.gc_storage(conn, remove_before=datetime.now(UTC))
            await conn.transact([[":db/add", 51, ":note", f"later {i}"]])
        assert (await d.erasure_report(conn, ["SECRET"])).clean
