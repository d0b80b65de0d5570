"""The entrance: apply a transaction to a snapshot, or replay one from the log.

``apply`` awaits in two cases only: a tree node is not resident, or a transaction function is a
coroutine. Then, as after a late upsert, it takes everything back and runs the items again; so
transaction functions must depend on their arguments alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from datahike_async.edn.types import Keyword
from datahike_async.env import Env
from datahike_async.errors import TransactionError
from datahike_async.index.source import NodeMiss, Reading, read
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.ids import EMAX, SPARE, TX0, UsedUp
from datahike_async.snapshot.known import Known
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.tx.bulk import LEAST, Bulk, carry_out, pays
from datahike_async.tx.collect import collect
from datahike_async.tx.done import Done
from datahike_async.tx.entities import Bindings, Entities, Retry
from datahike_async.tx.facts import OwnInstant, Wrap, schema_properties
from datahike_async.tx.forms import is_large, normalize
from datahike_async.tx.prefetch import PART, prefetch
from datahike_async.tx.purge import Purged, PurgeMet, purged, split
from datahike_async.tx.segments import segments
from datahike_async.tx.table import Table
from datahike_async.tx.transaction import Transaction
from datahike_async.values.report import TxReport
from datahike_async.values.schema import SCHEMA_PROPERTIES, TX_INSTANT, Schema

__all__ = ["ABSORB_AT", "Applied", "absorbed", "apply", "newest_instant", "replay"]

ABSORB_AT: Final = 8192
"""Memtable operations from which merging them into the trees pays for readers."""

T = TypeVar("T")

_MILLISECOND: Final = timedelta(milliseconds=1)
# Items, or facts of fewer ones, from which what they will look up is read beforehand.
_MANY: Final = 16
_FACTS: Final = 256

Operation = tuple[int, int, Any, int, bool]


class Applied:
    """A transaction that succeeded, not yet stored.

    ``before`` and ``after`` are snapshots. ``new_attrs`` are the attributes it interned, in the
    order of their ids, ``done`` what it did. ``bulk`` says that it changed the trees and left the
    memtable empty, ``reblocked`` that it took another block of entity ids, which trees name.
    ``purged`` counts the datoms that are gone as if they had never been; None: nothing was to go.
    """

    __slots__ = (
        "after",
        "before",
        "bulk",
        "done",
        "instant",
        "new_attrs",
        "purged",
        "reblocked",
        "tempids",
        "tx",
        "tx_meta",
    )

    def __init__(
        self,
        before: Snapshot,
        after: Snapshot,
        tx: int,
        instant: datetime,
        tempids: dict[Any, int],
        tx_meta: dict[Keyword, Any],
        draft: Draft,
        bulk: Bulk | None,
        *,
        reblocked: bool,
        purged: int | None,
    ) -> None:
        self.before = before
        self.after = after
        self.tx = tx
        self.instant = instant
        self.tempids = tempids
        self.tx_meta = tx_meta
        known = before.schema
        self.new_attrs = (
            []
            if after.schema is known
            else [a.ident for a in after.schema.attrs[len(known.attrs) :]]
        )
        self.bulk = bulk is not None
        self.reblocked = reblocked
        self.purged = purged
        self.done = Done(draft.mem, draft.mark, len(draft.mem), bulk, after.schema.attrs, tx)

    def report(self, db_before: Any, db_after: Any) -> TxReport:
        """Return the report around the database values of both states."""
        return TxReport(
            db_before,
            db_after,
            self.tx,
            self.tempids,
            self.tx_meta,
            lambda: self.done,
            purged=self.purged or 0,
        )


async def apply(
    base: Snapshot,
    tx_data: Any,
    *,
    tx_meta: Mapping[Any, Any] | None = None,
    env: Env,
    owner: object | None = None,
    wrap: Wrap | None = None,
    last_instant: datetime | None = None,
    key: str | None = None,
    tempids: Mapping[Any, int] | None = None,
    above: int = 0,
    await_on: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None,
    more_ids: Callable[[range, int], Awaitable[range]] | None = None,
    foreign: bool = False,
) -> Applied:
    """Apply a transaction to ``base``, storing nothing; keep its idempotency ``key`` with it.

    ``tempids`` are kept with the key in the place of its own, where it is one made again.
    ``owner`` is the memtable's owner (None for values); ``wrap`` makes the database value that
    transaction functions get; ``last_instant`` is that of the newest transaction where the caller
    knows it; its id is ``above`` another transaction's, too; ``await_on`` awaits what transaction
    functions return, where this runs in a worker thread. ``more_ids`` takes a block for so many new
    entities where that of the branch is used up; a value, which is nobody's branch, has some to
    spare. ``foreign`` allows for entity ids of other branches. Raises TransactionError, and then
    ``base`` is as it was.
    """
    items, meta = normalize(tx_data, tx_meta)
    tx = max(base.max_tx, above) + 1
    if tx >= EMAX:
        raise TransactionError("The database has used all transaction ids.")
    if last_instant is None:
        last_instant = await read(newest_instant, base)
    now = instant = env.now()
    own = False
    if last_instant is not None and instant <= last_instant:
        instant = last_instant + _MILLISECOND
    many = len(items) >= _MANY or (len(base.trees) > 0 and is_large(items, _FACTS))
    known: Known | None = None
    bindings, block = Bindings(), base.trees.ids
    before: Snapshot | None = None
    erased: Purged | None = None
    with Reading() as nodes:
        while True:
            draft = Draft(base, tx, owner)
            entities = Entities(draft, bindings, foreign=foreign, own=block)
            run = Transaction(draft, entities, instant, now, wrap, own=own, late=foreign)
            try:
                reported = run.begin(meta, key)
                if erased is not None:
                    run.recompute(erased.composites)
                bulk = None
                if len(items) >= LEAST:
                    bulk = await _bulk(draft, items, nodes)
                if bulk is not None:
                    draft.max_eid = bulk.max_eid
                    entities.tempids.update(bulk.tempids)
                elif many:
                    await _parts(run, items, await_on, known)
                else:
                    entities.settle(await _items(run, items, await_on))
                run.finish()
                if isinstance(items, Table):
                    entities.tempids.update(items.answer)
                if key is not None:
                    run.keep_answer(entities.tempids if tempids is None else tempids)
                if bulk is not None:
                    adds, removes = bulk.by_attribute(True), bulk.by_attribute(False)
                    trees = await nodes.call(draft.merge_bulk, adds, removes, bulk.max_eid)
            except NodeMiss as miss:
                base = draft.abort()
                await nodes.fetch(miss)
                if many:
                    # There may be more that is missing: it is fetched before the next run.
                    known = await _ahead(nodes, base, items)
            except Retry:
                base = draft.abort()
                bindings.learn(entities)
            except UsedUp as used:
                base = draft.abort()
                ids = base.trees.ids
                # Runs leave gaps: where a whole block was not enough the next one is larger.
                taken = _more(base, used.count if ids == block else len(ids) + used.count, more_ids)
                base = base.in_block(await (taken if await_on is None else await_on(taken)))
                bindings = Bindings()
            except PurgeMet:
                base = draft.abort()
                try:
                    forms, items = _purges(items, again=before is not None)
                    before = base
                    erased = await nodes.call(purged, await absorbed(base), forms)
                except TransactionError as error:
                    error.base = base  # type: ignore[attr-defined]
                    raise
                base = erased.state
            except OwnInstant as found:
                base = draft.abort()
                instant, own = found.instant, True
            except BaseException as error:
                base = draft.abort()
                if isinstance(error, TransactionError):
                    # Whoever holds `base` goes on from here: a handed-out draft cannot be undone.
                    error.base = base  # type: ignore[attr-defined]
                raise
            else:
                draft.max_tx = tx
                after = draft.commit() if bulk is None else draft.commit_bulk(trees)
                return Applied(
                    before or base,
                    after,
                    tx,
                    run.instant,
                    entities.tempids,
                    reported,
                    draft,
                    bulk,
                    reblocked=base.trees.ids != block,
                    purged=None if erased is None else erased.datoms,
                )


async def _more(
    base: Snapshot, count: int, more_ids: Callable[[range, int], Awaitable[range]] | None
) -> range:
    """Return a block of entity ids, which is used next."""
    if more_ids is not None:
        return await more_ids(base.trees.ids, count)
    # Branches that were made of such values may have some of these already.
    left = range(await read(base.highest, SPARE) + 1, SPARE.stop)
    if base.trees.ids.stop == SPARE.stop or count > len(left):
        raise TransactionError(
            f"A value that is no branch has ids for {len(left)} more entities at most; transact "
            "on the branch.",
            error=":entity-id/syntax",
        )
    return left


def _purges(items: Sequence[Any], *, again: bool) -> tuple[list[tuple[str, Any]], list[Any]]:
    if again:
        raise TransactionError(
            "Nothing was purged: a form that purges was made by a transaction function. Write it "
            "into the transaction.",
            error=":transact/purge",
        )
    return split(items)


async def _bulk(draft: Draft, items: Sequence[Any], nodes: Reading) -> Bulk | None:
    """Return what many items do, or None where they have to be carried out one by one."""
    stated = collect(draft.schema, items, draft.trees.ids, draft.max_eid)
    if stated is None:
        return None
    often = not isinstance(items, Table)
    if often and not await nodes.call(pays, draft.trees, stated, len(draft.mem)):
        return None
    ready = await nodes.call(draft.ready, stated.attributes)
    load = partial(carry_out, ready, stated, draft.max_eid, draft.tx, often=often)
    return await nodes.call(load)


async def _ahead(nodes: Reading, base: Snapshot, items: Sequence[Any]) -> Known:
    """Fetch all that the items will look up; return what was read for the first part."""
    first: Known | None = None
    for start in range(0, len(items), PART):
        known = await nodes.call(prefetch, base, items[start : start + PART])
        first = first or known
    assert first is not None
    return first


_AwaitOn = Callable[[Awaitable[Any]], Awaitable[Any]]


async def _parts(
    run: Transaction, items: Sequence[Any], await_on: _AwaitOn | None, known: Known | None
) -> None:
    """Carry out many items, before each part of which is read what it will look up.

    ``known`` is what was read for the first part, where that is known already.
    """
    draft = run.draft
    failed: Exception | None = None
    for start in range(0, len(items), PART):
        part = items[start : start + PART]
        draft.known = known if known is not None and not start else prefetch(draft.base, part)
        for left in segments(run, part):
            failed = await _items(run, left, await_on, failed)
    draft.known = None
    run.entities.settle(failed)


async def _items(
    run: Transaction,
    items: Sequence[Any],
    await_on: _AwaitOn | None,
    failed: Exception | None = None,
) -> Exception | None:
    """Carry out the items; where tempids are in doubt, past errors, for these may mean nothing.

    Returns the first of these, with those before.
    """
    queue = deque(items)
    entities = run.entities
    while queue:
        item = queue.popleft()
        try:
            call = run.item(item)
            if call is not None:
                made = await (call if await_on is None else await_on(call))
                queue.extendleft(reversed(made))
        except (NodeMiss, OwnInstant, Retry):
            raise
        except Exception as error:
            if failed is None:
                failed = error
                # For whoever knows where it came from.
                error.item = item  # type: ignore[attr-defined]
            if not entities.doubtful:
                raise failed from None
            run.forget()
    return failed


def newest_instant(base: Snapshot) -> datetime | None:
    """Return the instant of the newest transaction, where history tells. Raises NodeMiss."""
    if base.max_tx == TX0 or not base.keep_history:
        return None
    found = base.values(base.max_tx, base.schema.by_key[TX_INSTANT].id)
    return found[0] if found else None


async def absorbed(base: Snapshot) -> Snapshot:
    """Return the same state with its memtable merged into the trees."""
    trees = await read(
        base.trees.absorb, base.mem, base.n, base.m, base.schema, base.max_eid, base.max_tx
    )
    return Snapshot.over(base, trees)


def replay(
    base: Snapshot,
    operations: Iterable[Operation],
    new_attrs: Sequence[Keyword],
    tx: int,
    max_eid: int,
    owner: object | None = None,
) -> Snapshot:
    """Carry out logged operations, unchecked; the schema follows from them.

    Raises NodeMiss where a tree node is needed (for a schema that changed); nothing is done then.
    """
    draft = Draft(base, tx, owner)
    try:
        schema = draft.schema
        for ident in new_attrs:
            schema, _ = schema.with_attr(ident)
        draft.schema = schema
        dirty: dict[int, None] = {}
        ids, top = draft.trees.ids, draft.max_eid
        for e, a, v, t, added in operations:
            if e > top and e in ids:
                top = e
            attr = draft.schema.attrs[a]
            draft.redo(e, attr, v, t, added)
            if attr.ident in SCHEMA_PROPERTIES:
                dirty[e] = None
        for e in dirty:
            draft.set_schema(_with_definition(draft, e))
    except BaseException:
        draft.abort()
        raise
    # What an entry says may be of another block: that of the branch which this one was made of, or,
    # where a commit is looked up under an older checkpoint, one that the branch took since.
    draft.max_eid = max(top, max_eid) if max_eid in ids else top
    draft.max_tx = tx
    return draft.commit()


def _with_definition(draft: Draft, eid: int) -> Schema:
    return draft.schema.with_entity(eid, schema_properties(draft, eid))
