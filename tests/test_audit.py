"""Audit: what was forged under right checksums is found, and of what is right nothing is said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.env import SYSTEM
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.records import decode_record, entries_of, tx_of_commit
from datahike_async.transactor.limits import Limits
from tests import forging
from tests.stores import Servers, store_on

pytestmark = pytest.mark.anyio

FLUSHED = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=1)
KEPT = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
SMALL = Limits(flush_rows=60, flush_bytes=8_000, flush_journal_bytes=8_000, close_rows=1)
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/string :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :id :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}]
"""
FORGERIES = {forgery.__name__: forgery for forgery in (*forging.SHALLOW, *forging.DEEP)}
DEEP = {forgery.__name__ for forgery in forging.DEEP}


@pytest.fixture
def config(tmp_path: Path, anyio_backend: str) -> dict[str, Any]:
    """Return what to create a database with: in files on one loop, in memory on the other."""
    if anyio_backend == "asyncio":
        return made_of({"backend": "file", "id": uuid4(), "path": str(tmp_path / "db")})
    return made_of({"backend": "memory", "id": uuid4()})


def made_of(store: dict[str, Any], *, hashed: bool = True, leaf: int = 8) -> dict[str, Any]:
    return {
        "store": store,
        "crypto_hash": hashed,
        "index_config": {"branching-factor": leaf},
        "initial_tx": SCHEMA,
    }


async def written(config: dict[str, Any]) -> None:
    """Make a database of some flushes, with a merge in what came since the last."""
    await d.create_database(config)
    for part in range(3):
        async with d.connect(config, limits=FLUSHED) as conn:
            for i in range(4):
                ids = range(100 * part + 10 * i, 100 * part + 10 * i + 6)
                await conn.transact([{":id": n, ":n": f"text {n}"} for n in ids])
            await conn.transact([{":id": 1, ":n": f"text of part {part}"}])
            if part == 2:
                await conn.transact(
                    "[{:db/ident :later :db/valueType :db.type/long :db/index true"
                    "  :db/cardinality :db.cardinality/many}]"
                )
    async with d.connect(config, limits=KEPT) as conn:
        await conn.transact([{":id": 5, ":n": "late"}])
        await d.branch(conn, ":db", ":other")
        async with d.connect(config, branch=":other", limits=KEPT) as other:
            await other.transact([{":id": 7, ":n": "theirs"}])
        await conn.transact([{":id": 2, ":later": [1, 2]}])
        await d.merge(conn, ":other")
        await conn.transact([{":id": 3, ":later": 3}])


async def read_all(config: dict[str, Any]) -> int:
    """Read all that a database holds, through every index and every commit of its past."""
    count = 0
    async with d.connect(config) as conn:
        for index in ("eavt", "aevt", "avet"):
            count += len(await conn.db().datoms(index))
            count += len(await conn.db().history().datoms(index))
        async for db in d.branch_history(conn):
            count += db.max_tx
    return count


