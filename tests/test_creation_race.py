"""Two who create one database at once: one of them wins, and what the winner wrote stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async import lifecycle
from datahike_async.errors import DatabaseExists, StorageError
from datahike_async.konserve.errors import StoreDenied

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return store


async def names(store: dict[str, Any]) -> list[Any]:
    async with d.connect(store=store) as conn:
        return [x.v for x in await conn.db().datoms("aevt", ":name")]


@pytest.mark.parametrize("refused", [False, True], ids=["slower", "refused"])
async def test_the_store_of_the_slower_one_is_not_deleted_with_the_database_of_the_faster(
    store: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = lifecycle.write_first_head

    async def overtaken(*arguments: Any) -> None:
        # The store was made; before its head is written somebody else takes it for theirs.
        monkeypatch.setattr(lifecycle, "write_first_head", write)
        await d.create_database(store=store, schema_flexibility="read")
        async with d.connect(store=store) as conn:
            await conn.transact([{":name": "Ada"}])
        if refused:
            raise StoreDenied("injected")
        await write(*arguments)

    monkeypatch.setattr(lifecycle, "write_first_head", overtaken)
    with pytest.raises(StorageError if refused else DatabaseExists):
        await d.create_database(store=store, schema_flexibility="read")
    assert await names(store) == ["Ada"]


async def test_what_could_not_be_created_leaves_no_store(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any) -> None:
        raise StoreDenied("injected")

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "write_first_head", refused)
        with pytest.raises(StorageError):
            await d.create_database(store=store)
    await d.create_database(store=store)
