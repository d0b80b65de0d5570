"""Backups and restores: the same database at another place, whichever backend holds it."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.env import SYSTEM
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.faults import Fault, FaultPlan, FaultyBlobStore, every_fault
from datahike_async.storage import backup as copying
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.registry import Registry, read_registry
from datahike_async.storage.keys import CREATING
from datahike_async.storage.receiving import Receiver
from datahike_async.storage.verify import verify_store
from datahike_async.transactor.limits import Limits
from tests.stores import LOCAL, Servers, on_loops, store_on

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=60, flush_bytes=8_000, flush_journal_bytes=8_000, close_rows=1)
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/string :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :k :db/valueType :db.type/long :db/cardinality :db.cardinality/many}]
"""


async def grow(conn: d.Connection, start: int, count: int) -> None:
    for i in range(start, start + count):
        rows = [{":n": f"{i} {j}", ":k": [i, j, i + j]} for j in range(12)]
        known = [x.e for x in await conn.db().datoms("avet", ":n")][:1]
        await conn.transact([*rows, *([":db/retractEntity", e] for e in known)])


async def source(config: dict[str, Any], count: int = 6) -> None:
    """Make a database with two branches, several checkpoints and records behind the last."""
    async with d.connect(config, create=True, limits=SMALL) as conn:
        await conn.transact(SCHEMA)
        await grow(conn, 0, count)
        await d.branch(conn, ":db", ":other")
        async with d.connect(config, branch=":other", limits=SMALL) as other:
            await grow(other, 100, 2)
        await grow(conn, count, 2)


def memory() -> dict[str, Any]:
    return {"store": {"backend": "memory", "id": uuid4()}}


def in_file(folder: Path, name: str) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(folder / name)}}


async def assert_same(left: dict[str, Any], right: dict[str, Any]) -> int:
    """Compare all branches and all their commits; return how many commits there are."""
    count = 0
    async with d.connect(left) as ours, d.connect(right) as theirs:
        assert await d.branches(ours) == await d.branches(theirs)
        for branch in sorted(await d.branches(ours)):
            async with d.connect(left, branch=branch) as line:
                async for db in d.branch_history(line):
                    copy = await d.commit_as_db(theirs, db.commit_id)
                    assert copy is not None
                    assert await d.diff(db, copy, transactions=True) == ([], [])
                    assert d.parent_commit_ids(copy) == d.parent_commit_ids(db)
                    count += 1
    return count


# Each pair from one loop by default; the long run asks from both.
PAIRS = [
    pytest.param(
        loop,
        left,
        right,
        id=f"{loop}-{left}-{right}",
        marks=[pytest.mark.slow] if (i + j + k) % 2 else [],
    )
    for k, loop in enumerate(("asyncio", "trio"))
    for i, left in enumerate(LOCAL)
    for j, right in enumerate(LOCAL)
]


@pytest.mark.parametrize(("anyio_backend", "left", "right"), PAIRS)
async def test_a_copy_is_the_database_in_any_backend(
    left: str, right: str, tmp_path: Path, servers: Servers
) -> None:
    config = {"store": store_on(left, tmp_path, servers)}
    target = {"store": store_on(right, tmp_path, servers)}
    await copied_and_grown(config, target)


@pytest.mark.parametrize(("anyio_backend", "name"), on_loops(["s3-moto"]))
async def test_a_copy_moves_to_s3_and_back(name: str, tmp_path: Path, servers: Servers) -> None:
    config = {"store": store_on("lmdb", tmp_path, servers)}
    # On a busy machine moto takes two of several conditional writes, which the probe finds.
    trusting = {":unsafe-unfenced?": True}
    far = {"store": store_on(name, tmp_path, servers), "writer": trusting}
    back = in_file(tmp_path, "back")
    await source(config, 2)
    assert (await d.backup(config, far)).rewritten
    async with d.connect(config, limits=SMALL) as conn:
        await grow(conn, 50, 3)
    assert (await d.backup(config, far)).kept > 0
    assert not (await d.restore(far, back)).rewritten
    report = await d.verify(far, deep=True)
    assert report.ok, str(report)
    assert (await d.verify(back, deep=True)).ok
    await assert_same(config, back)


