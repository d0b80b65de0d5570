"""Random commits on several branches, each compared afterwards with the state kept beside.

    python -m tests.collection.commits [--commits 2000] [--branches 5] [--backend file] [--seed 7]

Once with history and once without it, on each index: first all commits are looked at, then a
collection lets go of most, and those that are retained are there, the others what they were or
expired.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.indexes import INDEXES

__all__ = ["looked_at"]

LIMITS = Limits(flush_rows=60, flush_bytes=6_000, flush_journal_bytes=9_000, close_rows=10**9)
RETAINED = 100
KEYS = 60
SCHEMA = """
[{:db/ident :k :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :v :db/valueType :db.type/long :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :m :db/valueType :db.type/string :db/cardinality :db.cardinality/many}]
"""

State = frozenset[tuple[int, str, Any]]


async def _state(db: d.Database) -> State:
    datoms = [(x.e, x.a.text, x.v) for x in await db.datoms("eavt") if x.a.text in "kvm"]
    keys = {e: v for e, a, v in datoms if a == "k"}
    return frozenset((keys[e], a, v) for e, a, v in datoms)


def _change(rng: random.Random, state: State) -> tuple[list[Any], State]:
    """Return a transaction, and what it makes of a state."""
    key = rng.randrange(KEYS)
    mine = {x for x in state if x[0] == key}
    if mine and rng.random() < 0.15:
        return [[":db/retractEntity", [":k", key]]], state - mine
    v, m = rng.randrange(10**6), f"{rng.randrange(20)}"
    now = {x for x in state if x[:2] != (key, "v")}
    return [{":k": key, ":v": v, ":m": m}], frozenset(
        {*now, (key, "k", key), (key, "v", v), (key, "m", m)}
    )


async def looked_at(
    store: dict[str, Any], commits: int, branches: int, seed: int, *, history: bool, index: str
) -> tuple[int, int]:
    """Return how many commits were right before a collection, and after it."""
    rng = random.Random(seed)
    config = {"store": store, "keep_history": history, **INDEXES[index]}
    async with d.connect(config, create=True, initial_tx=SCHEMA, limits=LIMITS) as main:
        conns = {"db": main}
        states: dict[str, State] = {"db": frozenset()}
        lines: dict[str, list[UUID]] = {"db": []}
        known: dict[UUID, State] = {}
        while len(known) < commits:
            name = rng.choice(list(conns))
            if len(conns) < branches and len(known) > len(conns) * 10:
                new = f"b{len(conns)}"
                await d.branch(main, f":{name}", f":{new}")
                conns[new] = await d.connect({**config, "branch": new}, limits=LIMITS)
                states[new], lines[new] = states[name], list(lines[name])
                continue
            data, states[name] = _change(rng, states[name])
            report = await conns[name].transact(data)
            commit = report.db_after.commit_id
            assert commit is not None
            known[commit] = states[name]
            lines[name].append(commit)
        for name, conn in conns.items():
            if name != "db":
                await conn.release()
    before = await _compared(config, known, set(known))
    async with d.connect(config) as conn:
        await d.gc_storage(conn, retain={"commits": RETAINED})
        report = await d.verify(conn, deep=True)
        assert report.ok, str(report)
    kept = {commit for line in lines.values() for commit in line[-RETAINED:]}
    return before, await _compared(config, known, kept)


async def _compared(config: dict[str, Any], known: dict[UUID, State], kept: set[UUID]) -> int:
    there = 0
    async with d.connect(config) as conn:
        for commit, wanted in known.items():
            try:
                db = await d.commit_as_db(conn, commit)
            except d.SnapshotExpired:
                db = None
            if db is None:
                assert commit not in kept, f"retained commit {commit} is not there"
                continue
            found = await _state(db)
            assert found == wanted, f"commit {commit} has {found - wanted}, lacks {wanted - found}"
            there += 1
    return there


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=2000)
    parser.add_argument("--branches", type=int, default=5)
    parser.add_argument("--backend", choices=("memory", "file", "lmdb"), default="file")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    for history, index in product((True, False), INDEXES):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            store: dict[str, Any] = {"backend": arguments.backend, "id": uuid4()}
            if arguments.backend != "memory":
                store["path"] = str(Path(folder) / "db")

            async def run(
                store: dict[str, Any] = store, history: bool = history, index: str = index
            ) -> Any:
                wanted = arguments.commits, arguments.branches, arguments.seed
                return await looked_at(store, *wanted, history=history, index=index)

            before, after = anyio.run(run)
        print(
            f"{index}, history {history}: {before} commits compared, {after} after a collection, "
            f"in {time.monotonic() - began:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
