"""Folders that stores lie in: who may look into them, and what is no path."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from datahike_async.konserve import (
    StoreConfigError,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)

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