async def copied_and_grown(config: dict[str, Any], target: dict[str, Any]) -> None:
    await source(config)
    seen: list[tuple[int, int]] = []
    done = await d.backup(config, target, progress=lambda *now: seen.append(now))
    assert done.id == UUID(str(target["store"]["id"]))
    assert done.blobs > 0
    assert done.kept == 0
    assert seen[-1][0] == seen[-1][1]
    assert pickle.loads(pickle.dumps(done)) == done
    assert d.jsonable(done)["commits"][":db"] == str(done.commits[d.kw("db")])
    assert await assert_same(config, target) > 10
    async with d.connect(config, limits=SMALL) as conn:
        await grow(conn, 50, 3)
        await d.delete_branch(conn, ":other")
        await d.branch(conn, ":db", ":new")
    # The last to leave has flushed.
    async with d.connect(config, limits=SMALL) as conn:
        again = await d.backup(conn, target, since=done)
        assert again.commits == {
            d.kw("db"): d.commit_id(conn.db()),
            d.kw("new"): d.commit_id(conn.db()),
        }
        idle = await d.backup(conn, target, since=again)
        assert idle.commits == again.commits
    # What is new alone: nodes that both have are not written again.
    assert 0 < again.bytes < done.bytes
    assert (idle.blobs, idle.bytes) == (0, 0)
    report = await d.verify(target, deep=True)
    assert report.ok, str(report)
    assert report.checkpoints == (await d.verify(config)).checkpoints
    assert await assert_same(config, target) > 10
    # It is a database, and goes its own way: from then on it is no copy.
    async with d.connect(target, limits=SMALL) as copy:
        await grow(copy, 80, 4)
    assert (await d.verify(target, deep=True)).ok
    with pytest.raises(d.DatabaseExists) as refused:
        await d.backup(config, target)
    assert refused.value.error == ":backup/diverged"


async def test_a_restore_makes_a_database_and_overwrites_none(tmp_path: Path) -> None:
    config, kept, made = in_file(tmp_path, "db"), in_file(tmp_path, "kept"), memory()
    await source(config)
    await d.backup(config, kept)
    async with d.connect(config, limits=SMALL) as conn:
        mine = (await d.info(conn)).id
        await grow(conn, 50, 2)
    assert (await d.restore(kept, made)).id == made["store"]["id"]
    await assert_same(kept, made)
    with pytest.raises(d.DatabaseExists, match="does not overwrite"):
        await d.restore(kept, made)
    # The id is that of the source, or the one that is given.
    twin, other = in_file(tmp_path, "twin"), in_file(tmp_path, "other")
    new = uuid4()
    assert (await d.restore(kept, twin)).id == mine
    assert (await d.restore(kept, other, id=new, branches=["other"])).id == new
    async with d.connect({"store": {**other["store"], "id": new}}, branch=":other") as conn:
        assert await d.branches(conn) == {d.kw("other")}
        await conn.transact([{":n": "goes on"}])
    async with d.connect({"store": {**twin["store"], "id": mine}}) as conn:
        await conn.transact([{":n": "goes on"}])


async def test_what_cannot_be_copied_says_why(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config, 1)
    with pytest.raises(d.ConfigError) as refused:
        await d.backup(config, config)
    assert refused.value.error == ":backup/same-place"
    with pytest.raises(d.DatabaseNotFound):
        await d.backup(in_file(tmp_path, "none"), target)
    with pytest.raises(d.DatabaseNotFound) as unknown:
        await d.backup(config, target, branches=[":unknown"])
    assert unknown.value.error == ":branch-does-not-exist"
    for wrong in ({"branches": "db"}, {"branches": []}, {"since": 3}, {"id": "x"}, {"progress": 1}):
        with pytest.raises(d.ArgumentError):
            await d.backup(config, target, **wrong)  # type: ignore[arg-type]
    with pytest.raises(d.ConfigError):
        await d.backup(config, {**target, "read_only": True})
    # Another database, and another's data.
    await source(target, 1)
    with pytest.raises(d.DatabaseExists, match="no copy of this") as exists:
        await d.backup(config, target)
    assert exists.value.error == ":db-already-exists"
    data = memory()
    store = await stores.create_store(data["store"])
    await store.assoc("mine", 1)
    await store.release()
    with pytest.raises(d.ConfigError, match="other data"):
        await d.backup(config, data)
    # A copy that is not where it was.
    copy = memory()
    first = await d.backup(config, copy)
    async with d.connect(config) as conn:
        await grow(conn, 20, 1)
    await d.backup(config, copy)
    with pytest.raises(d.DatabaseExists) as moved:
        await d.backup(config, copy, since=first)
    assert moved.value.error == ":backup/basis-mismatch"
    with pytest.raises(d.ConfigError):
        await d.backup(config, copy, id=uuid4())


