"""Configurations of wrappers: what is refused, and what is not shown."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

import datahike_async as d
from datahike_async.konserve import (
    StoreConfigError,
    create_store,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"write-policy": "write-trough"}, "write-through"),
        ({"write-policy": ":frontend-only"}, "write-through"),
        ({"read-policy": ":frontend-only"}, "frontend-first"),
        ({"frontend-config": None}, "frontend-config"),
        ({"backend-config": {"backend": "memory", "id": str(uuid.uuid4())}}, "must be the same"),
        ({"backend-config": {"backend": "file", "pth": "x"}}, "'path'"),
        ({"write-behind-bytes": "many"}, "write-behind-bytes"),
        ({"write-policy": "write-behind", "id": None}, "share what waits"),
    ],
)
async def test_a_tiered_config_that_is_wrong(change: dict[str, Any], part: str) -> None:
    config: dict[str, Any] = {
        "backend": "tiered",
        "id": str(uuid.uuid4()),
        "frontend-config": {"backend": "memory"},
        "backend-config": {"backend": "memory"},
        **change,
    }
    with pytest.raises(StoreConfigError, match=part):
        await create_store(config)


async def test_a_database_is_never_taken_for_a_frontend(tmp_path: Path) -> None:
    mine = {"backend": "file", "path": str(tmp_path / "mine")}
    other = {"backend": "file", "path": str(tmp_path / "other")}
    made = await d.create_database(store=mine, schema_flexibility="read")
    async with d.connect(store=mine) as conn:
        await conn.transact([{":n": 1}])
    for id_ in ({}, {"id": made.store["id"]}):
        tiers = {"backend": "tiered", "frontend-config": mine, "backend-config": other, **id_}
        with pytest.raises(d.ConfigError, match=r"holds data|another store"):
            await d.create_database(store=tiers)
        assert not (tmp_path / "other").exists()
    await d.create_database(store={**other, **id_})
    with pytest.raises(d.ConfigError, match="holds data"):
        async with d.connect(store=tiers):
            pass
    with pytest.raises(d.ConfigError, match="holds data"):
        await d.delete_database(store=tiers)
    async with d.connect(store=mine) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 1


async def test_a_store_is_not_its_own_frontend(tmp_path: Path) -> None:
    path = tmp_path / "store"
    (tmp_path / "link").symlink_to(path)
    for front, back in (
        ({"backend": "memory"}, {"backend": "memory"}),
        ({"backend": "file", "path": str(path)}, {"backend": "file", "path": path}),
        ({"backend": "file", "path": str(tmp_path / "link")}, {"backend": "lmdb", "path": path}),
    ):
        config = {"backend": "tiered", "id": str(uuid.uuid4())}
        with pytest.raises(StoreConfigError, match="same store"):
            await create_store({**config, "frontend-config": front, "backend-config": back})
    assert not path.exists()


async def test_secrets_of_the_inner_stores_are_not_shown() -> None:
    inner = {":backend": ":memory", ":secret": "CANARY"}
    config = {"backend": "tiered", "frontend-config": inner, "backend-config": inner}
    made = d.Config.of(store={**config, "id": str(uuid.uuid4())})
    assert "CANARY" not in repr(made) + str(made.to_map())
    with pytest.raises(d.DatahikeError) as caught:
        await d.create_database(made)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("bad", [-1, "many", 1.5, True])
async def test_a_bound_that_is_none(bad: Any) -> None:
    with pytest.raises(StoreConfigError, match="max-bytes"):
        await create_store(
            {"backend": "caching", "config": {"backend": "memory"}, "max-bytes": bad}
        )


@pytest.mark.parametrize("change", [{"attempts": 0}, {"deadline": "long"}, {"first-pause": -1}])
async def test_patience_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(StoreConfigError, match=next(iter(change))):
        await create_store({"backend": "retrying", "config": {"backend": "memory"}, **change})
