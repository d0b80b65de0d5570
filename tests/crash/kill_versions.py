"""Kill a process at random moments that commits, branches, merges, collects and purges.

    python tests/crash/kill_versions.py --kills 1000 [--backend lmdb] [--fault NAME] [--seed 7]

Databases of either index take turns. On files the power is cut as well. Then the database is opened
and compared: what was acknowledged is on its branch, what was purged nowhere, every branch opens,
and nothing is missing. With a fault planted the loop must find it. Exits with 1 at the first thing
that went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kill_loop import FAULTS, _child
from power import Recorder, cut_power

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.indexes import INDEXES

__all__ = ["kill_versions"]

LIMITS = Limits(flush_rows=60, flush_bytes=4_000, flush_journal_bytes=6_000, close_rows=10**9)
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :text :db/valueType :db.type/string :db/cardinality :db.cardinality/one}]
"""
SIDES = ("a", "b")
ROUND = 40
VERIFIED = 5
HARMLESS = ("it does no harm", "what a write left that was interrupted")


def _config(home: Path, backend: str, branch: str = "db") -> dict[str, Any]:
    id_ = (home / "id").read_text()
    store = {"backend": backend, "path": str(home / "db"), "id": id_}
    return {"store": store, "branch": branch}


async def _create(home: Path, backend: str, index: str) -> None:
    (home / "id").write_text(str(uuid4()))
    config = {**_config(home, backend), **INDEXES[index]}
    async with d.connect(config, create=True, initial_tx=SCHEMA):
        pass


# -- the process that is killed --------------------------------------------------------------------


class _Life:
    """What the process does until it is killed, and notes before and after."""

    def __init__(self, home: Path, backend: str, seed: int, start: int) -> None:
        self.home, self.backend = home, backend
        self.rng = random.Random(seed)
        self.next = start
        self.notes = os.open(home / "notes", os.O_WRONLY | os.O_APPEND)

    def note(self, *what: Any) -> None:
        os.write(self.notes, json.dumps(what).encode() + b"\n")

    async def commit(self, conn: d.Connection, branch: str) -> None:
        n, self.next = self.next, self.next + 1
        await conn.transact([{":n": n, ":text": f"text of {n} " * 3}])
        self.note("commit", branch, n)

    async def live(self) -> None:
        conn = await d.connect(_config(self.home, self.backend), limits=LIMITS)
        steps = (self._side, self._side, self._merge, self._collect)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._commits, conn)
            while True:
                await self.rng.choice(steps)(conn)
                if self.rng.random() < 0.2:
                    await self._purge(conn)

    async def _commits(self, conn: d.Connection) -> None:
        while True:
            await self.commit(conn, "db")

    async def _side(self, conn: d.Connection) -> None:
        """Make a branch or delete it, or write to it."""
        name = self.rng.choice(SIDES)
        there = d.kw(name) in await d.branches(conn)
        if there and self.rng.random() < 0.3:
            self.note("deletes", name)
            await d.delete_branch(conn, f":{name}")
            self.note("deleted", name)
            return
        if not there:
            self.note("branches", name)
            try:
                await d.branch(conn, ":db", f":{name}")
            except d.DatabaseExists:
                return  # the last process was killed before it had listed it: now it is
            self.note("branched", name)
        config = _config(self.home, self.backend, name)
        with suppress(d.DatabaseNotFound):
            async with d.connect(config, limits=LIMITS) as side:
                for _ in range(self.rng.randrange(1, 6)):
                    await self.commit(side, name)

    async def _merge(self, conn: d.Connection) -> None:
        name = self.rng.choice(SIDES)
        if d.kw(name) in await d.branches(conn):
            self.note("merges", name)
            try:
                await d.merge(conn, f":{name}", on_conflict="ours")
            except (d.MergeConflict, d.SnapshotExpired, d.DatabaseNotFound):
                # Something was purged, what both have in common is gone, or the branch was being
                # deleted when the last process was killed.
                return
            self.note("merged", name)

    async def _collect(self, conn: d.Connection) -> None:
        await d.gc_storage(conn, retain={"commits": self.rng.choice((1, 10))})
        self.note("collected")

    async def _purge(self, conn: d.Connection) -> None:
        found = await conn.db().datoms("aevt", ":n")
        if found:
            n = self.rng.choice([x.v for x in found])
            self.note("purges", n)
            await conn.transact([[":db.purge/entity", [":n", n]]])
            self.note("purged", n)


# -- what has to be there --------------------------------------------------------------------------


class _Known:
    """What was said to be there, by branch, and what is purged from the main one."""

    def __init__(self) -> None:
        self.there: dict[str, set[int]] = {"db": set()}
        self.gone: set[int] = set()
        self.purges: set[int] = set()

    def take(self, lines: list[Any]) -> Counter[str]:
        counts: Counter[str] = Counter()
        snapshot: set[int] = set()
        for what, *rest in lines:
            counts[what] += 1
            name = rest[0] if rest else None
            if what == "commit":
                if name in self.there:
                    self.there[name].add(rest[1])
            elif what == "deletes":
                self.there.pop(name, None)
            elif what == "branches":
                snapshot = set(self.there["db"])
                self.there.pop(name, None)
            elif what == "branched":
                self.there[name] = snapshot
            elif what == "merges":
                # What is purged here and is there may come back.
                self.gone -= self.there.get(name, set())
                snapshot = set(self.there.get(name, ()))
                if name not in self.there:
                    self.gone.clear()
            elif what == "merged":
                self.there["db"] |= snapshot - self.purges
            elif what == "purges":
                self.there["db"].discard(name)
                self.purges.add(name)
            elif what == "purged":
                self.gone.add(name)
        return counts


