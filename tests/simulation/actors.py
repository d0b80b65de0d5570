"""Those who use a simulated database: each does one operation after another, and checks answers.

An operation ends as it should, or with an error that it may end with; an answer is right, or it is
Wrong. What may have happened although nobody was told is left to be found out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import anyio

import datahike_async as d
from datahike_async.konserve.errors import KonserveError
from datahike_async.transactor.limits import Limits
from tests.simulation.model import (
    Branch,
    Commit,
    Facts,
    Intent,
    Model,
    Wrong,
    added,
    merged,
    said,
    short,
)
from tests.simulation.world import DEAD, Process, World

__all__ = ["LIMITS", "Actor", "facts_of", "verdict"]

LIMITS: Final = Limits(
    flush_rows=30,
    flush_bytes=2500,
    flush_journal_bytes=3000,
    close_rows=10**9,
    settle_seconds=5.0,
)
NAMES: Final = ("a", "b", "c")
KEYS: Final = 9
ATTRIBUTES: Final = {d.kw(name): name for name in ("k", "v", "m", "r")}
OP: Final = d.kw("op")

Doing = Callable[["Actor"], Awaitable[Any]]


async def facts_of(db: d.Database, index: str = "eavt") -> Facts:
    """Return what a database says, entities by their keys."""
    if index == "eavt":
        found = [(x.e, ATTRIBUTES.get(x.a), x.v) for x in await db.datoms("eavt")]
    else:
        found = [
            (x.e, name, x.v)
            for attribute, name in ATTRIBUTES.items()
            for x in await db.datoms("aevt", attribute)
        ]
    keys = {e: v for e, name, v in found if name == "k"}
    if len(set(keys.values())) != len(keys):
        raise Wrong(f"two entities have one key: {sorted(keys.values())}")
    try:
        return frozenset(
            (keys[e], name, keys[v] if name == "r" else v)
            for e, name, v in found
            if name is not None
        )
    except KeyError as error:
        raise Wrong(f"entity {error} has no key, or is referred to and is not there") from None


def verdict(error: BaseException) -> str:
    """Say what an error means: "unknown" whether it happened, "no", or what is wrong."""
    if isinstance(error, d.TransactionOutcomeUnknown):
        return "unknown"
    if isinstance(error, d.CorruptData):
        return "wrong"
    if isinstance(error, (d.DatahikeError, ExceptionGroup)):
        return "no"
    return "wrong"


def told(error: BaseException) -> str:
    """Return what an error says, without revisions, which no two runs share."""
    return re.sub(r"[0-9a-f]{40}|(?<=revision )\w+|(?<=, not )\w+", "…", str(error))[:200]


class Actor:
    """One who does one thing after another, in a process."""

    def __init__(self, world: World, model: Model, process: Process, history: bool) -> None:
        self.world = world
        self.model = model
        self.process = process
        self.history = history
        self.chance = world.chance
        self.conns: dict[str, d.Connection] = {}
        self.held: list[tuple[d.Database, Commit]] = []
        self.pinned: list[UUID] = []

    # -- connections -----------------------------------------------------------------------------

    async def conn(self, branch: str) -> d.Connection:
        found = self.conns.get(branch)
        if found is not None:
            return found
        made = await d.connect(
            self.world.config(self.process, branch),
            env=self.world.env(self.process),
            limits=LIMITS,
            store_cache_size=1,
        )
        if branch in self.conns:
            await made.release()
        return self.conns.setdefault(branch, made)

    async def drop(self, branch: str) -> None:
        conn = self.conns.pop(branch, None)
        if conn is not None:
            await conn.release()

    async def release(self) -> None:
        for branch in list(self.conns):
            with anyio.CancelScope(shield=True):
                await self.drop(branch)

    def pick(self, items: Any) -> Any:
        found = list(items)
        return found[int(self.chance.random() * len(found))]

    def some_branch(self, *, side: bool = False) -> str | None:
        names = [
            name
            for name, branch in self.model.branches.items()
            if branch.there is not False and not (side and name == "db")
        ]
        if not names:
            return None
        return "db" if not side and self.chance.random() < 0.4 else self.pick(names)

    def at(self, name: str) -> tuple[Branch, int, UUID | None]:
        """Return a branch, which of its lives it is in, and what it is known to be.

        It is in none, -1, while something that was done to it as a whole may still land: what was
        read of it by then may be from before.
        """
        branch = self.model.branches.setdefault(name, Branch(there=None))
        return branch, -1 if branch.unsettled else branch.line, branch.tip

    # -- one operation ---------------------------------------------------------------------------

    async def operate(self, doing: Doing) -> None:
        """Do something, as far as it gets."""
        name = getattr(doing, "__name__", "")
        self.world.note(f"{self.process.number}: {name}")
        with anyio.CancelScope() as scope:
            self.process.operations.append(scope)
            try:
                await doing(self)
            except Exception as error:
                if isinstance(error, KonserveError) and DEAD in str(error):
                    return
                if verdict(error) == "wrong":
                    raise
                self.world.note(
                    f"{self.process.number}: {name} {type(error).__name__} {told(error)}"
                )
                self._may(error)
                if isinstance(error, (d.WriterError, d.DatabaseNotFound, d.ConnectionClosed)):
                    for branch in list(self.conns):
                        with anyio.CancelScope(shield=True):
                            await self.drop(branch)
            finally:
                self.process.operations.remove(scope)

    def _may(self, error: BaseException) -> None:
        """Raise Wrong for an error that nothing has gone wrong for."""
        if self.world.rates.fault or self.world.rates.kill or not self.process.alive:
            return
        if isinstance(error, d.StorageError) and not isinstance(error, d.SnapshotExpired):
            raise Wrong(f"nothing failed, and yet: {error!r}") from error

    # -- learning of commits ---------------------------------------------------------------------

    async def learn(self, conn: d.Connection, db: d.Database) -> Commit:
        """Return the commit that a database is; one that nobody was told of is looked at."""
        model = self.model
        assert db.commit_id is not None
        known = model.commits.get(db.commit_id)
        if known is not None:
            return known
        facts = await facts_of(db)
        intent: Intent | None = None
        if self.history:
            marks = [x.v for x in await db.datoms("eavt", db.max_tx) if x.a == OP]
            intent = model.intents.get(marks[0]) if marks else None
        parents = tuple(sorted(db.parent_commit_ids))
        if intent is not None and intent.what == "merge" and intent.source in parents:
            assert intent.source is not None
            parents = (*(p for p in parents if p != intent.source), intent.source)
        for parent in parents:
            if parent not in model.commits:
                try:
                    there = await d.commit_as_db(conn, parent)
                    if there is not None:
                        await self.learn(conn, there)
                except d.SnapshotExpired:
                    pass
        if db.commit_id in model.commits:
            return model.commits[db.commit_id]
        if not self.history:
            # Nothing in the database says whose it is: by what it has become.
            intent = self.fitting(parents, facts)
            if intent is not None and intent.source in parents:
                parents = (*(p for p in parents if p != intent.source), intent.source)  # type: ignore[arg-type]
        before = model.commits.get(parents[0]) if len(parents) == 1 else None
        if before is not None and db.max_tx <= before.tx:
            intent = None  # whatever made it: it was forced to be on that
        commit = Commit(db.commit_id, parents, facts, db.max_tx)
        commit.alone = bool(parents) and parents[0] not in model.commits
        self.world.note(f"found {short(commit.id)} of {intent and intent.number}")
        if intent is None or (intent.times and self.history):
            # Of a branch that was forced or rebased, or nobody's.
            whats = {i.what for i in model.intents.values()}
            again = intent is not None and self.history and intent.tx not in (None, commit.tx)
            if "rebase" not in whats and (again or "force" not in whats):
                what = "nobody's" if intent is None else f"intent {intent.number} again"
                raise Wrong(f"commit {short(commit.id)} is {what}")
            commit.begins = True
            return model.add(commit)
        intent.tx = commit.tx
        intent.times += 1
        if intent.status == "no":
            raise Wrong(f"intent {intent.number} was refused, and is there: {short(commit.id)}")
        commit.begins = intent.purges
        self.expect(intent, commit)
        return model.add(commit)

    def fitting(self, parents: tuple[UUID, ...], facts: Facts) -> Intent | None:
        """Return an intent that makes facts of what a commit was made on."""
        parent = self.model.commits.get(parents[0]) if parents else None
        # What others have done that comes to the same may have been taken for it.
        rank = {"sent": 0, "done": 1, "no": 4}
        intents = self.model.intents.values()
        for intent in sorted(intents, key=lambda x: rank[x.status] + 2 * bool(x.times)):
            if len(parents) > 1:
                if intent.what == "merge" and intent.source in parents:
                    return intent
            elif intent.make is not None and (parent is None or intent.fits(parent.facts, facts)):
                return intent
        return None

    def expect(self, intent: Intent, commit: Commit) -> None:
        """Compare what a commit says with what it was to say."""
        parent = self.model.commits.get(commit.parents[0]) if commit.parents else None
        if parent is None:
            return
        wanted: Facts | None = None
        if intent.make is not None:
            wanted = intent.make(parent.facts)
        elif intent.what == "merge" and intent.source in self.model.commits:
            assert intent.source is not None
            base = self.model.base(parent.id, intent.source)
            if base is not None:
                source = self.model.commits[intent.source].facts
                wanted, _, gone = merged(base.facts, parent.facts, source, intent.settle)
                if gone and intent.settle != "abort":
                    wanted = None
        if intent.make is not None and intent.fits(parent.facts, commit.facts):
            return
        if wanted is not None and wanted != commit.facts:
            raise Wrong(
                f"{intent.what} {intent.number} made {short(commit.id)}, which lacks "
                f"[{said(wanted - commit.facts)}] and has [{said(commit.facts - wanted)}]"
            )

    async def committed(
        self,
        intent: Intent,
        send: Callable[[], Awaitable[Any]],
        conn: d.Connection,
        report_of: Callable[[Any], d.TxReport | None] = lambda done: done,
        *,
        sent: int | None = None,
    ) -> Commit | None:
        """Send a transaction, and take in what is answered.

        ``sent``: that was done before, in this life of its branch.
        """
        model = self.model
        model.intents[intent.number] = intent
        _, line, before = self.at(intent.branch)
        if sent is not None:
            line, before = sent, None
        self.world.note(f"{self.process.number}: {intent.what} {intent.number} on {intent.branch}")
        try:
            done = await send()
        except Exception as error:
            intent.over = True
            if not self.process.alive or DEAD in str(error):
                raise
            if verdict(error) == "no":
                if intent.times and self.history:
                    raise Wrong(f"intent {intent.number} is there, and refused: {error}") from error
                intent.status = "no"
            raise
        except BaseException:
            intent.over = True
            raise
        intent.status, intent.over = "done", True
        report = report_of(done)
        if report is None:
            return None
        with anyio.CancelScope(shield=True):
            try:
                parent = await self.learn(conn, report.db_before)
                if self.chance.random() < 0.1 or intent.make is None or intent.others:
                    commit = await self.learn(conn, report.db_after)
                else:
                    assert report.db_after.commit_id is not None
                    commit = model.commits.get(report.db_after.commit_id) or Commit(
                        report.db_after.commit_id,
                        (parent.id,),
                        intent.make(parent.facts),
                        report.db_after.max_tx,
                        intent.purges,
                    )
                    intent.times, intent.tx = 1, commit.tx
                    model.add(commit)
            except d.SnapshotExpired:
                return None
        self.world.note(
            f"{self.process.number}: {intent.number} is {short(commit.id)} on {short(parent.id)}"
        )
        model.moved(intent.branch, line, before, commit.id)
        return commit

    async def seen(
        self, conn: d.Connection, db: d.Database, name: str, line: int, before: UUID | None
    ) -> Commit:
        """Take in what a branch is, and check it."""
        commit = await self.learn(conn, db)
        self.model.moved(name, line, before, commit.id)
        return commit

    async def check(self, db: d.Database, commit: Commit, *, kept: bool, what: str) -> None:
        """Read a database; wrong is what is not what it was, or has expired and is ``kept``."""
        try:
            found = await facts_of(db, self.pick(("eavt", "aevt")))
        except d.SnapshotExpired:
            if kept:
                raise Wrong(f"{what} {short(commit.id)} has expired") from None
            return
        if found != commit.facts:
            raise Wrong(
                f"{what} {short(commit.id)} lacks [{said(commit.facts - found)}] and has "
                f"[{said(found - commit.facts)}]"
            )

    def number(self) -> int:
        self.model.counted += 1
        return self.model.counted

    def change(self) -> tuple[list[Any], Callable[[Facts], Facts]]:
        """Return transaction data, and what it makes of facts."""
        r = self.chance.random()
        key, value = int(self.chance.random() * KEYS), int(self.chance.random() * 1_000_000)
        if r < 0.45:
            return [{":k": key, ":v": value}], lambda facts: added(facts, key, "v", value)
        if r < 0.7:
            return [{":k": key, ":m": value % 7}], lambda facts: added(facts, key, "m", value % 7)
        if r < 0.88:
            other = value % KEYS
            if other == key:
                other = (key + 1) % KEYS
            data = [{":k": key, ":r": {":k": other}}]
            return data, lambda facts: added(facts, key, "r", other)
        other = 100 + value % 50
        data = [{":k": key, ":v": value}, {":k": other, ":v": 1}]
        return data, lambda facts: added(added(facts, key, "v", value), other, "v", 1)
