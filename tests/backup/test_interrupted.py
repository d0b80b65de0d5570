"""Backups that end half way leave a whole database at the target, or none; the next one goes on."""

from __future__ import annotations

import os
import random
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
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.faults import Fault, FaultPlan, FaultyBlobStore, every_fault
from datahike_async.storage import backup as copying
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.keys import CREATING
from datahike_async.storage.verify import verify_store
from tests.backup.copies import (
    SMALL,
    assert_same,
    commit_of,
    copy_into,
    grow,
    in_file,
    memory,
    opened_copy,
    source,
)

pytestmark = pytest.mark.anyio


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
