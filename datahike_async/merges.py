"""Merging branches: what two have in common, what one would take over, and taking it over.

The rules are those of ``merging``; here are the verbs, which find the states, and write. What is
given to decide (``resolve``, functions of strategies) is called in a worker thread, with plain
values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from datahike_async.collector import set_aside
from datahike_async.connection import Connection, require_connection, transact_on, writer_of
from datahike_async.database import Database
from datahike_async.edn.types import Keyword
from datahike_async.errors import (
    ArgumentError,
    CorruptData,
    MergeConflict,
    NameNotFound,
    SnapshotExpired,
    TransactionError,
    shown,
)
from datahike_async.index.source import Reading
from datahike_async.konserve.threads import in_thread
from datahike_async.merging.plan import CHOICES, Plan, Resolve
from datahike_async.merging.report import Conflict, MergeReport
from datahike_async.storage.branches.branching import neither
from datahike_async.storage.branches.graph import Graph
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.sharing import sharers
from datahike_async.tx.checks import check_value
from datahike_async.values.datom import Datom
from datahike_async.values.report import TxReport
from datahike_async.values.schema import Attr
from datahike_async.versions import database_at, diff, named_place, place_of

__all__ = [
    "Merging",
    "commit_db",
    "found_place",
    "graph_of",
    "made_plan",
    "merge",
    "merge_base",
    "merge_preview",
    "no_base",
    "refused",
    "require_agreed",
    "revert",
]

_ATTEMPTS: Final = 100
_SHOWN: Final = 5

_KINDS: Final = {
    ":transact/unique": "unique",
    ":transact/upsert": "identity",
    ":transact/schema": "schema-data",
    ":schema/validation": "schema-data",
    ":transact/attr-pred": "predicate",
    ":transact/attr-pred-unresolved": "predicate",
    ":transact/max-length": "predicate",
    ":transact/ensure": "ensure",
}
"""The kind of conflict that it is, where the result is refused as a transaction."""


async def merge_base(conn: Connection, a: Any, b: Any) -> tuple[UUID, ...]:
    """Return the newest commits that two branches, or commits, have in common.

    That is one, but where each of two branches has merged an older state of the other: then there
    may be several, the newest first. Reads no older commits than these. Raises NameNotFound
    ``:branch-does-not-exist``. ::

        await d.branch(conn, ":db", ":past")
        before = d.commit_id(conn.db())
        await conn.transact([{":person/name": "Ada"}])
        assert await d.merge_base(conn, ":db", ":past") == (before,)
    """
    conn = require_connection(conn)
    with konserve_errors():
        places = [await found_place(conn, side) for side in (a, b)]
        graph = graph_of(conn, places)
        return (await graph.parting(*(place.commit.id for place in places))).bases


async def merge_preview(
    conn: Connection,
    source: Any,
    *,
    on_conflict: str = "abort",
    resolve: Resolve | None = None,
) -> MergeReport:
    """Return what :func:`merge` would do: it writes nothing, and conflicts raise nothing.

    What is returned can be printed, and sent as JSON. ::

        await d.branch(conn, ":db", ":seen")
        async with d.connect(conn.config, branch=":seen") as seen:
            await seen.transact([{":person/email": "ada@example.org", ":person/name": "Lovelace"}])
        found = await d.merge_preview(conn, ":seen")
        assert [fact.v for fact in found.added] == ["Lovelace"]
        assert not found.conflicts
    """
    conn = require_connection(conn)
    merging = Merging(conn, on_conflict, resolve)
    with konserve_errors():
        place = await found_place(conn, source)
    ours = conn.db()
    report, items = await merging.plan(ours, place)
    if report.up_to_date or report.conflicts:
        return report
    try:
        await ours.merged_with(items)
    except TransactionError as error:
        return replace(report, conflicts=(refused(error),))
    return report


async def merge(
    conn: Connection,
    source: Any,
    *,
    on_conflict: str = "abort",
    resolve: Resolve | None = None,
    tx_meta: Mapping[Any, Any] | None = None,
) -> MergeReport:
    """Take over into a connection's branch what another branch, or commit, has changed.

    That is one transaction, whose commit has the other as a parent. What has changed is told by the
    newest commit that both have in common: what only one side changed is taken as it is there, and
    what both changed in different ways is a conflict. With ``on_conflict="abort"`` one conflict is
    enough for nothing to be written: it raises MergeConflict, whose ``report`` lists them all.
    ``"ours"`` and ``"theirs"`` settle those of the kinds ``value`` and ``deleted``; so does
    ``resolve``, a function that is given each such conflict and returns ``"ours"``, ``"theirs"``,
    ``"abort"``, the value as a list of one, an empty list for none, or None to leave it to
    ``on_conflict``. A strategy in the schema (``:db.merge/strategy``) comes before both. All other
    kinds always abort.

    Entities that both sides made are the same where they have the same unique identity: they keep
    our id. Entities of transactions are not merged. A commit that is in our past already is merged
    by doing nothing (``up_to_date``).

    A branch that is open here, too, is merged as it is known here, as ``conn.db()`` is: what other
    processes have written to it since is there after its ``sync()``.

    Returns the report, with that of the transaction. Raises MergeConflict ``:merge/conflict``,
    ``:merge/several-bases`` where the branches have merged one another crosswise and the bases do
    not merge, ``:merge/no-base`` where they have no common commit; NameNotFound
    ``:branch-does-not-exist``; and what ``transact`` raises. ::

        await d.branch(conn, ":db", ":taken")
        async with d.connect(conn.config, branch=":taken") as taken:
            await taken.transact([{":person/email": "ada@example.org", ":person/name": "Byron"}])
        report = await d.merge(conn, ":taken")
        assert report.transaction.db_after == conn.db()
        assert (await d.merge(conn, ":taken")).up_to_date
    """
    conn = require_connection(conn)
    merging = Merging(conn, on_conflict, resolve)
    writer_of(conn).require_writable()
    with konserve_errors():
        place = await found_place(conn, source)

    async def commit(ours: Database) -> tuple[MergeReport, TxReport | None]:
        report, items = await merging.plan(ours, place)
        if report.up_to_date:
            return report, None
        require_agreed(report)
        return report, await _transacted(conn, ours, report, items, tx_meta, (place.commit.id,))

    return await _published(conn, commit)


async def revert(
    conn: Connection,
    *transactions: Any,
    parent: int | None = None,
    on_conflict: str = "abort",
    resolve: Resolve | None = None,
    tx_meta: Mapping[Any, Any] | None = None,
) -> MergeReport:
    """Undo what transactions changed, in a new one.

    ``transactions`` are ids of transactions of this branch, ids of commits, or reports, those of
    merges too. They are undone from the newest to the oldest. What has changed since is a conflict,
    as with :func:`merge`: ours is what is now, theirs what was before. Of the commit of a merge
    ``parent`` says which side it is taken back to: 1 is the branch it was made on, 2 what was
    merged into it.

    Returns a report, whose ``bases`` are the commits that were undone; where there was nothing to
    undo any more it has no ``transaction``. Raises MergeConflict ``:merge/conflict``,
    NameNotFound ``:revert/no-such-transaction``, ArgumentError. ::

        report = await conn.transact([{":person/email": "cy@example.org", ":person/name": "Cy"}])
        undone = await d.revert(conn, report)
        assert {fact.v for fact in undone.retracted} == {"cy@example.org", "Cy"}
    """
    conn = require_connection(conn)
    merging = Merging(conn, on_conflict, resolve)
    if not transactions:
        raise ArgumentError("revert takes at least one transaction to undo.")
    if parent is not None and (type(parent) is not int or parent < 1):
        raise ArgumentError(f"parent is the number of a parent, 1 or 2, not {shown(parent)}.")
    writer_of(conn).require_writable()
    steps: dict[int, tuple[Database, Database]] = {}
    with konserve_errors():
        for one in transactions:
            after, before = await _undone(conn, one, parent)
            steps[after.max_tx] = after, before
    undone = [steps[tx] for tx in sorted(steps, reverse=True)]

    async def commit(ours: Database) -> tuple[MergeReport, TxReport | None]:
        report, items = await merging.undo(ours, undone)
        require_agreed(report)
        if not report.changes:
            return report, None
        return report, await _transacted(conn, ours, report, items, tx_meta, ())

    return await _published(conn, commit)


class Merging:
    """How a merge is to be made: ``options`` are what settles its conflicts."""

    def __init__(self, conn: Connection, on_conflict: str, resolve: Resolve | None) -> None:
        if on_conflict not in CHOICES:
            raise ArgumentError(
                f"on_conflict is 'abort', 'ours' or 'theirs', not {shown(on_conflict)}."
            )
        if resolve is not None and not callable(resolve):
            raise ArgumentError(f"resolve is a function of a conflict, not {shown(resolve)}.")
        self._conn = conn
        self.options: dict[str, Any] = {"on_conflict": on_conflict, "resolve": resolve}

    async def plan(self, ours: Database, place: Place) -> tuple[MergeReport, list[Any]]:
        """Return what taking over the commit at a place comes to, and the transaction."""
        conn, mine, other = self._conn, ours.commit_id, place.commit.id
        assert mine is not None
        with konserve_errors():
            graph = graph_of(conn, [place])
            bases, shared = await graph.parting(mine, other)
            report = MergeReport(ours=mine, theirs=other, bases=bases)
            if other in bases:
                return replace(report, up_to_date=True), []
            base = await self._base(graph, report)
            theirs = await database_at(conn, place)
        plan = await made_plan(base, ours, theirs, shared=shared, **self.options)
        found = replace(plan.report, ours=mine, theirs=other, bases=bases)
        if not found.conflicts:
            found = replace(found, conflicts=await _unfit(base, ours, theirs, plan.items))
        return found, plan.items

    async def _base(self, graph: Graph, report: MergeReport) -> Database:
        """Return the state that both sides are compared with."""
        if not report.bases:
            raise no_base(report)
        states = [await commit_db(self._conn, graph, commit) for commit in report.bases]
        if len(states) == 1:
            return states[0]
        # Each has merged an older state of the other: their common past is what these come to.
        below = (await graph.parting(*report.bases[:2])).bases
        if len(states) == 2 and len(below) == 1:
            base = await commit_db(self._conn, graph, below[0])
            plan = await made_plan(base, *states)
            if not plan.report.conflicts:
                try:
                    return await states[0].merged_with(plan.items)
                except TransactionError:
                    pass
        listed = ", ".join(map(str, report.bases))
        raise MergeConflict(
            f"The branches have merged one another crosswise: their newest common commits {listed} "
            "do not agree. Merge one branch into the other first, or merge by hand: merge_db.",
            error=":merge/several-bases",
            report=report,
        )

    async def undo(
        self, ours: Database, undone: Sequence[tuple[Database, Database]]
    ) -> tuple[MergeReport, list[Any]]:
        """Return what undoing states, the newest first, comes to, and the transaction."""
        bases = tuple(after.commit_id for after, _ in undone if after.commit_id is not None)
        state, settled = ours, list[Conflict]()
        for after, before in undone:
            plan = await made_plan(
                after, state, before, shared=before.max_tx, unify=False, **self.options
            )
            settled += plan.report.settled
            conflicts = plan.report.conflicts
            if not conflicts and len(undone) > 1:
                try:
                    state = await state.merged_with(plan.items)
                except TransactionError as error:
                    conflicts = (refused(error),)
            if conflicts:
                report = replace(plan.report, conflicts=conflicts)
                return replace(report, ours=ours.commit_id, bases=bases), []
        if len(undone) > 1:
            plan = await made_plan(ours, ours, state, shared=ours.max_tx, unify=False)
        report = replace(plan.report, settled=tuple(settled))
        return replace(report, ours=ours.commit_id, bases=bases), plan.items


async def _unfit(
    base: Database, ours: Database, theirs: Database, items: list[Any]
) -> tuple[Conflict, ...]:
    """Return what of ours since the base does not pass checks that theirs has got since then.

    What theirs asserted is checked as the transaction is; this has nobody checked yet.
    """
    new: dict[Keyword, Attr] = {}
    for attr in theirs.snapshot.schema.attrs:
        before = [of.snapshot.schema.by_key.get(attr.ident) for of in (base, ours)]
        known = [one for one in before if one is not None]
        preds = set(attr.preds).difference(*(one.preds for one in known))
        lengths = {one.max_length for one in known}
        if known and (preds or (attr.max_length is not None and attr.max_length not in lengths)):
            new[attr.ident] = attr
    if not new:
        return ()
    added = (await diff(base, ours)).added

    def check() -> list[tuple[Datom, str]]:
        wrong = []
        for datom in added:
            if datom.a in new:
                try:
                    check_value(new[datom.a], datom.v)
                except TransactionError as error:
                    wrong.append((datom, str(error)))
        return wrong

    wrong = await in_thread(check)
    if not wrong:
        return ()
    try:
        merged = await ours.merged_with(items)
    except TransactionError as error:
        return (refused(error),)
    return tuple(
        [
            Conflict("predicate", datom.e, datom.a, ours=datom.v, why=why)
            for datom, why in wrong
            if len(await merged.datoms("eavt", datom.e, datom.a, datom.v))
        ]
    )


def no_base(report: MergeReport) -> MergeConflict:
    """Return the error for two commits that have none in common: after a purge, for instance."""
    return MergeConflict(
        f"The commits {report.ours} and {report.theirs} have none in common, so nothing says what "
        "has changed; what a purge was made on is in the past of no branch any more. Merge by "
        "hand: merge_db.",
        error=":merge/no-base",
        report=report,
    )


async def made_plan(base: Database, ours: Database, theirs: Database, **options: Any) -> Plan:
    """Return the plan of a merge, made in a worker thread."""
    plan = Plan(base.view, ours.view, theirs.view, **options)
    with Reading() as reading, set_aside():
        await reading.call(plan.make, run=in_thread)
    return plan


def graph_of(conn: Connection, places: Sequence[Place]) -> Graph:
    """Return the graph of commits.

    Commits at places and before them, and those of branches that are open here, are found without
    asking the store where branches are.
    """
    opened = writer_of(conn).branch.opened

    async def find(commit: UUID) -> Place | None:
        lines = [(place.base, place.encoded) for place in places]
        for base, tail in (*lines, *(one.branch.line for one in sharers(opened))):
            # What a collection has removed is told by who looks everywhere.
            with suppress(CorruptData, SnapshotExpired):
                found = await opened.past.find(base, tail, commit)
                if found is not None:
                    return found
        return await place_of(conn, commit)

    graph = Graph(find)
    for place in places:
        graph.learn(place)
    return graph


async def found_place(conn: Connection, source: Any) -> Place:
    """Return where a branch or commit is."""
    place = await named_place(conn, source)
    if place is None:
        raise neither(source)
    return place


async def commit_db(conn: Connection, graph: Graph, commit: UUID) -> Database:
    """Return the database that a commit is. Raises SnapshotExpired where it is found no more."""
    place = await graph.find(commit)
    if place is None:
        raise SnapshotExpired(
            f"The commit {commit} is in the past of no branch any more.", commit=commit
        )
    return await database_at(conn, place)


async def _undone(conn: Connection, one: Any, parent: int | None) -> tuple[Database, Database]:
    """Return the state after a transaction, and the one that is to be gone back to."""
    writer = writer_of(conn)
    one = one.transaction if isinstance(one, MergeReport) and one.transaction else one
    of = one.db_after.commit_id if isinstance(one, TxReport) else one
    if isinstance(of, UUID):
        place = await place_of(conn, of)
    elif type(of) is int:
        place = await writer.branch.opened.past.at(*writer.branch.line, of)
    else:
        raise ArgumentError(
            "What is reverted is the id of a transaction, an int, or that of a commit, a UUID, or "
            f"the report of a transaction or a merge that was made, not {shown(of)}."
        )
    if place is None or not place.commit.parents:
        raise NameNotFound(
            f"{shown(of)} is no transaction that this branch has made.",
            error=":revert/no-such-transaction",
            transaction=of,
        )
    parents = place.commit.parents
    if len(parents) > 1 and parent is None:
        raise ArgumentError(
            f"{shown(of)} is a merge; say with parent= which side it is to be taken back to: 1 is "
            "the branch that it was made on, 2 what was merged into it.",
            parents=list(parents),
        )
    if len(parents) < (parent or 1):
        raise ArgumentError(f"{shown(of)} has {len(parents)} parents; parent={parent} is none.")
    after = await database_at(conn, place)
    return after, await commit_db(conn, graph_of(conn, [place]), parents[(parent or 1) - 1])


async def _transacted(
    conn: Connection,
    ours: Database,
    report: MergeReport,
    items: list[Any],
    tx_meta: Mapping[Any, Any] | None,
    parents: tuple[UUID, ...],
) -> TxReport:
    try:
        return await transact_on(conn, parents, items, tx_meta, expected_basis=ours)
    except TransactionError as error:
        if error.error == ":transact/basis-mismatch":
            raise
        require_agreed(replace(report, conflicts=(refused(error),)), error)
        raise


async def _published(
    conn: Connection,
    commit: Callable[[Database], Awaitable[tuple[MergeReport, TxReport | None]]],
) -> MergeReport:
    """Plan and commit until nobody has committed in between."""
    for attempt in range(_ATTEMPTS):
        try:
            report, transaction = await commit(conn.db())
        except TransactionError as error:
            if error.error != ":transact/basis-mismatch" or attempt == _ATTEMPTS - 1:
                raise
        else:
            return replace(report, transaction=transaction)
    raise AssertionError("the last attempt returns or raises")


def refused(error: TransactionError) -> Conflict:
    """Return the conflict that it is that a transaction is refused."""
    kind = _KINDS.get(error.error or "", "refused")
    entity, attribute = error.data.get(":entity-id"), error.data.get(":attribute")
    return Conflict(
        kind,
        entity if type(entity) is int else None,
        attribute if isinstance(attribute, Keyword) else None,
        why=str(error),
    )


def require_agreed(report: MergeReport, cause: BaseException | None = None) -> None:
    """Raise MergeConflict where a report has conflicts."""
    if not report.conflicts:
        return
    listed = "; ".join(str(one) for one in report.conflicts[:_SHOWN])
    left = len(report.conflicts) - _SHOWN
    raise MergeConflict(
        f"{len(report.conflicts)} conflicts, nothing was written. {listed}"
        + (f"; and {left} more" if left > 0 else ""),
        report=report,
    ) from cause
