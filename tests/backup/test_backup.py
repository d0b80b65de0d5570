"""Backups and restores: the same database at another place, whichever backend holds it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.registry import Registry, read_registry
from datahike_async.storage.receiving import Receiver
from tests.backup.copies import (
    SMALL,
    assert_same,
    copied_and_grown,
    grow,
    in_file,
    memory,
    opened_copy,
    source,
)
from tests.stores import LOCAL, Servers, on_loops, store_on

pytestmark = pytest.mark.anyio

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
