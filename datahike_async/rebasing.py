"""Rebasing a branch: its own commits again, on top of another branch.

All is computed first, on database values; then the commits are made on a branch beside, and last
the branch becomes that one, by one compare-and-set of its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async.connection import (
    Connection,
    connect,
    require_connection,
    transact_on,
    writer_of,
)
from datahike_async.database import Database
from datahike_async.edn import reader
from datahike_async.edn.types import Keyword
from datahike_async.errors import HeadConflict, TransactionError
from datahike_async.index.source import read
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.loops import surely
from datahike_async.merges import (
    Merging,
    commit_db,
    found_place,
    graph_of,
    made_plan,
    no_base,
    refused,
    require_agreed,
)
from datahike_async.merging.names import array, survivors
from datahike_async.merging.plan import Resolve
from datahike_async.merging.report import MergeReport
from datahike_async.storage.branches.moving import move_branch
from datahike_async.storage.translate import konserve_errors
from datahike_async.tx.answers import first_answer
from datahike_async.values.schema import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_TEMPIDS,
    KEPT_FOR_US,
    TX_INSTANT,
)
from datahike_async.versions import branch, delete_branch, shut_branch

__all__ = ["rebase"]

_ATTEMPTS: Final = 5


class _Said(NamedTuple):
    """What was said of a transaction, and what whoever sends it again is answered."""

    meta: Mapping[Any, Any]
    key: str | None
    tempids: Mapping[Any, int]


class _Again(NamedTuple):
    """A commit that is made again: what it comes to, its transaction, and what was said of it."""

    report: MergeReport
    items: list[Any]
    said: _Said


async def rebase(
    conn: Connection,
    onto: Any,
    *,
    on_conflict: str = "abort",
    resolve: Resolve | None = None,
) -> list[MergeReport]:
    """Make the commits of a connection's branch that ``onto`` lacks again, on top of it.

    ``onto`` is a branch or a commit. What each commit changed is taken over, as by ``merge``, one
    after the other and under new ids of transactions; functions and ``:db/cas`` are not run again.
    What was said of the transactions is said again, but for their instants, and whoever sends one
    again under its idempotency key is answered. Commits of merges come with all that they merged,
    and have one parent then; what changes nothing is left out, but where it has such a key.

    At the first conflict MergeConflict is raised with the report of that commit (its ``theirs``),
    and the branch is what it was. Else it becomes ``onto`` with these commits on top, at once.
    Whoever has it open, by this connection too, is told so by the next transaction, as with
    ``force_branch``: connect again. The commits it had can be found by their ids no more, where no
    other branch or tag has them.

    Returns a report for each commit that was made. Raises what :func:`merge` raises; HeadConflict
    where others kept committing to the branch, which is what they made of it. ::

        await d.branch(conn, ":db", ":feature")
        feature = await d.connect(conn.config, branch=":feature")
        await feature.transact([{":person/email": "eve@example.org", ":person/name": "Eve"}])
        await conn.transact([{":person/email": "dan@example.org", ":person/name": "Dan"}])
        reports = await d.rebase(feature, ":db")
        await feature.release()
        async with d.connect(conn.config, branch=":feature") as feature:
            assert await d.merge_base(conn, ":db", ":feature") == (d.commit_id(conn.db()),)
            assert len(reports) == 1
    """
    conn = require_connection(conn)
    merging = Merging(conn, on_conflict, resolve)
    writer = writer_of(conn)
    writer.require_writable()
    name = conn.config.branch
    for _ in range(_ATTEMPTS):
        mine = (await conn.sync()).commit_id
        assert mine is not None
        with konserve_errors():
            target = (await found_place(conn, onto)).commit.id
        made = await _planned(conn, merging, mine, target)
        if made is None:
            return []
        beside = f"rebase-{writer.branch.env.new_uuid()}"
        await branch(conn, target, beside)
        try:
            await _committed(conn, beside, made)
            born = await _moved(conn, beside, mine)
        finally:
            # Nobody else would, where this is cancelled.
            await surely(partial(delete_branch, conn, beside))
        if born is None:
            continue  # somebody has committed to it
        await shut_branch(conn, name, born)
        return [one.report for one in made]
    raise HeadConflict(f"Others kept committing to branch :{name}; it was not rebased.")


async def _planned(
    conn: Connection, merging: Merging, mine: UUID, target: UUID
) -> list[_Again] | None:
    """Return the commits to be made, oldest first; None where the branch stands on the target."""
    with konserve_errors():
        graph = graph_of(conn, [])
        bases, shared = await graph.parting(mine, target)
        if bases == (target,):
            return None
        if not bases:
            raise no_base(MergeReport(ours=target, theirs=mine))
        lacking = await graph.lacking(mine, target)
        state, after = await commit_db(conn, graph, target), None
    onto, keys = state.snapshot, set[str]()
    made: list[_Again] = []
    for commit in reversed(lacking):
        with konserve_errors():
            parents = await graph.parents(commit)
            before = after if made and after is not None else None
            if before is None or before.commit_id != parents[0]:
                before = await commit_db(conn, graph, parents[0])
            after = await commit_db(conn, graph, commit)
        plan = await made_plan(before, state, after, shared=shared, **merging.options)
        report = replace(plan.report, ours=target, theirs=commit, bases=parents[:1])
        require_agreed(report)
        said = await _said(after)
        key = said.key
        if key is not None:
            if key in keys or await first_answer(onto, key) is not None:
                said = said._replace(key=None)
            else:
                keys.add(key)
        # Whoever sends again what changes nothing here is answered, too.
        if not plan.items and said.key is None:
            continue
        try:
            state = await state.merged_with(plan.items)
        except TransactionError as error:
            require_agreed(replace(report, conflicts=(refused(error),)), error)
        called = await read(survivors, state.view, array(said.tempids.values()))
        tempids = {name: called.get(e, e) for name, e in said.tempids.items()}
        made.append(_Again(report, plan.items, said._replace(tempids=tempids)))
    return made


async def _said(db: Database) -> _Said:
    """Return what was said of the newest transaction, but for its instant."""
    rows = await read(db.view.entity, db.max_tx)
    meta: dict[Keyword, Any] = {}
    kept: dict[Keyword, str] = {}
    for a, v in zip(rows.a.tolist(), rows.v.tolist(), strict=True):
        attr = db.snapshot.schema.attrs[a]
        if attr.ident in KEPT_FOR_US:
            kept[attr.ident] = v
        elif attr.many:
            meta.setdefault(attr.ident, []).append(v)
        elif attr.ident is not TX_INSTANT:
            meta[attr.ident] = v
    tempids = reader.read(kept.get(IDEMPOTENCY_TEMPIDS, "{}"))
    return _Said(meta, kept.get(IDEMPOTENCY_KEY), tempids)


async def _committed(conn: Connection, name: str, made: list[_Again]) -> None:
    """Make commits on a branch that nobody else knows."""
    if not made:
        return
    async with connect(conn.config.on_branch(name), env=writer_of(conn).branch.env) as beside:
        for one in made:
            meta, key, tempids = one.said
            await transact_on(beside, (), one.items, meta, key=key, tempids=tempids)


async def _moved(conn: Connection, beside: str, mine: UUID) -> UUID | None:
    """Have the branch be what the one beside it is; None where it is not at ``mine`` any more."""
    writer = writer_of(conn)
    store, name = writer.branch.store, conn.config.branch
    with konserve_errors():
        try:
            return await move_branch(
                store, name, beside, mine, writer.branch.store_id, writer.branch.env
            )
        except RevisionMismatch:
            return None
