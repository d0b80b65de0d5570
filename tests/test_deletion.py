"""A database that is deleted takes along what is its own, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.errors import ConfigError
from datahike_async.konserve import StoreClosed, StoreConfigError, StoreNotFound
from datahike_async.konserve import opening as stores
from tests.servers.programs import S3Server
from tests.stores import store_on

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        *("file", "lmdb"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3-moto", "tiered-file-s3")),
    ]
)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> dict[str, Any]:
    return store_on(request.param, tmp_path, servers)


@pytest.fixture(params=["file", "lmdb"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return {"backend": request.param, "path": str(tmp_path / "db")}


async def create(store: Mapping[str, Any]) -> None:
    async with d.connect(store=dict(store), create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": 1}])


async def found(store: Mapping[str, Any]) -> list[Any]:
    async with d.connect(store=dict(store)) as conn:
        return [x.v for x in await conn.db().datoms("aevt", ":n")]


async def test_the_database_of_another_id_is_not_deleted(store: dict[str, Any]) -> None:
    await create(store)
    other: dict[str, Any] = {**store, "id": str(uuid4())}
    for part in ("frontend-config", "backend-config"):
        if part in other:
            other[part] = {**other[part], "id": other["id"]}
    async with d.connect(store=store) as conn:
        with pytest.raises(ConfigError) as caught:
            await d.delete_database(store=other)
        assert caught.value.error == ":store-identity-mismatch"
        with pytest.raises(StoreConfigError, match="another store"):
            await stores.delete_store(other)
        # Nor is anybody thrown out.
        await conn.transact([{":n": 2}])
    assert await found(store) == [1, 2]
    await d.delete_database(store=store)
    assert not await d.database_exists(store=store)


async def test_files_of_others_in_a_folder_stay(folder: dict[str, Any]) -> None:
    await create(folder)
    path = Path(folder["path"])
    (path / "notes.txt").write_text("mine")
    (path / "photos").mkdir()
    (path / "photos" / "cat").write_text("meow")
    await d.delete_database(store=folder)
    assert not await d.database_exists(store=folder)
    assert sorted(p.name for p in path.iterdir()) == ["notes.txt", "photos"]
    assert (path / "photos" / "cat").read_text() == "meow"
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        await create(folder)
    (path / "notes.txt").unlink()
    (path / "photos" / "cat").unlink()
    (path / "photos").rmdir()
    await create(folder)
    assert await found(folder) == [1]


async def test_what_is_written_after_the_deletion_is_refused_and_in_nobody_s_way(
    folder: dict[str, Any],
) -> None:
    await create(folder)
    notes = Path(folder["path"]) / "notes.txt"
    notes.write_text("mine")
    late = await stores.connect_store(folder)
    await stores.delete_store(folder)
    with pytest.raises((StoreNotFound, StoreClosed)):
        await late.assoc("late", 1)
    await late.release()
    notes.unlink()
    await create(folder)
    assert await found(folder) == [1]


async def test_a_file_named_like_the_rest_of_a_deletion_stays(tmp_path: Path) -> None:
    store = {"backend": "file", "path": str(tmp_path)}
    (tmp_path / "deleted").write_text("what I threw away")
    (tmp_path / "beef.new").write_text("a recipe")
    await stores.delete_store(store)
    with pytest.raises(ConfigError, match="'deleted'"):
        await create(store)
    assert (tmp_path / "deleted").read_text() == "what I threw away"
    assert (tmp_path / "beef.new").read_text() == "a recipe"


async def test_a_folder_with_nothing_else_in_it_goes_too(folder: dict[str, Any]) -> None:
    await create(folder)
    await d.delete_database(store=folder)
    assert not Path(folder["path"]).exists()


@pytest.mark.parametrize("inner", ["file", "lmdb"])
async def test_folders_of_databases_do_not_lie_in_one_another(
    folder: dict[str, Any], inner: str
) -> None:
    nested = {"backend": inner, "path": folder["path"] + "/deep/sub"}
    for first, second in ((folder, nested), (nested, folder)):
        await create(first)
        with pytest.raises(ConfigError, match=r"one another|not empty"):
            await create(second)
        assert await found(first) == [1]
        await d.delete_database(store=first)
        if first is nested:
            Path(folder["path"], "deep").rmdir()


async def test_a_database_that_is_refused_in_a_folder_of_others_leaves_nothing_there(
    folder: dict[str, Any],
) -> None:
    Path(folder["path"]).mkdir()
    Path(folder["path"], "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty and no store: it has 'mine\.txt'"):
        await create(folder)
    assert [file.name for file in Path(folder["path"]).iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("inner", ["file", "lmdb"])
async def test_a_database_that_is_refused_in_an_empty_folder_within_another_s_leaves_it_empty(
    folder: dict[str, Any], inner: str
) -> None:
    await create(folder)
    empty = Path(folder["path"], "empty")
    empty.mkdir()
    with pytest.raises(ConfigError, match="one another"):
        await create({"backend": inner, "path": str(empty)})
    assert not list(empty.iterdir())


@pytest.mark.parametrize("inner", ["file", "lmdb"])
async def test_a_database_that_is_refused_within_another_s_folder_makes_no_folder_there(
    folder: dict[str, Any], inner: str
) -> None:
    await create(folder)
    with pytest.raises(ConfigError, match="one another"):
        await create({"backend": inner, "path": folder["path"] + "/deep/sub"})
    assert not Path(folder["path"], "deep").exists()
    await d.delete_database(store=folder)
    await create(folder)


async def test_deleting_a_database_leaves_one_that_lies_within_its_folder(
    folder: dict[str, Any],
) -> None:
    # As an earlier version, or a move, may have left it.
    await create(folder)
    beside = {**folder, "path": folder["path"] + "-beside"}
    await create(beside)
    Path(beside["path"]).rename(Path(folder["path"], "sub"))
    await d.delete_database(store=folder)
    assert await found({**folder, "path": folder["path"] + "/sub"}) == [1]


async def test_two_that_are_created_within_one_another_at_once_do_not_both_succeed(
    folder: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datahike_async.konserve.backends import folders

    look, inner = folders.refuse_nested, {**folder, "path": folder["path"] + "/sub"}
    meanwhile: list[str] = []

    def overtaken(path: str) -> None:
        look(path)
        if path == inner["path"] and not meanwhile:
            # Between the look and the marker the outer one comes to be.
            meanwhile.append(path)
            outer = Path(folder["path"])
            if folder["backend"] == "file":
                (outer / "store").write_text(f"konserve-file 1 {uuid4()}\n")
            else:
                (outer / "data.mdb").write_bytes(b"")

    for module in ("datahike_async.konserve.backends.file", "datahike_async_lmdb.backend"):
        monkeypatch.setattr(f"{module}.refuse_nested", overtaken)
    with pytest.raises(StoreConfigError, match="one another"):
        await stores.create_store(inner)
    assert meanwhile
    assert not await stores.store_exists(inner)


# -- object stores -----------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path: Path, servers: Callable[[str], S3Server]) -> dict[str, Any]:
    store = store_on("s3-moto", tmp_path, servers)
    del store["id"]
    return store


async def put(store: Mapping[str, Any], name: str) -> None:
    blobs = (await stores.connect_store(store)).blobs
    await blobs._ask("put_object", name, Body=b"mine")  # type: ignore[attr-defined]
    await blobs.close()


async def names(store: Mapping[str, Any]) -> list[str]:
    from datahike_async_s3.backend import _open
    from datahike_async_s3.settings import settings_of

    blobs = await _open(settings_of(store))
    page, _ = await blobs.page()
    await blobs.close()
    return page


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_objects_of_others_under_a_prefix_stay(bucket: dict[str, Any]) -> None:
    await create(bucket)
    for name in ("notes.txt", "photos/cat"):
        await put(bucket, name)
    await d.delete_database(store=bucket)
    assert not await d.database_exists(store=bucket)
    assert await names(bucket) == ["notes.txt", "photos/cat"]
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        await create(bucket)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_prefixes_of_databases_do_not_lie_in_one_another(bucket: dict[str, Any]) -> None:
    nested = {**bucket, "prefix": bucket["prefix"] + "/deep/sub"}
    for first, second in ((bucket, nested), (nested, bucket)):
        await create(first)
        with pytest.raises(ConfigError, match="of its own"):
            await create(second)
        assert await found(first) == [1]
        await d.delete_database(store=first)
    # One whose name only begins alike is another place.
    await create(bucket)
    beside = {**bucket, "prefix": bucket["prefix"] + "-beside"}
    await create(beside)
    await d.delete_database(store=bucket)
    assert await found(beside) == [1]