async def _check(home: Path, backend: str, known: dict[str, Any], deep: bool) -> str | None:
    async with d.connect(_config(home, backend), limits=LIMITS) as conn:
        listed = {name.text for name in await d.branches(conn)}
        highest = 0
        for name in sorted(listed | known["there"].keys()):
            if name not in listed:
                return f"branch {name} is gone"
            try:
                async with d.connect(_config(home, backend, name), limits=LIMITS) as one:
                    rows = dict(await one.db().q("[:find ?n ?t :where [?e :n ?n] [?e :text ?t]]"))
            except d.DatabaseNotFound:
                if name in known["there"]:
                    return f"branch {name} does not open"
                continue  # it was being deleted
            lost = set(known["there"].get(name, ())) - rows.keys()
            if lost:
                return f"{len(lost)} acknowledged transactions of {name} are lost: {min(lost)}"
            for n, text in rows.items():
                if text != f"text of {n} " * 3:
                    return f"transaction {n} came back as {text!r}"
            highest = max(highest, max(rows, default=0))
        past = {x.v for x in await conn.db().history().datoms("aevt", ":n")}
        back = past & set(known["gone"])
        if back:
            return f"{len(back)} purged values are there: {min(back)}"
        report = await d.verify(conn, deep=deep)
        # What a power cut leaves of what nothing rests on.
        wrong = [x for x in report.findings if not any(text in x.message for text in HARMLESS)]
        if wrong:
            return str(wrong)
        (home / "next").write_text(str(max(highest, known["next"]) + 1000))
    return None


def kill_versions(
    home: Path,
    kills: int,
    *,
    backend: str,
    fault: str | None,
    seed: int,
    round_: int = ROUND,
    verbose: bool = True,
) -> str | None:
    """Return the first thing that went wrong in so many kills, ``round_`` a database, or None."""
    rng = random.Random(seed)
    errors, notes, log, undo = (home / name for name in ("errors", "notes", "log", "undo"))
    counts: Counter[str] = Counter()
    known = _Known()
    began, changes = time.monotonic(), 0
    for kill in range(kills):
        if kill % round_ == 0:
            index = list(INDEXES)[kill // round_ % len(INDEXES)]
            shutil.rmtree(home / "db", ignore_errors=True)
            known = _Known()
            if os.waitpid(_child(partial(anyio.run, _create, home, backend, index), errors), 0)[1]:
                return f"creating failed: {errors.read_text()}"
            (home / "next").write_text("1")
        shutil.rmtree(undo, ignore_errors=True)
        undo.mkdir()
        log.unlink(missing_ok=True)
        notes.write_bytes(b"")
        start, own = int((home / "next").read_text()), rng.randrange(10**9)

        def live(start: int = start, own: int = own) -> int:
            if backend == "file":
                Recorder(log, undo)
            if fault is not None:
                FAULTS[fault]()
            anyio.run(_Life(home, backend, own, start).live)
            return 0

        pid = _child(live, errors)
        deadline = time.monotonic() + 30
        while not notes.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.0005)
            if os.waitpid(pid, os.WNOHANG)[0]:
                return f"kill {kill} (seed {seed}): the process died: {errors.read_text()[-2000:]}"
        time.sleep(rng.random() ** 2 * 0.4)
        if os.waitpid(pid, os.WNOHANG)[0]:
            return f"kill {kill} (seed {seed}): the process failed: {errors.read_text()[-2000:]}"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        counts += known.take([json.loads(x) for x in notes.read_bytes().split(b"\n")[:-1]])
        if backend == "file":
            changes += cut_power(home / "db", log, rng)
        problem = home / "problem"
        problem.unlink(missing_ok=True)
        state = {"there": known.there, "gone": known.gone, "next": start}

        def check(
            state: dict[str, Any] = state,
            deep: bool = kill % VERIFIED == 0,
            problem: Path = problem,
        ) -> int:
            found = anyio.run(_check, home, backend, state, deep)
            if found is not None:
                problem.write_text(found)
            return int(found is not None)

        if os.waitpid(_child(check, errors), 0)[1]:
            why = problem.read_text() if problem.exists() else errors.read_text()[-2000:]
            return f"kill {kill} (seed {seed}): {why}"
        if verbose and ((kill + 1) % 100 == 0 or kill + 1 == kills):
            rate = (kill + 1) / (time.monotonic() - began)
            done = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
            print(
                f"{kill + 1} kills, {rate:.1f} a second; {done}; {changes} unsynced changes lost",
                flush=True,
            )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--backend", choices=("file", "lmdb"), default="file")
    parser.add_argument("--round", type=int, default=ROUND, help="kills of one database")
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = kill_versions(
            Path(folder),
            arguments.kills,
            backend=arguments.backend,
            round_=arguments.round,
            fault=arguments.fault,
            seed=arguments.seed,
        )
    print(found or "Nothing acknowledged was lost, and every open succeeded.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
