"""Names that later versions will bring say so when asked; until they are there they are not."""

from __future__ import annotations

from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.planned import _NAMES, FUNCTIONS, FUNCTIONS_OF_CONNECTIONS

pytestmark = pytest.mark.anyio

LATER = "comes with a later version"


@pytest.mark.parametrize("name", sorted(_NAMES))
def test_the_module_says_so(name: str) -> None:
    assert not hasattr(d, name)
    with pytest.raises(AttributeError, match=f"^{name} {LATER}"):
        getattr(d, name)


async def test_databases_and_connections_say_so() -> None:
    config = {"store": {"backend": "memory", "id": uuid4()}}
    await d.create_database(config)
    async with d.connect(config) as conn:
        for owner in (conn, conn.db(), conn.db().history()):
            for name in ("load_entities", "valid_at"):
                assert not hasattr(owner, name)
                with pytest.raises(AttributeError, match=f"^{name} {LATER}"):
                    getattr(owner, name)


def test_what_nobody_plans_has_the_usual_error() -> None:
    for owner, name in ((d, "datahike_async"), (d.empty_db(), "A Database")):
        with pytest.raises(AttributeError, match=f"^{name} has no attribute 'nosuch'$") as caught:
            owner.nosuch  # noqa: B018
        assert (caught.value.name, caught.value.obj) == ("nosuch", owner)
    with pytest.raises(ImportError):
        from datahike_async import nosuch  # noqa: F401


async def test_a_name_that_the_other_one_of_connection_and_database_has_says_so() -> None:
    async with d.connect(store={"backend": "memory"}, create=True) as conn:
        for name in ("q", "pull", "as_of"):
            with pytest.raises(AttributeError, match=rf"'{name}'; .*: conn\.db\(\)\.{name}$"):
                getattr(conn, name)
        for name in ("transact", "sync"):
            with pytest.raises(AttributeError, match=rf"'{name}'; .*: conn\.{name}$"):
                getattr(conn.db(), name)


def test_a_connection_whose_await_was_forgotten_says_so() -> None:
    opening = d.connect(store={"backend": "memory"}, create=True)
    with pytest.raises(AttributeError, match=r"'db'; await it first: conn = await connect"):
        opening.db()
    assert "await it" in repr(opening)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("clause", ["[({} ?n)]", "[({} $ :name ?n) [[?x]]]"])
async def test_queries_say_so(name: str, clause: str) -> None:
    db = d.init_db([(1, ":name", "Ada")])
    with pytest.raises(d.QueryError, match=f"{name} {LATER}") as caught:
        await db.q(f"[:find ?e :where [?e :name ?n] {clause.format(name)}]")
    assert caught.value.error == ":query/where"
    d.register_function(name, lambda *_: [[1]])
    try:
        assert await db.q(f"[:find ?e :where [?e :name ?n] {clause.format(name)}]") == {(1,)}
    finally:
        d.unregister_function(name)


@pytest.mark.parametrize("flexibility", ["read", "write"])
@pytest.mark.parametrize(
    "data",
    [
        [{":db/ident": ":idx/text", ":db.secondary/type": ":scriptum"}],
        [[":db/add", 1, ":db.secondary/attrs", ":name"]],
        [{":dh.ref/db": "x"}],
    ],
)
async def test_schemas_say_so(flexibility: str, data: list[object]) -> None:
    with pytest.raises(d.TransactionError, match=LATER) as caught:
        await d.empty_db(schema_flexibility=flexibility).db_with(data)
    assert caught.value.error == ":transact/schema"


async def test_what_is_a_function_says_so() -> None:
    config = {"store": {"backend": "memory", "id": uuid4()}}
    async with d.connect(config, create=True) as conn:
        for name in FUNCTIONS_OF_CONNECTIONS:
            assert callable(getattr(d, name))
            for owner in (conn, conn.db()):
                with pytest.raises(AttributeError, match=f"it is a function: {name}.conn, "):
                    getattr(owner, name)
        with pytest.raises(AttributeError, match=r"a connection has it: conn\.transact_many"):
            _ = conn.db().transact_many
