"""Entities: maps that are loaded when asked for; what they refer to, components, views."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.index.source import fetched
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

SCHEMA: list[dict[str, Any]] = [
    {":db/ident": ":email", ":db/valueType": ":db.type/string", ":db/cardinality":
     ":db.cardinality/one", ":db/unique": ":db.unique/identity"},
    {":db/ident": ":name", ":db/valueType": ":db.type/string",
     ":db/cardinality": ":db.cardinality/one"},
    {":db/ident": ":aka", ":db/valueType": ":db.type/string",
     ":db/cardinality": ":db.cardinality/many"},
    {":db/ident": ":friend", ":db/valueType": ":db.type/ref",
     ":db/cardinality": ":db.cardinality/many"},
    {":db/ident": ":boss", ":db/valueType": ":db.type/ref",
     ":db/cardinality": ":db.cardinality/one"},
    {":db/ident": ":part", ":db/valueType": ":db.type/ref",
     ":db/cardinality": ":db.cardinality/many", ":db/isComponent": True},
    {":db/ident": ":engine", ":db/valueType": ":db.type/ref",
     ":db/cardinality": ":db.cardinality/one", ":db/isComponent": True},
]  # fmt: skip
DATA: list[dict[str, Any]] = [
    {":db/id": 10, ":email": "ada", ":name": "Ada", ":aka": ["A", "Lady"], ":friend": [11, 12],
     ":boss": 11, ":part": [20, 21], ":engine": 22},
    {":db/id": 11, ":email": "bob", ":name": "Bob", ":friend": [10]},
    {":db/id": 12, ":email": "cy", ":name": "Cy"},
    {":db/id": 20, ":name": "wheel", ":part": [23]},
    {":db/id": 21, ":name": "wheel"},
    {":db/id": 22, ":name": "engine"},
    {":db/id": 23, ":name": "tyre", ":friend": [12]},
    {":db/id": 30, ":db/ident": ":color/red", ":name": "red"},
]  # fmt: skip


@pytest.fixture
async def db() -> d.Database:
    return await d.empty_db(schema_flexibility="write").db_with([*SCHEMA, *DATA])


async def test_an_entity_is_a_map_of_its_attributes(db: d.Database) -> None:
    ada = await db.entity([":email", "ada"])
    assert isinstance(ada, d.Entity)
    assert ada is not None
    assert ada.id == ada[":db/id"] == 10
    assert ada[":name"] == ada[d.kw("name")] == ada.get(":name") == "Ada"
    assert ada[":aka"] == {"A", "Lady"}
    assert ":name" in ada
    assert ":nosuch" not in ada
    assert 5 not in ada
    assert ada.get(":nosuch") is None
    assert ada.get(":nosuch", 7) == 7
    for key in (":nosuch", "name", 5, None):
        with pytest.raises(KeyError):
            ada[key]
    assert set(ada) == {d.kw(n) for n in ("email", "name", "aka", "friend", "boss", "part",
                                          "engine")}  # fmt: skip
    assert len(ada) == 7
    assert dict(ada)[d.kw("name")] == "Ada"
    assert d.entity_db(ada) is ada.db is db
    with pytest.raises(TypeError):
        ada[":name"] = "Eve"  # type: ignore[index]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (":nmae", "The schema has no such attribute. Did you mean :name?"),
        ("name", "Did you mean :name?"),
        (":quite/other", "The schema has no such attribute."),
        (5, "A key is a keyword, such as :person/name."),
    ],
)
async def test_a_key_that_is_misspelt_is_told_of(db: d.Database, key: Any, told: str) -> None:
    ada = await db.entity([":email", "ada"])
    assert ada is not None
    with pytest.raises(KeyError) as caught:
        ada[key]
    assert caught.value.args == (key,)
    assert caught.value.__notes__ == [told]


async def test_a_key_that_is_known_needs_no_note(db: d.Database) -> None:
    bob = await db.entity([":email", "bob"])
    assert bob is not None
    with pytest.raises(KeyError) as caught:
        bob[":boss"]
    assert not hasattr(caught.value, "__notes__")


async def test_what_names_an_entity(db: d.Database) -> None:
    for eid in (30, ":color/red", d.kw("color/red")):
        red = await d.entity(db, eid)
        assert red is not None
        assert red[":name"] == "red"
    for missing in (":color/blue", [":email", "nobody"], [":email", None]):
        assert await db.entity(missing) is None
    empty = await db.entity(999)
    assert empty is not None
    assert (len(empty), bool(empty), dict(empty), empty.id) == (0, False, {}, 999)
    for bad, error in (
        ("name", ":entity-id/syntax"),
        ([":name", "Ada"], ":lookup-ref/unique"),
        ([":email"], ":lookup-ref/syntax"),
    ):
        with pytest.raises(d.QueryError) as caught:
            await db.entity(bad)
        assert caught.value.error == error


async def test_what_was_not_read_says_what_to_await(db: d.Database) -> None:
    ada = await db.entity(10)
    assert ada is not None
    boss = ada[":boss"]
    assert boss.id == boss[":db/id"] == 11
    assert bool(boss)
    for ask in (
        lambda: boss[":name"],
        lambda: boss.get(":name"),
        lambda: ":name" in boss,
        lambda: list(boss),
        lambda: len(boss),
    ):
        with pytest.raises(d.NotLoaded, match=r"await entity\.touch\(\)"):
            ask()
    with pytest.raises(d.NotLoaded, match=r"await entity\.fetch\(':_friend'\)") as caught:
        ada[":_friend"]
    assert caught.value.error == ":entity/not-loaded"
    assert caught.value.data[":entity-id"] == 10
    found = await ada.fetch(":boss")
    assert found is boss
    assert boss[":name"] == "Bob"
    assert "not loaded" in repr(boss[":friend"])
    assert "not loaded" not in repr(ada)


async def test_references_are_fetched_and_stay(db: d.Database) -> None:
    ada = await db.entity(10)
    assert ada is not None
    friends = await ada.fetch(":friend")
    assert {friend[":name"] for friend in friends} == {"Bob", "Cy"}
    assert {friend[":name"] for friend in ada[":friend"]} == {"Bob", "Cy"}
    assert await ada.fetch(":name") == "Ada"
    assert await ada.fetch(":db/id") == 10
    assert await ada.fetch(":nosuch") is None
    # From one that knows its id alone, and back.
    (bob,) = [friend for friend in (await db.entity(10))[":friend"] if friend.id == 11]
    assert {e.id for e in await bob.fetch(":_friend")} == {10}
    assert {e[":name"] for e in bob[":_friend"]} == {"Ada"}
    assert ":_friend" not in [repr(name) for name in bob]
    assert await bob.fetch(":_engine") is None
    assert bob.get(":_engine") is None
    assert ":_engine" not in bob
    wheel = await db.entity(20)
    assert wheel is not None
    assert (await wheel.fetch(":_part"))[":name"] == "Ada"
    for bad in (":_name", ":_nosuch", "friend", 5):
        with pytest.raises(d.ArgumentError):
            await ada.fetch(bad)


async def test_touch_loads_components_and_theirs(db: d.Database) -> None:
    ada = await db.entity(10)
    assert ada is not None
    assert await d.touch(ada) is ada
    assert ada[":engine"][":name"] == "engine"
    (tyre,) = [t for wheel in ada[":part"] if ":part" in wheel for t in wheel[":part"]]
    assert tyre[":name"] == "tyre"
    assert not any(friend.is_loaded for friend in ada[":friend"])
    assert not any(friend.is_loaded for friend in tyre[":friend"])
    fresh = d.jsonable(ada)
    assert fresh[":engine"] == {":db/id": 22, ":name": "engine"}
    assert fresh[":friend"] == [{":db/id": 11}, {":db/id": 12}]
    assert fresh[":part"][0][":part"][0][":name"] == "tyre"
    assert fresh[":aka"] == ["A", "Lady"]
    assert json.loads(json.dumps(ada, default=d.json_default)) == fresh


async def test_components_may_go_round(db: d.Database) -> None:
    db = await db.db_with([[":db/add", 23, ":part", 10]])
    ada = await (await db.entity(10)).touch()
    (tyre,) = [t for wheel in ada[":part"] if ":part" in wheel for t in wheel[":part"]]
    (again,) = tyre[":part"]
    assert again is ada
    assert d.jsonable(ada)[":part"][0][":part"][0][":part"] == [{":db/id": 10}]
    assert await (await db.entity(23)).fetch(":_part") == await db.entity(20)


async def test_equal_is_the_same_entity_of_equal_databases(db: d.Database) -> None:
    ada, again = await db.entity(10), await db.entity([":email", "ada"])
    assert ada == again
    assert len({ada, again}) == 1
    assert ada != await db.entity(11)
    assert ada != 10
    assert (await db.entity(11))[":friend"] == {ada}
    later = await db.db_with([{":db/id": 11, ":name": "Rob"}])
    assert await later.entity(10) != ada


async def test_values_that_python_takes_for_equal_stay_apart() -> None:
    db = await d.empty_db(schema_flexibility="read").db_with(
        [{":db/ident": ":x", ":db/cardinality": ":db.cardinality/many"}]
    )
    db = await db.db_with([{":db/id": 5, ":x": [1, 1.0, True]}])
    found = await db.entity(5)
    assert found is not None
    assert len(found[":x"]) == 3


async def test_views_show_what_was_and_whoever_referred(tmp_path: Any) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}}
    async with d.connect(config, create=True, limits=Limits(close_rows=1)) as conn:
        await conn.transact(SCHEMA)
        first = await conn.transact(DATA)
        await conn.transact(
            [
                [":db/add", 10, ":name", "Eve"],
                [":db/retract", 10, ":friend", 11],
                [":db/add", 12, ":friend", 11],
            ]
        )
    async with d.connect(config) as conn:
        db = conn.db()
        now, then = await db.entity(10), await db.as_of(first.tx).entity(10)
        assert now is not None
        assert then is not None
        assert (now[":name"], then[":name"]) == ("Eve", "Ada")
        assert {e.id for e in now[":friend"]} == {12}
        assert {e.id for e in then[":friend"]} == {11, 12}
        assert {e[":name"] for e in await (await db.entity(11)).fetch(":_friend")} == {"Cy"}
        assert {
            e[":name"] for e in await (await db.as_of(first.tx).entity(11)).fetch(":_friend")
        } == {"Ada"}
        every = await db.history().entity(10)
        assert every is not None
        assert every[":name"] == {"Ada", "Eve"}
        assert {e.id for e in every[":friend"]} == {11, 12}
        new = await db.since(first.tx).entity(10)
        assert new is not None
        assert {repr(name) for name in new} == {":name"}
        speculative = await (await db.db_with([{":db/id": 10, ":name": "Zoe"}])).entity(10)
        assert speculative is not None
        assert speculative[":name"] == "Zoe"


async def test_what_an_entity_refers_to_is_read_in_few_waves(tmp_path: Any) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}}
    async with d.connect(config, create=True, limits=Limits(close_rows=1)) as conn:
        await conn.transact(SCHEMA)
        await conn.transact([{":db/id": 100 + i, ":name": f"n{i}"} for i in range(5000)])
        await conn.transact([{":db/id": 10, ":friend": list(range(100, 5100, 25))}])
    async with d.connect(config) as conn:
        ten = await conn.db().entity(10)
        assert ten is not None
        waves: list[int] = []
        token = fetched.set(waves)
        try:
            friends = await ten.fetch(":friend")
        finally:
            fetched.reset(token)
        assert len({friend[":name"] for friend in friends}) == 200
        assert 1 <= len(waves) <= 4
