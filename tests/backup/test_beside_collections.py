"""Backups beside collections and purges, of the source and of the copy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest

import datahike_async as d
from datahike_async.storage import backup as copying
from tests.backup.copies import (
    SMALL,
    assert_same,
    grow,
    in_file,
    memory,
    source,
)

pytestmark = pytest.mark.anyio

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
