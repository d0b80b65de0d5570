"""What a database on S3 asks of the server: how many requests, and how many one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.servers.programs import S3Server
from tests.servers.proxy import Proxy, waves
from tests.servers.s3 import config_on
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

SCHEMA = [
    {
        ":db/ident": ident,
        ":db/valueType": kind,
        ":db/cardinality": ":db.cardinality/one",
        **({":db/unique": ":db.unique/identity"} if ident == ":email" else {}),
    }
    for ident, kind in (
        (":email", ":db.type/string"),
        (":name", ":db.type/string"),
        (":age", ":db.type/long"),
        (":town", ":db.type/keyword"),
    )
]


def people(count: int) -> list[dict[str, Any]]:
    return [
        {
            ":email": f"p{i}@example.org",
            ":name": f"Name {i}",
            ":age": i % 90,
            ":town": f":t{i % 50}",
        }
        for i in range(count)
    ]


@pytest.fixture
def moto(servers: Callable[[str], S3Server]) -> S3Server:
    return servers("moto")


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[Proxy]:
    with Proxy(moto.endpoint) as proxy:
        yield proxy


async def test_a_commit_is_one_put_and_a_refresh_one_get(moto: S3Server, proxy: Proxy) -> None:
    config = {"store": config_on(moto, proxy.url)}
    await d.create_database(config, initial_tx=SCHEMA)
    async with d.connect(config) as conn:
        await conn.transact(people(3))
        proxy.clear()
        for i in range(10):
            await conn.transact([{":email": "p1@example.org", ":age": i}])
        assert [(r.method, r.status) for r in proxy.requests] == [("PUT", 200)] * 10
        assert all("if-match" in r.headers for r in proxy.requests)

        proxy.clear()
        await conn.sync()
        [refresh] = proxy.requests
        assert (refresh.method, refresh.status, refresh.bytes_out) == ("GET", 304, 0)
        assert "if-none-match" in refresh.headers


async def test_a_reader_elsewhere_pays_one_get_a_refresh(moto: S3Server, proxy: Proxy) -> None:
    store = config_on(moto)
    await d.create_database({"store": store}, initial_tx=SCHEMA)
    async with Strangers(store) as writer:
        async with Strangers({**store, "endpoint": proxy.url}) as reader:
            for i in range(5):
                await writer.transact([{":email": f"{i}@example.org", ":age": i}])
                proxy.clear()
                db = await reader.sync()
                assert [(r.method, r.status) for r in proxy.requests] == [("GET", 200)]
                assert await db.q("[:find (count ?e) . :where [?e :age _]]") == i + 1
                proxy.clear()
                await reader.sync()
                assert [r.status for r in proxy.requests] == [304]
        # It published nothing, at the end neither.
        assert {r.method for r in proxy.requests} == {"GET"}


async def test_a_cold_open_and_a_scan_take_few_rounds(moto: S3Server, proxy: Proxy) -> None:
    store = config_on(moto)
    await d.create_database({"store": store}, initial_tx=SCHEMA)
    async with d.connect({"store": store}) as conn:
        for start in range(0, 50_000, 10_000):
            await conn.transact(people(50_000)[start : start + 10_000])
    async with d.connect({"store": store}) as conn:
        # A tail over the trees: new entities, and changes to old ones.
        await conn.transact([{":email": "new@example.org", ":age": 1}])
        for i in range(0, 50_000, 1_000):
            await conn.transact([{":email": f"p{i}@example.org", ":age": 100}])

    proxy.latency = 0.05
    config = {"store": {**store, "endpoint": proxy.url}}
    async with d.connect(config) as conn:
        query = "[:find ?n . :in $ ?m :where [?e :email ?m] [?e :name ?n]]"
        assert await d.q(query, conn.db(), "p31415@example.org") == "Name 31415"
        assert waves(proxy.requests) <= 4
        assert {r.method for r in proxy.requests} == {"GET"}
    proxy.clear()
    async with d.connect(config) as conn:
        proxy.clear()
        count = 0
        for ident in (":email", ":name", ":age", ":town"):
            count += await d.q("[:find (count ?e) . :in $ ?a :where [?e ?a _]]", conn.db(), ident)
        assert count >= 200_000
        assert waves(proxy.requests) <= 8


async def test_a_branch_is_three_requests_its_connection_one_and_a_merge_its_commit(
    moto: S3Server, proxy: Proxy
) -> None:
    def asked() -> list[str]:
        found = [request.method for request in proxy.requests]
        proxy.clear()
        return found

    config = {"store": config_on(moto, proxy.url)}
    await d.create_database(config, initial_tx=SCHEMA)
    async with d.connect(config) as conn:
        await conn.transact(people(200))
        proxy.clear()
        # The first of a process reads the registry, too.
        await d.branch(conn, ":db", ":first")
        assert asked() == ["GET", "GET", "PUT", "PUT"]
        await d.branch(conn, ":db", ":trial")
        assert asked() == ["GET", "PUT", "PUT"]
        # Of a branch that is not open here the head is read.
        await d.merge_preview(conn, ":first")
        assert asked() == ["GET"]
        async with d.connect(config, branch=":trial") as trial:
            assert asked() == ["GET"]
            await trial.transact([{":email": "p7@example.org", ":name": "Seven"}])
            assert asked() == ["PUT"]
            await conn.transact([{":email": "p8@example.org", ":name": "Eight"}])
            proxy.clear()
            found = await d.merge_preview(conn, ":trial")
            assert [fact.v for fact in found.added] == ["Seven"]
            assert await d.merge_base(conn, ":db", ":trial")
            assert asked() == []
            report = await d.merge(conn, ":trial")
            assert [fact.v for fact in report.added] == ["Seven"]
            assert asked() == ["PUT"]
        assert (await d.verify(conn, deep=True)).ok


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_flush_asks_once_after_a_collection_in_which_packs_little_is_left(
    moto: S3Server, proxy: Proxy
) -> None:
    config = {"store": config_on(moto)}
    limits = Limits(flush_rows=40)
    await d.create_database(config, initial_tx=SCHEMA)

    async def flushed(conn: d.Connection) -> int:
        """Write until there is a flush, and return how many requests but writes that took."""
        before = conn._transactor.branch.line[0].id
        proxy.clear()
        while conn._transactor.branch.line[0].id == before:
            await conn.transact(people(30))
            await conn.transact([[":db/add", [":email", "p3@example.org"], ":age", 1]])
        return sum(request.method != "PUT" for request in proxy.requests)

    there = {"store": {**config["store"], "endpoint": proxy.url}}
    async with d.connect(config, limits=limits) as conn:
        await conn.transact(people(300))
        async with Strangers(there["store"], limits=limits) as other:
            await d.gc_storage(conn, retain={"commits": 1})
            await other.sync()
            # It learns of the epoch, and asks; after that it knows.
            await flushed(other)
            assert [await flushed(other) for _ in range(3)] == [0, 0, 0]
