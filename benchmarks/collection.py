"""What a store takes that is written to for long, with collections beside, and what those cost.

    python3 dev.py bench collection                      # 100,000 commits on each store
    python3 dev.py bench collection --commits 2000 --datoms 20000 --stores file,lmdb

One row is changed a commit, at random, without history; the last 100 commits are retained. Shown is
the most that the store took from the first collection on, and in the end, as a multiple of what a
backup into an empty store of its kind takes, and the 99th percentile of commits while a collection
ran, as a multiple of that in between. S3 is moto on loopback.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

import datahike_async as d
from datahike_async.tables import table
from tests.servers.programs import Servers
from tests.servers.s3 import config_on

STORES: Final = ("file", "lmdb", "s3")
MOST_BYTES: Final = 3.0
MOST_SLOWER: Final = 2.0
RETAIN: Final = {"commits": 100}
SEED: Final = 7
PAUSE: Final = 2.0
"""Seconds between two collections, at least; as long as the last one took, where that is more."""
SCHEMA: Final = """
[{:db/ident :uid :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}]
"""


class Found(NamedTuple):
    """What one store came to; sizes in bytes, times in seconds."""

    store: str
    commits: int
    rate: float
    collections: int
    peak: int
    end: int
    live: int
    beside: float
    between: float

    @property
    def met(self) -> bool:
        """Whether the bars are met."""
        most = max(self.peak, self.end)
        return most <= MOST_BYTES * self.live and self.beside <= MOST_SLOWER * self.between


def _size_of_files(path: str) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):  # a collection has removed it
                stat = os.stat(os.path.join(folder, name))
                total += min(stat.st_size, stat.st_blocks * 512)
    return total


async def _size(store: Mapping[str, Any]) -> int:
    """Return how many bytes a store takes: of its files, or of its objects."""
    if "path" in store:
        return _size_of_files(store["path"])
    found = await d.info({"store": store})
    return found.bytes + found.orphan_bytes


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else 0.0


async def _lived(
    name: str, store: dict[str, Any], empty: dict[str, Any], commits: int, datoms: int
) -> Found:
    chance = random.Random(SEED)
    config = {"store": store, "keep_history": False, "initial_tx": SCHEMA}
    entities = datoms // 2
    beside, between = list[float](), list[float]()
    collecting, running, collections, peak = False, True, 0, 0

    async def collect() -> None:
        nonlocal collecting, collections, peak
        while running:
            began = time.perf_counter()
            collecting = True
            await d.gc_storage(conn, retain=RETAIN)
            collecting = False
            collections += 1
            took = time.perf_counter() - began
            end = time.perf_counter() + max(PAUSE, took)
            while running and time.perf_counter() < end:
                peak = max(peak, await _size(store))
                await anyio.sleep(0.25)

    async with d.connect(config, create=True) as conn:
        made = await conn.transact([{":uid": n, ":name": f"{n}"} for n in range(entities)])
        ids = sorted({x.e for x in made.tx_data if x.a == d.kw("uid")})
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect)
            for n in range(commits):
                change = [":db/add", chance.choice(ids), ":name", f"{n} {chance.random()}"]
                began, during = time.perf_counter(), collecting
                await conn.transact([change])
                spent = time.perf_counter() - began
                (beside if during or collecting else between).append(spent)
            rate = commits / (time.perf_counter() - started)
            running = False
        await d.gc_storage(conn, retain=RETAIN)
        end = await _size(store)
        await d.backup(conn, {"store": empty})
        found = len(await conn.db().datoms("aevt", ":name"))
        assert found == len(ids), f"{found} of {len(ids)} rows are there"
    live = await _size(empty)
    return Found(
        name, commits, rate, collections, max(peak, end), end, live, _p99(beside), _p99(between)
    )


def _measured(name: str, commits: int, datoms: int) -> Found:
    with ExitStack() as stack:
        if name == "s3":
            servers = Servers()
            stack.callback(servers.stop)
            place = config_on(servers.get("moto"))
            stores = [
                {**place, "prefix": uuid.uuid4().hex, "id": str(uuid.uuid4())} for _ in range(2)
            ]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stores = [
                {"backend": name, "id": str(uuid.uuid4()), "path": str(folder / part)}
                for part in ("db", "copy")
            ]
        return anyio.run(_lived, name, *stores, commits, datoms)


def run(*options: str) -> int:
    """Print a table and return 1 where a bar is missed."""

    def option(name: str, default: str) -> str:
        return options[options.index(name) + 1] if name in options else default

    commits, datoms = int(option("--commits", "100000")), int(option("--datoms", "100000"))
    print(f"seed {SEED}, {commits} commits into {datoms} datoms", flush=True)
    found = []
    for name in option("--stores", ",".join(STORES)).split(","):
        found.append(_measured(name, commits, datoms))
        print(f"{name}: {found[-1].rate:.0f} commits a second", flush=True)
    rows = [
        [
            one.store,
            str(one.collections),
            f"{one.live / 1e6:.1f}",
            f"{one.peak / one.live:.2f}",
            f"{one.end / one.live:.2f}",
            f"{one.between * 1e3:.2f}",
            f"{one.beside * 1e3:.2f}",
            f"{one.beside / one.between:.2f}" if one.between else "-",
        ]
        for one in found
    ]
    head = ["store", "collections", "live MB", "peak", "end", "p99 ms", "beside", "ratio"]
    print(table(head, rows))
    met = all(one.met for one in found)
    print("bars met" if met else "a bar is missed: 3 times what lives, twice the p99")
    return 0 if met else 1
