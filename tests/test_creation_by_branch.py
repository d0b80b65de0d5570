"""Two who create one database with different branches: one of them wins, and is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import OutcomeUnknown, StoreDenied
from datahike_async.storage import creating
from datahike_async.storage.branches import create
from datahike_async.storage.keys import BRANCHES

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return store


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "_patience", lambda claim: 0.0)


async def the_one(store: dict[str, Any], wanted: str) -> None:
    """Check that there is one database, with one branch that is listed and can be written to."""
    for name in ("db", "work"):
        assert await d.database_exists(store=store, branch=name) == (name == wanted)
    async with d.connect(store=store, branch=wanted) as conn:
        assert await d.branches(conn) == {d.kw(wanted)}
        await conn.transact([{":db/doc": "here"}])
        # What is left at the other name is in nobody's way.
        other = "work" if wanted == "db" else "db"
        await d.branch(conn, wanted, other)
        assert await d.branches(conn) == {d.kw(wanted), d.kw(other)}


async def given_up(store: dict[str, Any], branch: str, patch: pytest.MonkeyPatch) -> None:
    """Begin to create a database, and come to an end before its head is written."""
    assoc = create.write_head

    async def denied(store: Any, head: Any, revision: Any) -> None:
        if not head.deleted:
            raise StoreDenied("injected")
        await assoc(store, head, revision)

    with patch.context() as patched:
        patched.setattr(create, "write_head", denied)
        with pytest.raises(d.StorageError):
            await d.create_database(store=store, branch=branch)


async def test_who_is_slower_finds_that_another_branch_was_made(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = create._be_main

    async def overtaken(*arguments: Any) -> None:
        await real(*arguments)
        monkeypatch.setattr(create, "_be_main", real)
        await d.create_database(store=store, branch="work")

    monkeypatch.setattr(create, "_be_main", overtaken)
    with pytest.raises(d.DatabaseExists):
        await d.create_database(store=store, branch="db")
    await the_one(store, "work")


async def test_who_takes_over_does_not_take_what_has_come_meanwhile(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_up(store, "db", monkeypatch)
    real = create.change_registry

    async def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(create, "change_registry", real)
        await d.create_database(store=store, branch="db")
        return await real(*arguments)

    monkeypatch.setattr(create, "change_registry", overtaken)
    with pytest.raises(d.DatabaseExists):
        await d.create_database(store=store, branch="work")
    await the_one(store, "db")


async def test_creations_that_were_given_up_are_in_nobodys_way(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("db", "work", "db", "db", "work"):
        await given_up(store, name, monkeypatch)
        assert not await d.database_exists(store=store, branch=name)
    async with d.connect(store=store, create=True):
        pass
    await the_one(store, "db")


@pytest.mark.parametrize("lost", ["request", "response"])
async def test_a_registry_of_which_no_answer_came_is_written_again(
    store: dict[str, Any], lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assoc = stores.Store.assoc
    failed: list[Any] = []

    async def unsure(self: Any, key: Any, value: Any, **options: Any) -> Any:
        if key == BRANCHES and not failed:
            failed.append(key)
            if lost == "response":
                await assoc(self, key, value, **options)
            raise OutcomeUnknown("injected")
        return await assoc(self, key, value, **options)

    monkeypatch.setattr(stores.Store, "assoc", unsure)
    await d.create_database(store=store)
    assert failed
    await the_one(store, "db")