async def test_a_copy_that_is_ahead_is_not_set_back(tmp_path: Path) -> None:
    config, copy = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config, 1)
    shutil.copytree(config["store"]["path"], tmp_path / "old")
    async with d.connect(config) as conn:
        await grow(conn, 20, 1)
    await d.backup(config, copy)
    with pytest.raises(d.DatabaseExists) as refused:
        await d.backup(in_file(tmp_path, "old"), copy)
    assert refused.value.error == ":backup/diverged"


async def test_a_branch_made_anew_is_that_one_in_the_copy(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config)
    await d.backup(config, target)
    async with d.connect(config) as conn:
        at = d.commit_id(await d.branch_as_db(conn, ":other"))
        await d.branch(conn, at, ":kept")
        await d.delete_branch(conn, ":other")
        await d.branch(conn, at, ":other")
    await d.backup(config, target)
    store = await opened_copy(target)
    try:
        registry = await read_registry(store)
        for name, listed in registry.branches.items():
            state = await read_branch(store, name, None)
            assert state.head.base.born == listed.publication or name == registry.main, name
    finally:
        await stores.release_store(store)
    await assert_same(config, target)


async def test_a_branch_that_is_written_to_is_not_deleted_in_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config)
    await d.backup(config, target)
    async with d.connect(config) as conn:
        await d.delete_branch(conn, ":other")
    listed = Receiver._listed
    written: list[UUID | None] = []

    async def slowly(self: Receiver, mine: Registry, now: Registry) -> Registry | None:
        if not written:
            async with d.connect(target, branch=":other") as other:
                written.append(d.commit_id((await other.transact([{":n": "late"}])).db_after))
        return await listed(self, mine, now)

    monkeypatch.setattr(Receiver, "_listed", slowly)
    with pytest.raises(d.DatabaseExists) as diverged:
        await d.backup(config, target)
    assert diverged.value.error == ":backup/diverged"
    async with d.connect(target, branch=":other") as other:
        assert d.commit_id(other.db()) == written[0]


async def test_damage_is_not_copied(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config)
    store = await stores.connect_store(config["store"])
    names = [name async for page in store.blobs.names() for name in page]
    sizes = {name: await store.blobs.read(name) for name in names}
    largest = max(names, key=lambda name: len(sizes[name].data))  # type: ignore[union-attr]
    whole = sizes[largest]
    assert whole is not None
    await store.blobs.write(largest, whole.data[:60] + b"??" + whole.data[62:])
    for to in (target, memory()):
        with pytest.raises(d.CorruptData):
            await d.backup(config, to)
        assert not await d.database_exists(to)
    await store.blobs.write(largest, whole.data)
    await store.release()
    await d.backup(config, target)
    await assert_same(config, target)


