"""A database on S3 behind 30 ms of latency: commits, requests, rounds, and what a million cost.

The server is moto on loopback, behind a proxy that counts and delays; real ones differ in what a
request takes, not in how many there are.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

import datahike_async as d
from datahike_async.tables import table
from tests.servers.programs import Servers
from tests.servers.proxy import Proxy
from tests.servers.s3 import config_on

LATENCY = 0.03
PUT_PRICE = 0.005 / 1000
"""Dollars; list price of Amazon S3 Standard in us-east-1 (PUT, and GET below)."""
GET_PRICE = 0.0004 / 1000
SCHEMA = """
[{:db/ident :email :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :age :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :town :db/valueType :db.type/keyword :db/cardinality :db.cardinality/one}]
"""


def _person(i: int) -> dict[str, Any]:
    mail = f"p{i}@example.org"
    return {":email": mail, ":name": f"Name {i}", ":age": i % 90, ":town": f":t{i % 50}"}


@contextmanager
def _moto() -> Iterator[tuple[Any, Proxy]]:
    servers = Servers()
    try:
        server = servers.get("moto")
        with Proxy(server.endpoint) as proxy:
            yield server, proxy
    finally:
        servers.stop()


async def _commits(store: dict[str, Any], proxy: Proxy, clients: int, each: int) -> list[Any]:
    config = {"store": {**store, "prefix": uuid.uuid4().hex}}
    await d.create_database(config, initial_tx=SCHEMA)
    async with d.connect({"store": {**config["store"], "endpoint": proxy.url}}) as conn:
        await conn.transact([_person(0)])
        proxy.clear()
        start = time.perf_counter()

        async def client(number: int) -> None:
            for i in range(each):
                await conn.transact([_person(number * each + i + 1)])

        async with anyio.create_task_group() as group:
            for number in range(clients):
                group.start_soon(client, number)
        seconds = time.perf_counter() - start
        done = clients * each
        puts, gets = proxy.count("PUT"), proxy.count("GET")
    dollars = (puts * PUT_PRICE + gets * GET_PRICE) / done * 1e6
    await d.delete_database(config)
    return [clients, round(done / seconds), round(puts / done, 3), gets, f"{dollars:.2f}"]


async def _opening(store: dict[str, Any], proxy: Proxy) -> list[list[Any]]:
    proxy.latency = 0.0
    await d.create_database(store=store, initial_tx=SCHEMA)
    async with d.connect(store=store) as conn:
        for start in range(0, 50_000, 10_000):
            await conn.transact([_person(i) for i in range(start, start + 10_000)])
    proxy.latency = LATENCY
    rows: list[list[Any]] = []

    def row(what: str, start: float) -> None:
        milliseconds = round((time.perf_counter() - start) * 1000)
        rows.append([what, milliseconds, len(proxy.requests), proxy.waves()])
        proxy.clear()

    proxy.clear()
    start = time.perf_counter()
    async with d.connect(store={**store, "endpoint": proxy.url}) as conn:
        query = "[:find ?n . :in $ ?m :where [?e :email ?m] [?e :name ?n]]"
        assert await d.q(query, conn.db(), "p31415@example.org") == "Name 31415"
        row("open, and a point query", start)
        start = time.perf_counter()
        found = 0
        for ident in (":email", ":name", ":age", ":town"):
            found += await d.q("[:find (count ?e) . :in $ ?a :where [?e ?a _]]", conn.db(), ident)
        assert found == 200_000
        row("scan of 200,000 datoms, four attributes in turn", start)
        start = time.perf_counter()
        await conn.sync()
        row("refresh, nothing new", start)
    return rows


def run() -> int:
    """Print the tables; return 1 where a bar is missed."""
    with _moto() as (server, proxy):
        proxy.latency = LATENCY
        store = config_on(server)
        commits = [
            anyio.run(_commits, store, proxy, clients, each)
            for clients, each in ((1, 60), (32, 100), (128, 50))
        ]
        headers = ["tasks", "commits/s", "PUT a commit", "GETs", "$ per million commits"]
        print(table(headers, commits))
        rounds = anyio.run(_opening, config_on(server), proxy)
        print(table(["", "ms", "requests", "rounds"], rounds))
    met = commits[1][1] >= 500 and rounds[0][3] <= 4 and rounds[1][3] <= 8 and rounds[2][2] == 1
    print("bars met" if met else "a bar is missed: 500 commits/s of 32 tasks, 4, 8 and 1 rounds")
    return 0 if met else 1
