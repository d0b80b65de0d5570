"""Scenes: transactions, merges and undoings on three branches, each held to the oracle.

A scene is a list of numbers, so that one that fails can be made shorter. Everything goes through a
stored database; the oracle keeps its own states, graph of commits and ids.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

import anyio

import datahike_async as d
from datahike_async.merges import Merging
from datahike_async.transactor.limits import Limits
from datahike_async.versions import named_place
from tests.indexes import INDEXES
from tests.merging import oracle
from tests.merging.oracle import IDENTITY, MANY, REFS, Outcome, Refused, State

BRANCHES = ("db", "b", "c")
TX0 = 0x20000000
LIMITS = {
    "flushing": Limits(
        flush_rows=25, flush_bytes=1_500, flush_journal_bytes=3_000, close_rows=10**9
    ),
    "tail": Limits(close_rows=10**9),
}


def _attribute(name: str) -> dict[str, Any]:
    kind = "ref" if name in REFS else "string" if name in (":key", ":code", *MANY) else "long"
    out: dict[str, Any] = {
        ":db/ident": name,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": f":db.cardinality/{'many' if name in MANY else 'one'}",
    }
    if name in oracle.UNIQUE:
        out[":db/unique"] = f":db.unique/{'identity' if name in IDENTITY else 'value'}"
    strategy = {":max": ":db.merge/max", ":all": ":db.merge/both", ":sum": ":test.merging/add"}
    if name in strategy:
        out[":db.merge/strategy"] = strategy[name]
    return out


SCHEMA = [_attribute(name) for name in sorted(oracle.ONE | MANY)]
SCHEMA.append(
    {
        ":db/ident": ":pair",
        ":db/valueType": ":db.type/tuple",
        ":db/cardinality": ":db.cardinality/one",
        ":db/tupleAttrs": [d.kw("l"), d.kw("r")],
        ":db/unique": ":db.unique/identity",
    }
)
NAMES = sorted(oracle.ONE | MANY)
KINDS = (*["make"] * 3, *["add"] * 8, *["retract"] * 2, "gone", *["merge"] * 5, "undo")

Step = tuple[int, int, int, int, int]


class Play(NamedTuple):
    """What is played: the steps, how often is flushed, which attributes, on which index."""

    steps: list[Step]
    limits: str
    names: list[str]
    index: str


def play_of(rng: random.Random) -> Play:
    """Return a play: few entities, attributes and values, so that they often meet."""
    steps = [(0, *_draw(rng)) for _ in range(rng.randrange(4))]
    steps += [(rng.randrange(len(KINDS)), *_draw(rng)) for _ in range(rng.randrange(8, 30))]
    names = rng.sample(NAMES, rng.randrange(2, len(NAMES)))
    index = list(INDEXES)[len(steps) % len(INDEXES)]
    return Play(steps, rng.choice(sorted(LIMITS)), names, index)


def _draw(rng: random.Random) -> tuple[int, int, int, int]:
    return rng.randrange(6), rng.randrange(12), rng.randrange(12), rng.randrange(12)


def added(base: Any, ours: Any, theirs: Any) -> int:
    return (ours or 0) + (theirs or 0) - (base or 0)


@dataclass
class Commit:
    """A commit of the oracle: its state, and what it was made on."""

    state: State
    parents: list[Commit] = field(default_factory=list)
    id: Any = None
    tx: int = 0

    def past(self) -> dict[int, Commit]:
        out: dict[int, Commit] = {}
        waiting: list[Commit] = [self]
        while waiting:
            one = waiting.pop()
            if id(one) not in out:
                out[id(one)] = one
                waiting += one.parents
        return out


def bases_of(left: Commit, right: Commit) -> list[Commit]:
    """Return the newest common ancestors, found by looking at all."""
    right_past = right.past()
    common = [one for key, one in left.past().items() if key in right_past]
    return [
        one
        for one in common
        if not any(other is not one and id(one) in other.past() for other in common)
    ]


class Scene:
    """Three branches, and what the oracle thinks of them."""

    def __init__(self, conns: list[d.Connection], start: Commit, names: list[str]) -> None:
        self.conns = conns
        self.names = names
        self.heads = [start for _ in conns]
        self.fresh = 1000
        self.merges = 0

    async def run(self, steps: list[Step]) -> int:
        for kind, at, x, y, z in steps:
            i = at % len(self.conns)
            name = KINDS[kind]
            if name == "merge":
                await self.merge(i, (i + 1 + x % 2) % len(self.conns), z)
            elif name == "undo":
                await self.undo(i, z)
            else:
                await self.transact(i, self.ops(name, i, x, y, z))
        return self.merges

    # -- transactions --------------------------------------------------------------------------

    def ops(self, name: str, i: int, x: int, y: int, z: int) -> list[tuple[Any, ...]]:
        state = self.heads[i].state
        known = sorted(state.entities())
        if name == "make" or not known:
            self.fresh += 1
            own = [self.value(self.fresh, known, x, z)]
            if y % 3:
                # Something that others may make, too.
                own.append((":key", f"k{z % 4}") if y % 2 else (":l", z % 3))
            return [("add", self.fresh, a, v) for a, v in dict(own).items()]
        e = known[y % min(len(known), 4)]
        if name == "gone":
            return [("gone", e)]
        if name == "retract":
            own = sorted((f for f in state.facts if f[0] == e), key=str)
            return [("retract", *own[x % len(own)])]
        return [("add", e, *self.value(e, known, x, z))]

    def value(self, e: int, known: list[int], x: int, z: int) -> tuple[str, Any]:
        a = self.names[x % len(self.names)]
        if a in REFS:
            return a, known[z % len(known)] if known else e
        return a, f"{a[1]}{z % 4}" if a in (":key", ":code", *MANY) else z % 3

    async def transact(self, i: int, ops: list[tuple[Any, ...]]) -> None:
        conn, head = self.conns[i], self.heads[i]
        data = [
            [":db/retractEntity", e] if op == "gone" else [f":db/{op}", e, *rest]
            for op, e, *rest in ops
        ]
        try:
            wanted: State | None = head.state.changed(ops)
        except Refused:
            wanted = None
        try:
            report = await conn.transact(data)
        except d.TransactionError as error:
            assert wanted is None, error
            return
        assert wanted is not None, data
        await self.moved(i, wanted, [head], report)

    async def moved(self, i: int, state: State, parents: list[Commit], report: d.TxReport) -> None:
        db = report.db_after
        assert d.parent_commit_ids(db) == {parent.id for parent in parents}
        assert all(parent.tx < report.tx for parent in parents)
        self.heads[i] = Commit(state, parents, d.commit_id(db), report.tx)
        assert await said(db) == expected(state)

    # -- merges --------------------------------------------------------------------------------

    async def merge(self, i: int, j: int, z: int) -> None:
        conn, ours, theirs = self.conns[i], self.heads[i], self.heads[j]
        bases = bases_of(ours, theirs)
        assert set(await d.merge_base(conn, ours.id, theirs.id)) == {one.id for one in bases}
        options: dict[str, Any] = {"on_conflict": ("abort", "ours", "theirs")[z % 3]}
        source: Any = theirs.id if z % 2 else BRANCHES[j]
        if len(bases) > 1:
            return
        seen = await d.merge_preview(conn, source, **options)
        if bases[0] is theirs:
            assert seen.up_to_date
            assert (await d.merge(conn, source, **options)) == seen
            assert d.commit_id(conn.db()) == ours.id
            return
        self.merges += 1
        wanted = oracle.merged(bases[0].state, ours.state, theirs.state, **options)
        if not z % 3:
            await self.both_ways(i, j, seen, wanted)
        try:
            report = await d.merge(conn, source, **options)
        except d.MergeConflict as error:
            assert error.report == seen
            self.agree(seen, wanted)
            assert d.commit_id(conn.db()) == ours.id
            return
        assert report == seen
        assert not wanted.conflicts, wanted.conflicts
        assert wanted.state is not None
        assert report.transaction is not None
        await self.moved(i, wanted.state, [ours, theirs], report.transaction)
        self.same(report, wanted)
        again = await d.merge(conn, source, **options)
        assert again.up_to_date

    def same(self, report: d.MergeReport, wanted: Outcome) -> None:
        of = wanted.classes
        assert {of.get(x, x) for x in report.same} == set(wanted.same.values())
        assert all(of.get(x, x) == of.get(h, h) for x, h in report.same.items())

    def agree(self, report: d.MergeReport, wanted: Outcome) -> None:
        """Hold conflicts to those of the oracle."""
        of = wanted.classes
        found = {
            (one.kind, of.get(one.entity or 0, one.entity), one.attribute and str(one.attribute))
            for one in report.conflicts
        }
        kinds = {kind for kind, _, _ in wanted.conflicts}
        if wanted.refused or "identity" in kinds:
            # Of those only one is told; where it is not clear who is who, the rest is not either.
            assert {kind for kind, _, _ in found} >= {"identity"} & kinds
            assert not wanted.refused or {kind for kind, _, _ in found} == {"unique"}
        else:
            assert found == wanted.conflicts, (found, wanted.conflicts)

    async def both_ways(self, i: int, j: int, seen: d.MergeReport, wanted: Outcome) -> None:
        """Merging the other way round comes to the same, up to the names of entities."""
        other, place = self.conns[j], await named_place(self.conns[j], BRANCHES[i])
        assert place is not None
        report, items = await Merging(other, "abort", None).plan(other.db(), place)
        if report.up_to_date:
            return
        of = wanted.classes

        def canon(found: d.MergeReport) -> set[Any]:
            return {(c.kind, of.get(c.entity or 0, c.entity), c.attribute) for c in found.conflicts}

        if wanted.refused or any(kind == "identity" for kind, _, _ in wanted.conflicts):
            return
        if seen.conflicts:
            assert {c[0] for c in canon(seen)} == {c[0] for c in canon(report)}
            assert {c for c in canon(seen) if c[0] != "unique"} == {
                c for c in canon(report) if c[0] != "unique"
            }
            return
        assert not report.conflicts
        assert wanted.state is not None
        mirrored = await said(await other.db().merged_with(items))
        names = {(of.get(e, e), a, of.get(v, v) if a in REFS else v) for e, a, v in mirrored}
        state = expected(wanted.state)
        assert names == {(of.get(e, e), a, of.get(v, v) if a in REFS else v) for e, a, v in state}

    async def undo(self, i: int, z: int) -> None:
        """Undo the newest transaction but z of a branch."""
        conn, head = self.conns[i], self.heads[i]
        undone = head
        for _ in range(z % 3):
            if undone.parents and undone.parents[0].parents:
                undone = undone.parents[0]
        if not undone.parents or undone.tx == TX0 + 1 or not undone.parents[0].tx:
            return
        number = 1
        if len(undone.parents) > 1:
            options: dict[str, Any] = {"parent": number}
        else:
            options = {}
        before = undone.parents[0]
        wanted = oracle.merged(undone.state, head.state, before.state, unify=False)
        try:
            report = await d.revert(conn, undone.id, **options)
        except d.MergeConflict as error:
            assert wanted.conflicts
            self.agree(error.report, wanted)
            return
        assert not wanted.conflicts, wanted.conflicts
        assert wanted.state is not None
        if report.transaction is None:
            assert expected(wanted.state) == expected(head.state)
            return
        await self.moved(i, wanted.state, [head], report.transaction)
        if undone is head:
            found = await d.diff(conn.db(), (await d.commit_as_db(conn, before.id)) or conn.db())
            assert len(undone.parents) > 1 or (not found.added and not found.removed)


def expected(state: State) -> set[tuple[int, str, Any]]:
    return set(state.facts) | oracle.pairs(state.facts)


async def said(db: d.Database) -> set[tuple[int, str, Any]]:
    """Return the facts of a database, without definitions, transactions and names."""
    datoms = await db.datoms("eavt")
    return {
        (x.e, str(x.a), x.v) for x in datoms if 1000 < x.e < TX0 and x.a != d.kw("db.merge/also")
    }


async def play(steps: list[Step], limits: str, names: list[str], index: str) -> int:
    """Play a scene; return how many merges there were."""
    d.register_function("test.merging/add", added)
    config = {"store": {"backend": "memory", "id": uuid4()}, **INDEXES[index]}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        main = await enter(d.connect(config, create=True, limits=LIMITS[limits]))
        report = await main.transact(SCHEMA)
        root = Commit(State(), [], d.commit_id(report.db_before), report.db_before.max_tx)
        start = Commit(State(), [root], d.commit_id(report.db_after), report.tx)
        conns = [main]
        for name in BRANCHES[1:]:
            await d.branch(main, ":db", f":{name}")
            conns.append(await enter(d.connect(main.config, branch=name, limits=LIMITS[limits])))
        return await Scene(conns, start, names).run(steps)


def run(backend: str, wanted: Play) -> int:
    return anyio.run(play, *wanted, backend=backend)