@pytest.mark.parametrize("anyio_backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
async def test_writers_go_on_meanwhile(tmp_path: Path) -> None:
    config, targets = in_file(tmp_path, "db"), [in_file(tmp_path, "copy"), memory()]
    await source(config, 2)
    async with d.connect(config, limits=SMALL) as conn:
        done = anyio.Event()

        async def write() -> None:
            i = 1000
            while not done.is_set():
                await grow(conn, i, 1)
                await anyio.sleep(0.02)
                i += 1

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for _ in range(3):
                for target in targets:
                    await grow(conn, 5000, 1)
                    before = conn.db().max_tx
                    copied = await d.backup(conn, target)
                    report = await d.verify(target, deep=True)
                    assert report.ok, str(report)
                    async with d.connect(target) as copy:
                        assert copy.db().max_tx >= before
                        assert d.commit_id(copy.db()) == copied.commits[d.kw("db")]
            done.set()
        for target in targets:
            await d.backup(conn, target)
    for target in targets:
        await assert_same(config, target)


async def test_several_copy_to_one_target_at_once(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config)
    failed: list[BaseException] = []

    async def copy() -> None:
        try:
            await d.backup(config, target)
        except d.DatahikeError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(copy)
    assert not failed, failed
    assert (await d.verify(target, deep=True)).ok
    await assert_same(config, target)


# -- ended half way ------------------------------------------------------------------------------


async def opened_copy(config: dict[str, Any]) -> Store:
    """Return a store of a copy, made if need be."""
    if await stores.store_exists(config["store"]):
        return await stores.connect_store(config["store"])
    return await stores.create_store({**config["store"], "id": config["store"].get("id", uuid4())})


async def copy_into(config: dict[str, Any], target: Store) -> None:
    from_ = await stores.connect_store(config["store"])
    try:
        there = await read_branch(target, "db", None)
        id_ = target.id or uuid4() if there is None else there.head.base.store
        await copying.copy_store(copying.Copying(from_, target, id_, SYSTEM))
    finally:
        await from_.release()


async def assert_whole_or_none(target: Store, commits: list[UUID]) -> None:
    """Check that a store holds no database, or a whole one at one of these commits."""
    state = await read_branch(target, "db", None)
    if state is None:
        return
    assert state.commit.id in commits
    found = await verify_store(target, deep=True)
    assert found.findings == []
    assert found.branches >= 1


async def broken_at(
    config: dict[str, Any], target: dict[str, Any], plan: FaultPlan, commits: list[UUID]
) -> None:
    """Copy with a fault, look, copy again without one, look again."""
    store = await opened_copy(target)
    faulty = FaultyBlobStore(
        store.blobs,
        fault=plan.fault,
        at=plan.at,
        persistent=plan.persistent,
        reads=True,
        each_item=True,
        late_by=3,
    )
    with suppress(KonserveError, d.DatahikeError), mock.patch.object(copying, "_PAUSE", 0.0001):
        await copy_into(config, Store(faulty, {"id": store.id}))
    await assert_whole_or_none(store, commits)
    with suppress(KonserveError):
        await faulty.land()
    await assert_whole_or_none(store, commits)
    await copy_into(config, store)
    state = await read_branch(store, "db", None)
    assert state is not None
    assert state.commit.id == commits[-1]
    assert (await verify_store(store, deep=True)).findings == []
    await store.release()


async def calls_of(config: dict[str, Any], target: dict[str, Any]) -> int:
    store = await opened_copy(target)
    counting = FaultyBlobStore(store.blobs, reads=True, each_item=True)
    await copy_into(config, Store(counting, {"id": store.id}))
    await store.release()
    return counting.calls


async def commit_of(config: dict[str, Any]) -> UUID:
    async with d.connect(config) as conn:
        found = d.commit_id(conn.db())
        assert found is not None
        return found


async def every_call_fails(folder: Path, kind: str, step: int, *, earlier: bool) -> int:
    """Have the n-th store call of a copy fail in every way; return how many plans there were."""
    config = memory()
    await source(config, 2)
    base = [await commit_of(config)]
    old: dict[str, bytes] = {}

    def target() -> dict[str, Any]:
        return memory() if kind == "memory" else in_file(folder, str(uuid4()))

    first = target()
    if earlier:
        await d.backup(config, first)
        old = await _stored(first)
        async with d.connect(config, limits=SMALL) as conn:
            await grow(conn, 500, 1)
        base.append(await commit_of(config))
    plans = list(every_fault(await calls_of(config, first)))[::step]
    for plan in plans:
        fresh = target()
        if earlier:
            await _store_again(fresh, old)
        await broken_at(config, fresh, plan, base)
    return len(plans)


async def _stored(config: dict[str, Any]) -> dict[str, bytes]:
    store = await stores.connect_store(config["store"])
    found = {}
    for name in [name async for page in store.blobs.names() for name in page]:
        blob = await store.blobs.read(name)
        assert blob is not None
        found[name] = blob.data
    await store.release()
    return found


async def _store_again(config: dict[str, Any], blobs: dict[str, bytes]) -> None:
    store = await opened_copy(config)
    for name, data in blobs.items():
        await store.blobs.write(name, data)
    await store.release()


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
@pytest.mark.parametrize(
    ("anyio_backend", "kind", "step"), [("asyncio", "memory", 9), ("trio", "file", 61)]
)
async def test_a_call_that_fails_leaves_no_half_database(
    kind: str, step: int, earlier: bool, tmp_path: Path
) -> None:
    assert await every_call_fails(tmp_path, kind, step, earlier=earlier) > 2


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_every_call_that_fails_leaves_no_half_database(
    kind: str, earlier: bool, tmp_path: Path
) -> None:
    assert await every_call_fails(tmp_path, kind, 1, earlier=earlier) > 50


@contextmanager
def _heads_first() -> Iterator[None]:
    """Plant: heads are published before what they name."""
    whole = copying._Copy._copy

    async def late(self: Any, keys: Any) -> None:
        registry = await self._selected()
        receiver = self._receiver
        await receiver.publish(registry)
        receiver.registry = registry
        receiver.there = {
            name: await read_branch(self._target, name, None) for name in registry.branches
        }
        await whole(self, keys)

    with mock.patch.object(copying._Copy, "_copy", late):
        yield


@contextmanager
def _no_log() -> Iterator[None]:
    """Plant: the log is left out."""

    whole = copying._Copy._copy

    async def fewer(self: Any, keys: Any) -> None:
        await whole(self, [key for key in keys if not key.startswith("log/")])

    with mock.patch.object(copying._Copy, "_copy", fewer):
        yield


@contextmanager
def _no_checkpoints() -> Iterator[None]:
    """Plant: only what the newest trees need is copied, and no past."""
    whole = copying._Copy._copy

    async def fewer(self: Any, keys: Any) -> None:
        await whole(self, [key for key in keys if not key.startswith("commit/")])

    with mock.patch.object(copying._Copy, "_copy", fewer):
        yield


@contextmanager
def _blind_retry() -> Iterator[None]:
    """Plant: what could not be written counts as written."""

    async def careless(store: Any, writes: Any) -> None:
        with suppress(KonserveError):
            await right(store, writes)

    right = copying.write_blobs
    with mock.patch.object(copying, "write_blobs", careless):
        yield


PLANTED = {
    "heads first": _heads_first,
    "no log": _no_log,
    "no checkpoints": _no_checkpoints,
    "a failed write counts as done": _blind_retry,
}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("planted", PLANTED)
async def test_the_harness_finds_what_is_planted(planted: str, tmp_path: Path) -> None:
    with PLANTED[planted](), pytest.raises(AssertionError):
        await every_call_fails(tmp_path, "memory", 1, earlier=False)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_nobody_takes_a_half_made_copy_for_a_database(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config)
    store = await opened_copy(target)
    faulty = FaultyBlobStore(store.blobs, fault=Fault.BEFORE, at=4, persistent=True)
    with pytest.raises(KonserveError):
        await copy_into(config, Store(faulty, {"id": store.id}))
    await store.release()
    assert not await d.database_exists(target)
    with pytest.raises(d.DatabaseNotFound):
        await d.connect(target)
    for refused in (d.create_database(target), _connected(target)):
        with pytest.raises(d.ConfigError) as error:
            await refused
        assert error.value.error == ":backup/incomplete"
    other = in_file(tmp_path, "other")
    await source(other, 1)
    with pytest.raises(d.ConfigError) as error:
        await d.backup(other, target)
    assert error.value.error == ":backup/incomplete"
    done = await d.backup(config, target)
    assert done.kept > 0
    await assert_same(config, target)
    # And who gives up removes it.
    await d.delete_database(target)
    await d.create_database(target)


async def _connected(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True):
        raise AssertionError("a half-made copy was opened")


KILLED = """
import sys
import anyio
import datahike_async as d
from datahike_async.storage import backup

write = backup.write_blobs

async def told(store, writes):
    await write(store, writes)
    print("written", flush=True)
    await anyio.sleep(0.02)

backup.write_blobs = told
backup._PACKS = backup._NODES = 2
source, target = ({"store": {"backend": "file", "path": path}} for path in sys.argv[2:])
anyio.run(d.backup, source, target, backend=sys.argv[1])
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_copy_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    await killed(tmp_path, [1, 3, 6, 2], random.Random(1))


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_copy_that_was_killed_often_is_gone_on_with(tmp_path: Path) -> None:
    rng = random.Random(2)
    for i in range(20):
        await killed(tmp_path / str(i), [rng.randrange(9) for _ in range(4)], rng)


async def killed(folder: Path, after: list[int], rng: random.Random) -> None:
    """Kill a copy after so many writes, go on, again and again; then let it come to its end."""
    folder.mkdir(exist_ok=True)
    config, target = in_file(folder, "db"), in_file(folder, "copy")
    await source(config)
    loop = rng.choice(("asyncio", "trio"))
    command = [sys.executable, "-c", KILLED, loop]
    command += [config["store"]["path"], target["store"]["path"]]
    before: set[str] = set()
    for writes in after:
        await anyio.to_thread.run_sync(_kill_after, command, writes)
        if await d.database_exists(target):
            assert (await d.verify(target, deep=True)).ok
        there = {path.name async for path in anyio.Path(target["store"]["path"]).glob("*.ksv")}
        # But for what says that a copy is being made, once it is.
        assert before - there <= {name_of_key(CREATING) + ".ksv"}
        before = there
    done = await d.backup(config, target)
    assert done.kept > 0
    assert (await d.verify(target, deep=True)).ok
    await assert_same(config, target)


def _kill_after(command: list[str], writes: int) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        for _ in range(writes + 1):
            if not process.stdout.readline():
                break
        process.send_signal(signal.SIGKILL)


# -- the plain copy of a folder ------------------------------------------------------------------


async def test_the_plain_copy_of_a_folder_at_rest_is_right(tmp_path: Path) -> None:
    config = in_file(tmp_path, "db")
    await source(config)
    async with d.connect(config, read_only=True):
        await anyio.to_thread.run_sync(shutil.copytree, tmp_path / "db", tmp_path / "plain")
    assert (await d.verify(in_file(tmp_path, "plain"), deep=True)).ok
    await assert_same(config, in_file(tmp_path, "plain"))


async def test_the_plain_copy_of_a_folder_in_use_may_be_wrong(tmp_path: Path) -> None:
    """File by file, with a flush in between: the head comes along, and what it names does not."""
    config, plain = in_file(tmp_path, "db"), in_file(tmp_path, "plain")
    await source(config)
    (tmp_path / "plain").mkdir()
    # As cp does: what there is when it begins, and each as it is when its turn comes.
    entries = sorted(os.listdir(tmp_path / "db"))
    async with d.connect(config, limits=SMALL) as conn:
        await grow(conn, 70, 3)
    for entry in entries:
        with suppress(FileNotFoundError):
            data = await anyio.Path(tmp_path / "db" / entry).read_bytes()
            await anyio.Path(tmp_path / "plain" / entry).write_bytes(data)
    report = await d.verify(plain)
    assert any(finding.kind == "missing" for finding in report.findings), str(report)


# -- beside collections --------------------------------------------------------------------------


@pytest.mark.parametrize(("anyio_backend", "kind"), [("asyncio", "memory"), ("trio", "file")])
async def test_a_copy_of_what_was_collected_has_what_was_kept(tmp_path: Path, kind: str) -> None:
    def place(name: str) -> dict[str, Any]:
        return memory() if kind == "memory" else in_file(tmp_path, name)

    config, targets = place("db"), [memory(), in_file(tmp_path, "copy")]
    await source(config)
    async with d.connect(config, limits=SMALL) as conn:
        await d.tag(conn, ":before")
        await grow(conn, 200, 6)
    for target in targets:
        await d.backup(config, target)
    for keep in (4, 2):
        async with d.connect(config, limits=SMALL) as conn:
            await grow(conn, 100 * keep, 6)
            assert (await d.gc_storage(conn, retain={"commits": keep})).freed > 0
            await grow(conn, 100 * keep + 10, 2)
            assert (await d.verify(conn, deep=True)).ok
        fresh = place(f"fresh {keep}")
        for target in (*targets, fresh):
            await d.backup(config, target)
            report = await d.verify(target, deep=True)
            assert report.ok, str(report)
            async with d.connect(config) as ours, d.connect(target, limits=SMALL) as copy:
                assert await d.tags(copy) == await d.tags(ours)
                assert await d.diff(copy.db(), ours.db()) == ([], [])
                tagged = (await d.tags(ours))[d.kw("before")]
                there = await d.commit_as_db(copy, tagged)
                assert there is not None
                assert await d.diff(there, await d.commit_as_db(ours, tagged)) == ([], [])
                if keep == 4:
                    # The copy is collected as well, and stays one.
                    await d.gc_storage(copy, retain={"commits": 3})
            report = await d.verify(target, deep=True)
            assert report.ok, str(report)
        assert (await d.verify(fresh)).orphans == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_collections_go_on_meanwhile(tmp_path: Path) -> None:
    """In the source, which keeps little, and in the copy."""
    config, targets = in_file(tmp_path, "db"), [in_file(tmp_path, "copy"), memory()]
    await source(config, 2)
    for target in targets:
        await d.backup(config, target)
    async with d.connect(config, limits=SMALL) as conn, d.connect(targets[0]) as copy:
        done = anyio.Event()

        async def collect() -> None:
            i = 1000
            while not done.is_set():
                await grow(conn, i, 1)
                await d.gc_storage(conn, retain={"commits": 2})
                await copy.sync()
                await d.gc_storage(copy, retain={"commits": 1})
                i += 1

        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            for _ in range(3):
                for target in targets:
                    with suppress(d.StorageError):  # overtaken again and again: nothing is shown
                        await d.backup(conn, target)
                    report = await d.verify(target, deep=True)
                    assert report.ok, str(report)
                report = await d.verify(conn, deep=True)
                assert report.ok, str(report)
            done.set()
        for target in targets:
            await d.backup(conn, target)
            report = await d.verify(target, deep=True)
            assert report.ok, str(report)
            async with d.connect(target) as made:
                assert await d.diff(await made.sync(), conn.db()) == ([], [])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_purged_goes_from_the_copy_too(tmp_path: Path) -> None:
    config, targets = in_file(tmp_path, "db"), [memory(), in_file(tmp_path, "copy")]
    await source(config)
    for target in targets:
        await d.backup(config, target)
    async with d.connect(config, limits=SMALL) as conn:
        gone = [x.e for x in await conn.db().datoms("avet", ":n")][5]
        await conn.transact([[":db.purge/entity", gone]])
        await d.delete_branch(conn, ":other")
        await grow(conn, 300, 2)
        assert (await d.verify(conn, deep=True)).ok
    for target in targets:
        await d.backup(config, target)
        report = await d.verify(target, deep=True)
        assert report.ok, str(report)
        assert report.orphans > 0
        async with d.connect(target) as copy:
            assert list(await copy.db().history().datoms("eavt", gone)) == []
            # Until then what held it still lies there, and nothing leads to it.
            await d.gc_storage(copy)
        report = await d.verify(target, deep=True)
        assert report.ok, str(report)
        assert report.orphans == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_collection_in_the_copy_before_its_heads_come_takes_nothing(
    kind: str, tmp_path: Path
) -> None:
    """What was written there by then no head names yet: the copy notices, and writes it again."""
    config = in_file(tmp_path, "db")
    target = memory() if kind == "memory" else in_file(tmp_path, "copy")
    await source(config)
    await d.backup(config, target)
    async with d.connect(config, limits=SMALL) as conn:
        await grow(conn, 300, 4)
    written = copying._Copy._copy
    freed: list[int] = []

    async def collected(self: Any, keys: Any) -> None:
        await written(self, keys)
        if not freed:
            async with d.connect(target) as copy:
                freed.append((await d.gc_storage(copy)).freed)

    with mock.patch.object(copying._Copy, "_copy", collected):
        await d.backup(config, target)
    assert freed[0] > 0
    report = await d.verify(target, deep=True)
    assert report.ok, str(report)
    await assert_same(config, target)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_what_was_written_to_a_copy_is_not_lost_to_a_purge(tmp_path: Path) -> None:
    config, target = in_file(tmp_path, "db"), in_file(tmp_path, "copy")
    await source(config, 2)
    await d.backup(config, target)
    async with d.connect(target) as copy:
        await grow(copy, 700, 1)
        mine = copy.db()
    async with d.connect(config) as conn:
        for i in range(3):
            await grow(conn, 800 + i, 1)
        gone = [x.e for x in await conn.db().datoms("avet", ":n")][5]
        await conn.transact([[":db.purge/entity", gone]])
    with pytest.raises(d.DatabaseExists) as refused:
        await d.backup(config, target)
    assert refused.value.error == ":backup/diverged"
    async with d.connect(target) as copy:
        assert d.commit_id(copy.db()) == d.commit_id(mine)