@pytest.fixture(scope="module", params=[True, False], ids=["hashed", "not"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a database lies that may be copied; whether its commits are hashes is a parameter."""
    path: Path = tmp_path_factory.mktemp("audit") / "db"
    store = {"backend": "file", "id": uuid4(), "path": str(path)}
    anyio.run(written, made_of(store, hashed=request.param))
    return path


async def copied(folder: Path, name: str, to: Path) -> dict[str, Any]:
    """Return a config of a copy of what :func:`written` made, in files or in memory."""
    shutil.copytree(folder, to)
    config = {"store": {"backend": "file", "path": str(to)}}
    if name == "memory":
        target = {"store": {"backend": "memory", "id": str(uuid4())}}
        await d.backup(config, target)
        return target
    return config


@pytest.mark.parametrize(("anyio_backend", "name"), [("asyncio", "memory"), ("trio", "file")])
@pytest.mark.parametrize("folder", [True], indirect=True)
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forgery_is_found_that_no_checksum_shows(
    forgery: str, name: str, folder: Path, tmp_path: Path
) -> None:
    config = await copied(folder, name, tmp_path / "copy")
    report = await d.verify_chain(config, deep=True)
    assert report.ok, str(report)
    assert report.commits == 23
    async with forging.store_of(config) as store:
        await FORGERIES[forgery](store)
    assert await read_all(config)
    shallow = await d.verify_chain(config)
    assert shallow.status == (":ok" if forgery in DEEP else ":mismatch"), str(shallow)
    deep = await d.verify_chain(config, deep=True)
    assert deep.status == ":mismatch", str(deep)
    assert {finding.kind for finding in deep.mismatches} == {"mismatch"}


@pytest.mark.parametrize("folder", [False], indirect=True)
async def test_without_hashes_nothing_is_proven(folder: Path, tmp_path: Path) -> None:
    for forgery in ("change_parent", "change_entry", "older_roots_hashed"):
        config = await copied(folder, "file", tmp_path / forgery)
        async with forging.store_of(config) as store:
            await FORGERIES[forgery](store)
        assert await read_all(config)
        report = await d.verify_chain(config, deep=True)
        assert (report.status, report.ok, report.commits) == (":advisory", False, 0)
        assert ":crypto-hash?" in str(report)


@pytest.mark.parametrize(
    ("anyio_backend", "name"), [("asyncio", "file"), ("trio", "memory"), ("trio", "lmdb")]
)
async def test_what_was_written_is_what_its_commits_say(
    name: str, tmp_path: Path, servers: Servers
) -> None:
    config = made_of(store_on(name, tmp_path, servers), leaf=64)
    await written(config)
    async with d.connect(config, limits=SMALL) as conn:
        before = conn.db()
        for n in range(3):
            await conn.transact_many([[{":id": 300 + 9 * n + i, ":n": "x"}] for i in range(4)])
        # Into the trees at once.
        await conn.transact([{":id": n, ":n": f"much {n}"} for n in range(1000, 2100)])
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(conn.transact, [{":id": 5000 + n, ":n": "at once"}])
        await d.tag(conn, ":kept", d.commit_id(before))
        await d.branch(conn, d.commit_id(before), ":old")
        await d.rename_branch(conn, ":old", ":older")
        value = await conn.db().with_([{":id": 9, ":n": "forced"}])
        await d.force_branch(conn, value.db_after, ":forced", [":db", ":older"])
        async with d.connect(config, branch=":older", limits=SMALL) as older:
            await older.transact([{":id": 6000, ":n": "older"}])
            assert (await d.verify_chain(older, deep=True)).ok
        await d.merge(conn, ":older", on_conflict="ours")
        async with d.connect(config, branch=":forced", limits=SMALL) as forced:
            await forced.transact([{":id": 7000, ":n": "on top"}])
            report = await d.verify_chain(forced, deep=True)
            assert report.ok, str(report)
        report = await d.verify_chain(conn, deep=True)
        assert report.ok, str(report)
        line = [db.commit_id async for db in d.branch_history(conn)]
        assert report.commits == len(line) == len(set(line))
        assert (await d.verify_chain(before)).commits == 23
        limited = await d.verify_chain(conn, limit=7)
        assert (limited.status, limited.commits) == (":ok", 7)
    # Nobody who opens it finds other ids than were told.
    async with d.connect(config) as conn:
        assert [db.commit_id async for db in d.branch_history(conn)] == line
        assert (await d.verify(conn, deep=True)).ok


async def test_a_commit_is_a_hash_of_its_parents_and_of_its_part_of_the_log(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True, limits=KEPT) as conn:
        await conn.transact_many([[{":id": 1}], [{":id": 2}]])
    async with forging.store_of(config) as store:
        state = await forging.state_of(store)
    data = state.tail.records[-1]
    record, entries = decode_record(data, "here"), entries_of(data)
    below = decode_record(state.tail.records[-2], "here").commit
    for id_, entry in zip(record.commits, entries, strict=True):
        hashed = sha256(b"datahike-async commit")
        for part in (record.publication.bytes, below.bytes, entry):
            hashed.update(len(part).to_bytes(8, "big") + part)
        number = int.from_bytes(hashed.digest()[:12], "big")
        assert id_.int >> 96 == tx_of_commit(id_) == record.entries[0].tx + (entry is entries[1])
        bits = 0xFFF0FFF3FFFFFFFFFFFFFFFF & ~(0x3 << 62 | 0xF << 76)
        assert id_.int & bits == number & bits
        assert id_.version == 8
        below = id_


async def test_a_copy_has_the_same_commits_and_hashes_whatever_the_layout(
    config: dict[str, Any], tmp_path: Path
) -> None:
    await written(config)
    other = {"backend": "lmdb", "path": str(tmp_path / "lmdb")}
    copies = [{"store": {"backend": "file", "path": str(tmp_path / "file")}}, {"store": other}]
    async with d.connect(config) as conn:
        line = [db.commit_id async for db in d.branch_history(conn)]
    hashes = await hashes_of(config)
    assert hashes
    for copy in copies:
        await d.backup(config, copy)
        assert await hashes_of(copy) == hashes
        report = await d.verify_chain(copy, deep=True)
        assert report.ok, str(report)
        async with d.connect(copy) as conn:
            assert [db.commit_id async for db in d.branch_history(conn)] == line
            await conn.transact([{":id": 1, ":n": "on the copy"}])
            assert (await d.verify_chain(conn, deep=True)).ok


async def hashes_of(config: dict[str, Any]) -> set[bytes]:
    async with forging.store_of(config) as store:
        state = await forging.state_of(store)
        base = state.head.base
        roots = base.trees["roots"].values()
        tops = {top.child.address.hash for root in roots for top in forging.FACTORY.tops(root)}
        return {*tops, base.hash}


async def test_a_past_that_was_collected_is_incomplete(config: dict[str, Any]) -> None:
    await written(config)
    async with d.connect(config, limits=KEPT) as conn:
        old = conn.db()
        await d.gc_storage(conn, retain={"commits": 2})
        for deep in (False, True):
            report = await d.verify_chain(conn, deep=deep)
            assert (report.status, report.ok) == (":incomplete", False)
            assert not report.missing + report.mismatches, str(report)
            assert 2 <= report.commits < 23
        assert (await d.verify_chain(conn, limit=2)).status == ":ok"
        assert (await d.verify_chain(old)).status == ":incomplete"


async def test_a_past_that_was_taken_back_is_missed_by_who_knows_a_commit(
    config: dict[str, Any],
) -> None:
    await written(config)
    async with d.connect(config, limits=KEPT) as conn:
        known = conn.db()
    async with forging.store_of(config) as store:
        state = await forging.state_of(store)
        await forging.publish(store, state, state.head.base, state.tail.records[:-1])
    assert (await d.verify_chain(config, deep=True)).ok
    report = await d.verify_chain(known)
    assert (report.status, report.commits) == (":incomplete", 0)
    assert str(known.commit_id) in str(report)


async def test_what_is_missing_is_said(config: dict[str, Any]) -> None:
    await written(config)
    async with forging.store_of(config) as store:
        base = (await forging.state_of(store)).head.base
        await store.dissoc(checkpoint_key(base.back[0].id))
    report = await d.verify_chain(config)
    assert report.status == ":incomplete"
    assert [finding.kind for finding in report.missing] == ["missing"]


async def test_nothing_is_purged_where_commits_are_hashes(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        report = await conn.transact([{":id": 1, ":n": "secret"}])
        [e] = {x.e for x in await report.db_after.datoms("avet", ":id", 1)}
        for purge in (
            conn.transact([[":db.purge/entity", e]]),
            d.purge(conn, [[":db.purge/entity", e]]),
        ):
            with pytest.raises(d.TransactionError, match=":crypto-hash\\?") as caught:
                await purge
            assert caught.value.error == ":transact/purge"
        await conn.transact([{":id": 1, ":n": "public"}])
        assert (await d.verify_chain(conn, deep=True)).ok


async def test_two_writers_never_make_one_commit(config: dict[str, Any]) -> None:
    """Also where they say the same at the same instant, on top of the same commit."""
    async with d.connect(config, create=True, limits=KEPT) as conn:
        await d.branch(conn, ":db", ":twin")
        clock = replace(SYSTEM, now=lambda: datetime(2030, 1, 1, tzinfo=UTC))
        async with d.connect(config, branch=":twin", limits=KEPT) as twin:
            for one in (conn, twin):
                one._transactor.branch.env = clock
            mine = await conn.transact([{":n": "same"}])
            theirs = await twin.transact([{":n": "same"}])
    assert d.parent_commit_ids(mine.db_after) == d.parent_commit_ids(theirs.db_after)
    assert d.commit_id(mine.db_after) != d.commit_id(theirs.db_after)


async def test_only_databases_are_audited(config: dict[str, Any]) -> None:
    for value in (3, None, d.empty_db):
        with pytest.raises(d.ArgumentError) as caught:
            await d.verify_chain(value)
        assert caught.value.error == ":audit/expected-db"
    with pytest.raises(d.ArgumentError) as caught:
        await d.verify_chain(d.empty_db())
    assert caught.value.error == ":audit/no-head"
    for limit in (0, -1, True, 1.5):
        with pytest.raises(d.ArgumentError, match="limit"):
            await d.verify_chain(config, limit=limit)
    with pytest.raises(d.DatabaseNotFound):
        await d.verify_chain(config)


async def test_a_branch_that_was_merged_and_deleted_is_no_fault(config: dict[str, Any]) -> None:
    await written(config)
    async with d.connect(config, limits=KEPT) as conn:
        await d.delete_branch(conn, ":other")
        report = await d.verify_chain(conn, deep=True)
        assert (report.status, report.missing, report.mismatches) == (":incomplete", (), ())
        assert report.commits == 22


async def test_the_option_is_fixed_at_creation(config: dict[str, Any]) -> None:
    await d.create_database(config)
    with pytest.raises(d.ConfigError, match=":crypto-hash") as caught:
        await d.connect({**config, "crypto_hash": False})
    assert caught.value.error == ":config-does-not-match-stored-db"
    async with d.connect({"store": config["store"]}) as conn:
        assert conn.config.crypto_hash
        assert (await d.verify_chain(conn)).ok
