"""The entrance: apply a transaction to a snapshot, or replay one from the log.

``apply`` awaits in two cases only: a tree node is not resident, or a transaction function is a
coroutine. Then, as after a late upsert, it takes everything back and runs the items again; so
transaction functions must depend on their arguments alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.env import Env
from datahike_async.errors import TransactionError
from datahike_async.index.source import NodeMiss, NodeSource, resolve
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.known import Known
from datahike_async.snapshot.snapshot import EMAX, TX0, Snapshot
from datahike_async.tx.bulk import LEAST, Bulk, collect
from datahike_async.tx.done import Done
from datahike_async.tx.entities import Bindings, Entities, Retry
from datahike_async.tx.facts import OwnInstant, Wrap, schema_properties
from datahike_async.tx.forms import is_large, normalize
from datahike_async.tx.prefetch import PART, prefetch
from datahike_async.tx.segments import segments
from datahike_async.tx.transaction import Transaction
from datahike_async.values.report import TxReport
from datahike_async.values.schema import SCHEMA_PROPERTIES, TX_INSTANT, Schema

__all__ = ["ABSORB_AT", "Applied", "absorbed", "apply", "replay"]

ABSORB_AT: Final = 8192
"""Memtable operations from which merging them into the trees pays for readers."""

_MILLISECOND: Final = timedelta(milliseconds=1)
# Items, or facts of fewer ones, from which what they will look up is read beforehand.
_MANY: Final = 16
_FACTS: Final = 256

Operation = tuple[int, int, Any, int, bool]


class Applied:
    """A transaction that succeeded, not yet stored.

    ``before`` and ``after`` are snapshots. ``new_attrs`` are the attributes it interned, in the
    order of their ids, ``done`` what it did. ``bulk`` says that it changed the trees and left the
    memtable empty.
    """

    __slots__ = (
        "after",
        "before",
        "bulk",
        "done",
        "instant",
        "new_attrs",
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
    ) -> None:
        self.before = before
        self.after = after
        self.tx = tx
        self.instant = instant
        self.tempids = tempids
        self.tx_meta = tx_meta
        self.new_attrs = [a.ident for a in after.schema.attrs[len(before.schema.attrs) :]]
        self.bulk = bulk is not None
        self.done = Done(draft.mem, draft.mark, len(draft.mem), bulk, after.schema.attrs, tx)

    def report(self, db_before: Any, db_after: Any) -> TxReport:
        """Return the report around the database values of both states."""
        return TxReport(db_before, db_after, self.tx, self.tempids, self.tx_meta, lambda: self.done)


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
    await_on: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None,
) -> Applied:
    """Apply a transaction to ``base``, storing nothing; keep its idempotency ``key`` with it.

    ``owner`` is the memtable's owner (None for values); ``wrap`` makes the database value that
    transaction functions get; ``last_instant`` is that of the newest transaction where the caller
    knows it; ``await_on`` awaits what transaction functions return, where this runs in a worker
    thread. Raises TransactionError, and then ``base`` is as it was.
    """
    items, meta = normalize(tx_data, tx_meta)
    tx = base.max_tx + 1
    if tx >= EMAX:
        raise TransactionError("The database has used all transaction ids.")
    if last_instant is None:
        last_instant = await _resident(_newest_instant, base)
    now = instant = env.now()
    own = False
    if last_instant is not None and instant <= last_instant:
        instant = last_instant + _MILLISECOND
    many = len(items) >= _MANY or (len(base.trees) > 0 and is_large(items, _FACTS))
    known: Known | None = None
    bindings = Bindings()
    with _Nodes() as nodes:
        while True:
            draft = Draft(base, tx, owner)
            entities = Entities(draft, bindings, base.max_eid)
            run = Transaction(draft, entities, instant, now, wrap, own=own)
            try:
                reported = run.begin(meta, key)
                bulk = None
                if len(items) >= LEAST:
                    bulk = collect(draft, items)
                if bulk is not None:
                    draft.max_eid = bulk.max_eid
                    entities.tempids.update(bulk.tempids)
                elif many:
                    await _parts(run, items, await_on, known)
                else:
                    entities.settle(await _items(run, items, await_on))
                run.finish()
                if key is not None:
                    run.keep_answer(entities.tempids)
                if bulk is not None:
                    trees = draft.assert_bulk(bulk.e, bulk.a, bulk.v)
            except NodeMiss as miss:
                base = draft.abort()
                await nodes.fetch(miss)
                if many:
                    # There may be more that is missing: it is fetched before the next run.
                    known = await nodes.ahead(base, items)
            except Retry:
                base = draft.abort()
                bindings.learn(entities)
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
                    base, after, tx, run.instant, entities.tempids, reported, draft, bulk
                )


class _Nodes:
    """Fetches the nodes that a transaction misses, and holds them until it is done.

    What was fetched for one run of it must not fall out of the cache before the last one.
    """

    def __init__(self) -> None:
        self._pins: ExitStack | None = None
        self._sources: set[NodeSource] = set()

    def __enter__(self) -> _Nodes:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pins is not None:
            self._pins.close()

    async def fetch(self, miss: NodeMiss) -> None:
        if self._pins is None:
            self._pins = ExitStack()
        if miss.source not in self._sources:
            self._sources.add(miss.source)
            self._pins.enter_context(miss.source.pinned())
        await miss.source.fetch(miss.addresses)

    async def ahead(self, base: Snapshot, items: Sequence[Any]) -> Known:
        """Fetch all that the items will look up; return what was read for the first part."""
        first: Known | None = None
        for start in range(0, len(items), PART):
            part = items[start : start + PART]
            known: Known | None = None
            while known is None:
                try:
                    known = prefetch(base, part)
                except NodeMiss as miss:
                    await self.fetch(miss)
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
        try:
            call = run.item(queue.popleft())
            if call is not None:
                made = await (call if await_on is None else await_on(call))
                queue.extendleft(reversed(made))
        except (NodeMiss, OwnInstant, Retry):
            raise
        except Exception as error:
            failed = failed or error
            if not entities.doubtful:
                raise failed from None
            run.forget()
    return failed


async def _resident(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except NodeMiss as miss:
        return await resolve(miss, call, *args)


def _newest_instant(base: Snapshot) -> datetime | None:
    if base.max_tx == TX0 or not base.keep_history:
        return None
    found = base.values(base.max_tx, base.schema.by_key[TX_INSTANT].id)
    return found[0] if found else None


async def absorbed(base: Snapshot) -> Snapshot:
    """Return the same state with its memtable merged into the trees."""
    trees = await _resident(
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
        for e, a, v, t, added in operations:
            attr = draft.schema.attrs[a]
            draft.redo(e, attr, v, t, added)
            if attr.ident in SCHEMA_PROPERTIES:
                dirty[e] = None
        for e in dirty:
            draft.set_schema(_with_definition(draft, e))
    except BaseException:
        draft.abort()
        raise
    draft.max_eid = max_eid
    draft.max_tx = tx
    return draft.commit()


def _with_definition(draft: Draft, eid: int) -> Schema:
    return draft.schema.with_entity(eid, schema_properties(draft, eid))
