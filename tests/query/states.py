"""States of merging in which databases of the oracle are queried, and how each is brought about.

A plan says where the trees lie, how few operations a transaction has, and what happens after each:
it stays in the memtable, becomes a run, runs are put together, all go into the base, something is
purged, nothing is resident any more. So any number of runs is met, over any base.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final, NamedTuple
from unittest import mock
from uuid import uuid4

from hypothesis import strategies as st

from datahike_async.database import Database, empty_db
from datahike_async.index.levels import merging, policy
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.merging import Merging
from datahike_async.index.persistent_set import tree
from datahike_async.index.protocol import Order
from datahike_async.index.source import read
from datahike_async.konserve.opening import create_store, delete_store, release_store
from datahike_async.konserve.store import Store
from datahike_async.snapshot import trees as snapshot_trees
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.snapshot.views import View
from datahike_async.storage import flush as flushing
from datahike_async.storage.flush import flush
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.log.records import Commit
from datahike_async.storage.nodes.layout import layout_of
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.tx.apply import absorbed
from datahike_async.values.types import typed_key
from tests.disk import Disk
from tests.indexes import INDEXES
from tests.query import generator, oracle

__all__ = ["PLANS", "Grown", "Plan", "grown", "plans", "states_of"]

Log = list[oracle.Datom]

WAIT, RUN, PAIR, JOIN, TIERS, DUE, ALL, PURGE = STEPS = (
    "stays in the memtable",
    "becomes a run",
    "the last two runs become one",
    "all runs become one",
    "runs are merged where more than two are of one size",
    "runs are merged as the policy says",
    "all runs go into the base",
    "something is purged",
)
PLACES: Final = ("memory", "disk", "disk", "store")
"""Never stored; a source that forgets nodes at random; what a flush of a database does."""


class Plan(NamedTuple):
    """How a database is brought about. ``at_once`` operations are a transaction; 0: as they come.

    After the first transaction ``steps[0]`` is done, after the others what comes then, again and
    again; and where it says so all is read anew.
    """

    place: str
    index: str
    at_once: int
    steps: Sequence[tuple[str, bool]]

    def step(self, i: int) -> tuple[str, bool]:
        first, *rest = self.steps
        return rest[(i - 1) % len(rest)] if i and rest else first


def plans(indexes: Sequence[str] = tuple(INDEXES)) -> st.SearchStrategy[Plan]:
    """Return a strategy of plans; the simplest of them leaves all in the memtable."""
    anew = st.integers(0, 3).map(lambda n: n == 3)
    first = st.tuples(st.sampled_from([WAIT, RUN, RUN, ALL, ALL, DUE]), anew)
    later = st.tuples(
        st.sampled_from([WAIT, RUN, RUN, RUN, RUN, PAIR, JOIN, TIERS, DUE, ALL, PURGE]), anew
    )
    return st.builds(
        lambda place, index, at_once, first, later: Plan(place, index, at_once, [first, *later]),
        st.sampled_from(PLACES),
        st.sampled_from(indexes),
        st.sampled_from([0, 0, 0, 8, 8, 8, 5, 5, 5, 2]),
        first,
        st.lists(later, min_size=1, max_size=3),
    )


PLANS: Final = plans()


class Grown:
    """A database after some transactions, with the log of all its datoms; and what it was before.

    ``earlier`` are values that were taken before later transactions, flushes and merges;
    ``purged`` says whether something was, ``anew`` whether nothing was resident in the end.
    """

    def __init__(self, db: Database) -> None:
        self.db = db
        self.log: Log = []
        self.earlier: list[tuple[Database, Log]] = []
        self.purged = self.anew = False

    def take(self, db: Database, datoms: Sequence[Any]) -> None:
        """Go on with the next value, which has some datoms more."""
        if self.log:
            self.earlier.append((self.db, self.log))
        self.db, self.log = db, [*self.log, *map(tuple, datoms)]


# -- steps -------------------------------------------------------------------------------------


@contextmanager
def chosen(step: str) -> Iterator[None]:
    """Have changes go to runs, and those be merged, as a step says; some rows at a time."""

    def due(base: int, runs: Sequence[int]) -> int | None:
        if step == ALL and runs:
            return -1
        if len(runs) < 2:
            return None
        return {PAIR: len(runs) - 2, JOIN: 0}.get(step)

    def never(base: int, rows: int) -> bool:
        return False

    patches: list[tuple[Any, str, Any]] = [
        *((tree, "_BRANCH", 4), (merging, "_READ", 64), (flushing, "_MERGED_ROWS", 5)),
    ]
    if step == TIERS:
        patches += [(policy, "MOST", 2), (policy, "_SHARE", -1), (policy, "_LOAD", -1)]
    elif step != DUE:
        patches += [(snapshot_trees, "due", due)]
        patches += [(snapshot_trees, name, never) for name in ("into_base", "loads_into_base")]
    with ExitStack() as stack:
        for module, name, value in patches:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


class Place:
    """Where trees lie, and how they get there."""

    async def flushed(self, base: Snapshot) -> Trees:
        """Return trees that hold a state, with those runs merged that are due."""
        trees = (await absorbed(base)).trees
        for past, first in trees.due:
            made: dict[Order, Levels] = {}
            for order, levels in trees.side(past=past).items():
                merge = Merging(levels, first)
                while await read(merge.step):
                    pass
                made[order] = merge.done()
            trees = trees.with_side(made, past=past)
        return trees

    def anew(self, trees: Trees) -> Trees:
        """Return the same trees, of which nothing is resident."""
        return trees


class OnDisk(Place):
    """Nodes are forgotten at random, at any look."""

    def __init__(self) -> None:
        self.disk: Disk | None = None
        self.record: Mapping[str, Any] = {}

    async def flushed(self, base: Snapshot) -> Trees:
        trees = await super().flushed(base)
        if self.disk is None:
            self.disk = Disk(len(trees), trees.factory.decode)
        # What a purge changed is resident until it is written, but not what it left.
        clean, self.record = await read(trees.flush, self.disk)
        return clean

    def anew(self, trees: Trees) -> Trees:
        assert self.disk is not None
        self.disk.nodes.clear()
        return Trees.restore(trees.factory, trees.config, self.record, self.disk)


class InStore(Place):
    """What a flush of a database does, on a store in memory, with room for few nodes."""

    def __init__(self, store: Store, decode: Callable[[bytes], Any]) -> None:
        self.store = store
        self.source = self._source(decode)
        self.base: Checkpoint | None = None

    def _source(self, decode: Callable[[bytes], Any]) -> NodeStore:
        return NodeStore(self.store, decode, 2000)

    async def flushed(self, base: Snapshot) -> Trees:
        id_ = uuid4()

        def checkpoint(trees: Mapping[str, Any], log: Any) -> Checkpoint:
            now, commit = datetime.now(UTC), Commit(id_)
            schema = base.schema.to_data()
            made = Checkpoint(
                id_, "db", id_, base.trees.config, schema, trees, now, log, now, id_, commit
            )
            return made.with_encoding()

        done = await flush(
            base,
            (),
            None,
            store=self.store,
            source=self.source,
            layout=layout_of(self.store.capabilities),
            id=id_,
            checkpoint=checkpoint,
        )
        self.base = decode_checkpoint(done.base.encoded, checkpoint_key(id_))
        return done.trees

    def anew(self, trees: Trees) -> Trees:
        assert self.base is not None
        self.source = self._source(trees.factory.decode)
        return Trees.restore(trees.factory, trees.config, self.base.trees, self.source)


@asynccontextmanager
async def placed(place: str, trees: Trees) -> AsyncIterator[Place]:
    if place != "store":
        yield Place() if place == "memory" else OnDisk()
        return
    config = {"backend": "memory", "id": str(uuid4())}
    store = await create_store(config)
    try:
        yield InStore(store, trees.factory.decode)
    finally:
        await release_store(store)
        await delete_store(config)


# -- databases ---------------------------------------------------------------------------------


@asynccontextmanager
async def grown(history: Sequence[Sequence[Any]], plan: Plan) -> AsyncIterator[Grown]:
    """Have a database after some transactions, brought about by a plan."""
    db = empty_db(generator.SCHEMA, keep_history=True, **INDEXES[plan.index])
    out = Grown(db)
    async with placed(plan.place, db.snapshot.trees) as place:
        for i, operations in enumerate(parted(history, plan.at_once)):
            report = await out.db.with_(operations)
            out.take(report.db_after, report.tx_data)
            out.anew = False
            step, anew = plan.step(i)
            with chosen(step):
                if step == PURGE:
                    await _purge(out, i)
                elif step != WAIT:
                    base = out.db.snapshot
                    trees = await place.flushed(base)
                    out.anew = anew and plan.place != "memory"
                    trees = place.anew(trees) if anew else trees
                    out.take(Database(View(Snapshot.over(base, trees))), ())
        yield out


def parted(history: Sequence[Sequence[Any]], at_once: int) -> Iterator[Sequence[Any]]:
    """Yield transactions of so many operations, or those that were given."""
    if not at_once:
        yield from history
        return
    every = [operation for operations in history for operation in operations]
    # What names entities stays together.
    yield every[: len(generator.NAMED)]
    for at in range(len(generator.NAMED), len(every), at_once):
        yield every[at : at + at_once]


async def _purge(out: Grown, i: int) -> None:
    """Purge an attribute of an entity, or one value of it, that is or was there."""
    facts = [x for x in out.log if x[1] in generator.ATTRIBUTES]
    if not facts:
        return
    e, a, v, *_ = facts[i * 7 % len(facts)]
    whole = [":db.purge/attribute", e, a]
    report = await out.db.with_([whole if i % 2 else [":db/purge", e, a, v]])
    out.take(report.db_after, report.tx_data)
    out.purged = True
    out.log = [
        x for x in out.log if x[:2] != (e, a) or not (i % 2 or typed_key(x[2]) == typed_key(v))
    ]


# -- what was met ------------------------------------------------------------------------------


def named(levels: Levels, rows: int) -> Iterator[str]:
    """Yield the names of the states that levels are in, with so many rows in the memtable."""
    runs = [run for run in levels.runs if len(run)]
    count = "no run" if not runs else "one run" if len(runs) == 1 else "several runs"
    below = "an empty base" if not len(levels.base) else "a base"
    yield f"{count} over {below}, {'some' if rows else 'nothing'} in the memtable"
    if len(runs) >= policy.MOST:
        yield "as many runs as there may be"
    if any(run.is_fresh for run in runs):
        yield "a run that was never stored"
    if len(runs) > 1:
        sizes = [len(run) for run in runs]
        yield "a larger run below a smaller" if sizes[0] > sizes[-1] else "runs of one size"
    sides = [[set(_facts(each)) for each in run.sets] for run in runs]
    for i, (_, gone) in enumerate(sides):
        for (new, _), back in product(sides[:i], ([], *(new for new, _ in sides[i + 1 :]))):
            both = new & gone
            if both:
                yield "added in a run and removed in a later one"
            if both.intersection(back):
                yield "added, removed and added again in three runs"


def _facts(held: Any) -> Iterator[Any]:
    for rows in held.slice():
        for e, a, v in zip(rows.e.tolist(), rows.a.tolist(), rows.v.tolist(), strict=True):
            yield e, a, typed_key(v)


async def states_of(grown: Grown, index: str) -> list[str]:
    """Return the names of the states that the indexes of a database are in."""
    snapshot = grown.db.snapshot
    found: list[str] = []
    for past, name in ((False, "now"), (True, "past")):
        levels = snapshot.trees.side(past=past)[Order.EAVT]
        names = await read(lambda levels=levels: list(named(levels, snapshot.n)))
        found += [f"{name}: {one}" for one in dict.fromkeys(names)]
    if grown.purged:
        found.append("something was purged")
    if grown.anew:
        found.append("nothing resident")
    return [f"{index}: {name}" for name in found]
