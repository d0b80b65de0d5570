"""A collection beside two writers and four readers in other processes, time and again.

    python -m tests.collection.processes --runs 1000 [--backend lmdb] [--fault NAME] [--seed 7]

Each run makes a database with garbage in it, and starts the processes: a writer on each of two
branches, two readers that hold values, two that pin commits. Meanwhile another one collects. Then
at least 90 % of the garbage must be gone, all that was acknowledged there, and nothing that a
reader saw may have been wrong; pinned values never expire, of others it is told how many did. With
a fault planted the loop must find it. Exits with 1 at the first thing that went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.config.collecting import Retention
from datahike_async.konserve import opening as stores
from datahike_async.storage.collecting import Collection
from tests.collection import test_planted as protocol
from tests.collection.garbage import SMALL, collection, fresh, grown, index_of, numbers
from tests.crash.kill_loop import _child
from tests.indexes import INDEXES

BRANCHES = ("db", "side")
NUMBER = d.kw("n")
FAULTS = {
    fault.__name__: fault
    for fault in (
        protocol.does_not_fence_heads,
        protocol.publishes_a_flush_of_an_older_epoch,
        protocol.ignores_pins,
        protocol.removes_segments,
        protocol.drops_the_journal,
    )
}
WAITING = 30.0


class Run:
    """One run in a folder, where the processes leave their notes."""

    def __init__(self, home: Path, backend: str, seed: int, fault: str | None) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.fault = fault
        store = {"backend": backend, "id": uuid4(), "path": str(home / "db")}
        self.config = fresh(store, **list(INDEXES.values())[seed % len(INDEXES)])
        self.keep = Retention(commits=self.rng.choice((1, 3, 10)))

    def _on(self, branch: str) -> dict[str, Any]:
        return {**self.config, "branch": branch}

    def _note(self, name: str, value: Any) -> None:
        (self.home / name).write_text(json.dumps(value))

    def _noted(self, name: str) -> Any:
        return json.loads((self.home / name).read_text())

    @property
    def _over(self) -> bool:
        return (self.home / "over").exists()

    # -- what the processes do -------------------------------------------------------------------

    async def create(self) -> None:
        """Make the database; note the names of its garbage."""
        await grown(self.config, 30)
        store = await stores.connect_store(dict(self.config["store"]))
        doomed: list[str] = []

        class Looking(Collection):
            async def _sweep(self, names: Any, *arguments: Any) -> Any:
                doomed.extend(name for some in names.slices() for name in some)
                return await super()._sweep(names, *arguments)

        run = collection(store, self.keep, index=index_of(self.config), dry_run=True)
        run.__class__ = Looking
        await run.run()
        await stores.release_store(store)
        self._note("doomed", doomed)
        for branch in BRANCHES:
            async with d.connect(self._on(branch)) as conn:
                self._note(f"before-{branch}", await numbers(conn.db()))

    async def write(self, branch: str) -> None:
        acks = os.open(self.home / f"acks-{branch}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        async with d.connect(self._on(branch), limits=SMALL) as conn:
            n = 10_000
            while not self._over:
                await conn.transact([{":n": n, ":text": "x" * 100}])
                os.write(acks, b"%d\n" % n)
                n += 1

    async def read(self, number: int) -> None:
        """Hold values and read them again, on the store as it is by then."""
        counts: Counter[str] = Counter()
        pins = number % 2 == 1
        branch = BRANCHES[number // 2]
        while not self._over:
            async with d.connect(self._on(branch), read_only=not pins, store_cache_size=1) as conn:
                if pins:
                    async with AsyncExitStack() as stack:
                        try:
                            db = await stack.enter_async_context(d.pin(conn))
                        except d.SnapshotExpired:
                            continue  # a collection was faster than the pin
                        await self._look(conn, db, counts, "pinned")
                else:
                    await self._look(conn, conn.db(), counts, "held")
        self._note(f"reader-{number}", counts)

    async def _look(
        self, conn: d.Connection, db: d.Database, counts: Counter[str], what: str
    ) -> None:
        first = None
        for _ in range(4):
            conn._transactor.branch.source.cache.clear()
            for tree in db.snapshot.trees.indexes():
                tree.base._root = None  # type: ignore[attr-defined]
            try:
                datoms = await db.datoms("eavt")
                found = sorted(x.v for x in datoms if x.a == NUMBER)
            except d.SnapshotExpired:
                if what == "pinned":
                    raise
                counts["expired"] += 1
                return
            counts[what] += 1
            assert first is None or found == first, "a value has changed"
            mine = [n for n in found if n >= 10_000]
            assert mine == list(range(10_000, 10_000 + len(mine))), "a commit is missing"
            first = found
            await anyio.sleep(0.05)

    async def collect(self) -> None:
        store = await stores.connect_store(dict(self.config["store"]))
        freed = 0
        for _ in range(3):
            run = collection(store, self.keep, index=index_of(self.config))
            freed += (await run.run()).freed
            await anyio.sleep(0.03)
        await stores.release_store(store)
        self._note("collected", freed)

    async def check(self) -> None:
        """Look whether the garbage is gone, and all else there."""
        doomed = set(self._noted("doomed"))
        store = await stores.connect_store(dict(self.config["store"]))
        there = {name async for page in store.blobs.names() for name in page}
        await stores.release_store(store)
        gone = len(doomed - there) / len(doomed)
        assert gone >= 0.9, f"{gone:.0%} of {len(doomed)} blobs of garbage are gone"
        for branch in BRANCHES:
            acks = {int(x) for x in (self.home / f"acks-{branch}").read_text().split()}
            async with d.connect(self._on(branch)) as conn:
                found = set(await numbers(conn.db()))
                lost = (acks | set(self._noted(f"before-{branch}"))) - found
                assert not lost, f"{len(lost)} acknowledged transactions are lost"
                report = await d.verify(conn, deep=True)
                assert report.ok, str(report)

    # -- a run -----------------------------------------------------------------------------------

    def _start(self, work: Any, *arguments: Any) -> int:
        def begun() -> int:
            with pytest.MonkeyPatch.context() as patch:
                if self.fault is not None:
                    FAULTS[self.fault](patch)
                anyio.run(work, *arguments)
            return 0

        return _child(begun, self.home / "errors")

    def _done(self, *pids: int) -> bool:
        ends = [os.waitpid(pid, 0)[1] for pid in pids]  # of all, also where one has failed
        return not any(ends)

    def run(self) -> tuple[str | None, Counter[str]]:
        """Return what went wrong, or None, and what was read how often."""
        counts: Counter[str] = Counter()
        errors = self.home / "errors"
        if not self._done(self._start(self.create)):
            return errors.read_text(), counts
        beside = [self._start(self.write, branch) for branch in BRANCHES]
        beside += [self._start(self.read, number) for number in range(4)]
        deadline = time.monotonic() + WAITING
        while not all((self.home / f"acks-{b}").exists() for b in BRANCHES):
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        time.sleep(self.rng.random() * 0.2)
        collected = self._done(self._start(self.collect))
        time.sleep(self.rng.random() * 0.1)
        (self.home / "over").touch()
        ended = self._done(*beside)
        if not (collected and ended and self._done(self._start(self.check))):
            return errors.read_text()[-3000:], counts
        for number in range(4):
            with suppress(FileNotFoundError):
                counts.update(self._noted(f"reader-{number}"))
        counts["freed"] += self._noted("collected")
        counts["written"] += sum(
            len((self.home / f"acks-{b}").read_text().split()) for b in BRANCHES
        )
        return None, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--backend", choices=("file", "lmdb"), default="file")
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(arguments.runs):
        folder = Path(tempfile.mkdtemp())
        try:
            run = Run(folder, arguments.backend, arguments.seed + number, arguments.fault)
            wrong, more = run.run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if wrong is not None:
            print(f"run {number} (--seed {arguments.seed + number} --runs 1): {wrong}")
            return 1
        counts += more
        if (number + 1) % 50 == 0 or number + 1 == arguments.runs:
            print(
                f"{number + 1} runs, {(number + 1) / (time.monotonic() - began):.2f} a second; "
                f"{counts['written']} commits beside, {counts['freed']} blobs freed; values read "
                f"{counts['pinned']} pinned, {counts['held']} held, {counts['expired']} expired",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
