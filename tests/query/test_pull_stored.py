"""Pull on a database that was opened from a store: nodes are fetched, in few waves."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

import datahike_async as d
from datahike_async.index.source import Reading

pytestmark = pytest.mark.anyio

PEOPLE = 6000
FIRST = 1000
CODED = range(1, PEOPLE, 7)


@pytest.fixture
async def config(tmp_path: Path, anyio_backend: str) -> dict[str, Any]:
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db"), "id": str(uuid.uuid4())},
        "schema_flexibility": "read",
    }
    await d.create_database(config)
    async with d.connect(config) as conn:
        await conn.transact(
            [
                {
                    ":db/ident": ":boss",
                    ":db/valueType": ":db.type/ref",
                    ":db/cardinality": ":db.cardinality/one",
                },
                {
                    ":db/ident": ":code",
                    ":db/valueType": ":db.type/string",
                    ":db/cardinality": ":db.cardinality/one",
                    ":db/unique": ":db.unique/identity",
                },
            ]
        )
        await conn.transact(
            [
                {":db/id": FIRST + i, ":name": f"n{i}", ":age": i % 90, ":boss": FIRST + i // 10}
                for i in range(PEOPLE)
            ]
        )
        await conn.transact([[":db/add", FIRST + i, ":code", f"c{i}"] for i in CODED])
    return config


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the waves of reads, and the nodes of each, that a pull had to wait for."""
    counted: list[int] = []
    real = Reading.fetch

    async def fetch(self: Reading, miss: Any) -> None:
        counted.append(len(miss.addresses))
        await real(self, miss)

    monkeypatch.setattr(Reading, "fetch", fetch)
    return counted


async def test_cold_pulls_find_what_is_stored(config: dict[str, Any]) -> None:
    async with d.connect(config) as conn:
        db = conn.db()
        assert await db.pull("[:name {:boss [:name]}]", FIRST + 4321) == {
            ":name": "n4321",
            ":boss": {":name": "n432"},
        }
        assert await db.pull("[{:_boss [:name]}]", FIRST + 500) == {
            ":_boss": [{":name": f"n{i}"} for i in range(5000, 5010)]
        }
    async with d.connect(config) as conn:
        found = await conn.db().pull_many("[*]", range(FIRST, FIRST + PEOPLE))
        assert len(found) == PEOPLE
        assert found[-1] == {
            ":db/id": FIRST + PEOPLE - 1,
            ":name": "n5999",
            ":age": 59,
            ":boss": {":db/id": FIRST + 599},
        }
    async with d.connect(config) as conn:
        found = await conn.db().pull("[:name {:boss 3}]", FIRST + 5999)
        assert found == {
            ":name": "n5999",
            ":boss": {
                ":name": "n599",
                ":boss": {":name": "n59", ":boss": {":name": "n5"}},
            },
        }


async def test_scattered_entities_are_fetched_together(
    config: dict[str, Any], waves: list[int]
) -> None:
    scattered = [FIRST + i for i in range(0, PEOPLE, 300)]
    async with d.connect(config) as conn:
        found = await conn.db().pull_many("[:name :age]", scattered)
        assert [m[":name"] for m in found] == [f"n{e - FIRST}" for e in scattered]
    # A wave for each level of the tree, not one for each entity.
    assert max(waves) > 5
    assert len(waves) <= 4


async def test_many_lookup_refs_are_found_in_as_many_waves_as_one(
    config: dict[str, Any], waves: list[int]
) -> None:
    refs = [[":code", f"c{i}"] for i in CODED]
    async with d.connect(config) as conn:
        found = await conn.db().pull_many("[:age {:boss [:name]}]", refs)
        assert len(found) == len(refs)
        assert found[-1] is not None
    # The levels below the root of AVET and of EAVT or AEVT, and of that once more for the bosses.
    assert len(waves) <= 4
