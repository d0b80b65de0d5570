"""One simulation: what a seed makes of a database, and what has to hold in the end.

    python -m tests.simulation.run SEED [--backend trio] [--trace 60]

repeats a seed, and shows the end of what happened.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import anyio

import datahike_async as d
from tests.indexes import INDEXES
from tests.simulation.actors import LIMITS, Actor, facts_of
from tests.simulation.loops import BACKENDS, Stuck, run
from tests.simulation.model import Branch, Commit, Model, Wrong, said, short
from tests.simulation.operations import chosen
from tests.simulation.world import KINDS, SIMULATED, Process, Rates, World

__all__ = ["OPERATIONS", "Outcome", "simulate"]

OPERATIONS: Final = 200
SCHEMA: Final = [
    {":db/ident": ":k", ":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
    {":db/ident": ":v", ":db/valueType": ":db.type/long", ":db/index": True},
    {
        ":db/ident": ":m",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/many",
    },
    {":db/ident": ":r", ":db/valueType": ":db.type/ref"},
    {":db/ident": ":op", ":db/valueType": ":db.type/long"},
]
for _one in SCHEMA:
    _one.setdefault(":db/cardinality", ":db.cardinality/one")


class Outcome(NamedTuple):
    """What came of a seed: what went wrong, if anything, and what happened."""

    seed: int
    backend: str
    wrong: str | None
    trace: list[str]
    operations: int
    commits: int
    steps: int


class _Simulation:
    def __init__(self, seed: int, backend: str, index: str) -> None:
        self.index = index
        chance = random.Random(f"{seed}")
        rates = Rates(time=3.0)
        if chance.random() < 0.6:
            rates = Rates(
                fault=chance.choice((0, 4, 15)),
                cancel=chance.choice((0, 2, 5)),
                kill=chance.choice((0, 0.5, 1.5)),
                clock=chance.choice((0, 3)),
                time=chance.choice((2, 10)),
            )
        self.kind = chance.choice(sorted(KINDS))
        self.history = chance.random() < 0.5
        self.count = chance.randint(2, 4)
        self.world = World(seed, backend, self.kind, rates)
        self.world.restart = self._restart
        self.model = Model()
        self.operations = 0
        self._group: Any = None
        self._ending = False

    async def main(self) -> None:
        world = self.world
        SIMULATED.worlds[world.id] = world
        try:
            await self._create()
            world.quiet = False
            async with anyio.create_task_group() as keeping:
                keeping.start_soon(world.keep)
                async with anyio.create_task_group() as group:
                    self._group = group
                    for _ in range(self.count):
                        group.start_soon(self._live, world.process())
                keeping.cancel_scope.cancel()
            world.settle()
            await self._check()
        finally:
            SIMULATED.worlds.pop(world.id)

    async def _create(self) -> None:
        world = self.world
        process = world.process()
        env = world.env(process)
        config = {
            **world.config(process),
            "initial_tx": SCHEMA,
            "keep_history": self.history,
            **INDEXES[self.index],
        }
        async with d.connect(config, create=True, env=env, limits=LIMITS) as conn:
            db = conn.db()
            assert db.commit_id is not None
            self.model.add(Commit(db.commit_id, (), frozenset(), db.max_tx, alone=True))
            self.model.branches["db"] = Branch(db.commit_id)
        process.alive = False

    def _restart(self, _: Process) -> None:
        if not self._ending and self.operations < OPERATIONS:
            self._group.start_soon(self._live, self.world.process())

    async def _live(self, process: Process) -> None:
        with anyio.CancelScope() as process.scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(
                        self._act, Actor(self.world, self.model, process, self.history)
                    )

    async def _act(self, actor: Actor) -> None:
        try:
            while self.operations < OPERATIONS and actor.process.alive:
                self.operations += 1
                await actor.operate(chosen(actor))
                await anyio.lowlevel.checkpoint()
        finally:
            await actor.release()

    # -- the end ---------------------------------------------------------------------------------

    async def _check(self) -> None:
        self._ending = True
        model = self.model
        await self._look(model.retained, names=None)
        names = {name for name, branch in model.branches.items() if branch.there}
        self.world.later(1e7)
        actor = self._actor()
        conn = await actor.conn("db")
        before = {name: await d.branch_as_db(conn, f":{name}") for name in names}
        heads = {name: await actor.learn(conn, db) for name, db in before.items()}
        await d.gc_storage(conn, retain={"commits": 1})
        await d.gc_storage(conn, retain={"commits": 1})
        await actor.release()
        model.retained = 1
        orphans = await self._look(1, names)
        for name, commit in heads.items():
            if model.branches[name].tip != commit.id:
                raise Wrong(f"branch {name} has moved by itself")
        if orphans:
            raise Wrong(f"{orphans} blobs that nothing names are left by a collection")
        if self.history:
            await self._erased()

    def _actor(self) -> Actor:
        return Actor(self.world, self.model, self.world.process(), self.history)

    async def _look(self, retained: int, names: set[str] | None) -> int:
        """Look at all that has to be there, as somebody who knows nothing; return the orphans."""
        model, actor = self.model, self._actor()
        conn = await actor.conn("db")
        found = {name.text for name in await d.branches(conn)}
        for name, branch in model.branches.items():
            if branch.there and name not in found:
                raise Wrong(f"branch {name} is gone")
            if branch.there is False and name in found:
                raise Wrong(f"branch {name} is still there")
            branch.there = branch.there if name in found else False
        if names is not None and found - names - _beside(found):
            raise Wrong(f"branches {found - names} came by themselves")
        for name in sorted(found - _beside(found)):
            branch = model.branches[name]
            try:
                one = await actor.conn(name)
            except d.DatabaseNotFound:
                # Its deletion came to its half.
                if branch.there or names is not None:
                    raise
                continue
            branch.there = True
            commit = await actor.learn(one, one.db())
            model.moved(name, branch.line, branch.tip, commit.id)
            for index in ("eavt", "aevt"):
                facts = await facts_of(one.db(), index)
                if facts != commit.facts:
                    raise Wrong(
                        f"branch {name}, {index}: lacks [{said(commit.facts - facts)}] and has "
                        f"[{said(facts - commit.facts)}]"
                    )
        for id_ in sorted(model.must()):
            commit = model.commits[id_]
            try:
                db = await d.commit_as_db(conn, id_)
            except d.SnapshotExpired as error:
                raise Wrong(f"retained commit {short(id_)} has expired") from error
            if db is None:
                raise Wrong(f"retained commit {short(id_)} is not there")
            await actor.check(db, commit, kept=True, what="retained commit")
        report = await d.verify(conn, deep=self.history)
        if not report.ok:
            raise Wrong(str(report))
        await actor.release()
        return report.orphans

    async def _erased(self) -> None:
        """Purge a value everywhere; nothing of it is left."""
        value = 123_456_789_123
        actor = self._actor()
        conn = await actor.conn("db")
        for _ in range(2):
            await conn.transact([{":k": 5000, ":v": value}])
        await conn.transact([{":k": 5000, ":v": 1}])
        await d.purge(conn, [[":db.purge/entity", [":k", 5000]]], everywhere=True)
        report = await d.erasure_report(conn, [value])
        if not report.clean:
            raise Wrong(f"purged, and still there: {report}")
        report = await d.verify(conn)
        await actor.release()
        if not report.ok:
            raise Wrong(str(report))


def _beside(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("rebase-")}


@contextmanager
def _silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Whoever was stopped in the midst of it has closed nothing.
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        logging.disable(before)


def simulate(seed: int, backend: str, index: str = "persistent-set") -> Outcome:
    """Simulate what a seed says on an index, and return what came of it."""
    made = _Simulation(seed, backend, index)
    wrong = None
    with _silent():
        try:
            run(backend, made.main, made.world, seed)
        except (Exception, Stuck) as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            wrong = "".join(traceback.format_exception(error))
    world = made.world
    return Outcome(
        seed, backend, wrong, world.trace, made.operations, len(made.model.commits), world.steps
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--index", choices=INDEXES, default="persistent-set")
    parser.add_argument("--trace", type=int, default=60)
    arguments = parser.parse_args()
    done = simulate(arguments.seed, arguments.backend, arguments.index)
    print("\n".join(done.trace[-arguments.trace :]))
    print(done.wrong or "nothing is wrong")
    print(f"{done.operations} operations, {done.commits} commits, {done.steps} steps")
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
