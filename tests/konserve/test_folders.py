"""Folders that stores lie in: who may look into them, and what is no path."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import anyio
import pytest

from datahike_async.konserve import (
    RevisionMismatch,
    StoreConfigError,
    StoreNotFound,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)
from datahike_async.konserve.backends.file import FileBackend, FileBlobStore

pytestmark = pytest.mark.anyio


async def test_nobody_else_may_look_into_what_is_made_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = await create_store({"backend": "file", "path": tmp_path / "a" / "b" / "s"})
        revision = await store.assoc("k", 1)
        await store.journal_append("k", b"record", expected_revision=revision)
        await store.release()
    finally:
        os.umask(before)
    made = list(tmp_path.rglob("*"))
    assert len(made) > 5
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "deep" / "s"):
        config = {"backend": backend, "path": path}
        with pytest.raises(StoreConfigError, match=f"{file}' is no folder") as caught:
            await create_store(config)
        assert caught.value.data["key"] == "path"
        assert not await store_exists(config)
        await delete_store(config)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("path", ["with\0nul", "", "\ud800", b"bytes", 7, None])
async def test_what_is_no_path_is_refused_by_name(path: Any) -> None:
    wrong = {"backend": "file", "path": path}
    for call in (create_store, connect_store, store_exists, delete_store):
        with pytest.raises(StoreConfigError, match="path"):
            await call(wrong)
    right = {"backend": "memory", "id": uuid.uuid4()}
    for wrapper in (
        {"backend": "caching", "config": wrong},
        {"backend": "tiered", "frontend-config": wrong, "backend-config": right},
    ):
        with pytest.raises(StoreConfigError, match="path"):
            await create_store({**wrapper, "id": right["id"]})


@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_nothing_that_was_meant_for_a_deleted_store_gets_into_the_next_one_of_its_folder(
    tmp_path: Path, backend: str
) -> None:
    """A folder that is reached by a link stays when its store is deleted."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    config = {"backend": backend, "path": tmp_path / "link"}
    before = await create_store(config)
    revision = await before.assoc("k", 1)
    await delete_store(config)
    after = await create_store(config)
    await after.assoc("k", 2)
    for call in (
        lambda: before.assoc("k", 3),
        lambda: before.assoc("k", 3, expected_revision=revision),
        lambda: before.assoc("new", 3),
        lambda: before.dissoc("k"),
        lambda: before.multi_dissoc(["k"]),
    ):
        with pytest.raises((StoreNotFound, RevisionMismatch)):
            await call()
    assert not await after.exists("new")
    assert await after.get("k") == 2
    await before.release()
    await after.release()


async def test_a_store_that_takes_the_place_of_one_that_is_just_opened_is_known_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before, after = str(tmp_path / "s"), uuid.uuid4(), uuid.uuid4()
    await (await create_store({"backend": "file", "path": path, "id": before})).release()

    opening = FileBlobStore.__init__

    def replaced(self: FileBlobStore, at: str, **options: Any) -> None:
        monkeypatch.undo()
        shutil.rmtree(at)
        FileBackend()._create(at, after, 10).close_now()
        opening(self, at, **options)

    def replacing() -> None:
        monkeypatch.setattr(FileBlobStore, "__init__", replaced)

    replacing()
    with pytest.raises(StoreConfigError, match=f"has the id {after}, not {before}"):
        await connect_store({"backend": "file", "path": path, "id": before})
    before, after = after, uuid.uuid4()
    replacing()
    store = await connect_store({"backend": "file", "path": path})
    assert store.blobs.identity == after
    await store.release()


FORKED = """
    import os, sys, threading, time
    import anyio
    from datahike_async.konserve import StoreClosed, connect_store, create_store

    config = {"backend": sys.argv[1], "path": sys.argv[2]}

    async def write(store, n):
        await store.assoc("k", n)

    async def opened():
        store = await create_store(config)
        await store.assoc("k", 1)
        return store

    store = anyio.run(opened)

    async def child():
        try:
            print(await store.get("k"))
        except StoreClosed as error:
            print(error)
        await store.release()
        again = await connect_store(config)
        print(await again.get("k"))
        await again.assoc("k", 2)
        await again.release()

    # As where a thread of the parent has just taken one.
    state = getattr(store.blobs, "_state", None) or store.blobs._guard._state
    state.acquire()
    pid = os.fork()
    if not pid:
        anyio.run(child)
        sys.stdout.flush()
        os._exit(0)
    state.release()
    os.waitpid(pid, 0)

    async def parent():
        print(await store.get("k"))
        await store.release()

    anyio.run(parent)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_a_forked_child_is_refused_a_store_of_its_parent_and_opens_one_of_its_own(
    tmp_path: Path, backend: str
) -> None:
    process = await anyio.run_process(
        [sys.executable, "-c", textwrap.dedent(FORKED), backend, str(tmp_path / "s")], check=False
    )
    refused, *found = process.stdout.decode().splitlines()
    assert "of which this one is a fork" in refused, process.stderr
    assert found == ["1", "2"]
