"""The log of a branch as its users see it: what each transaction did, from one point to another.

Read from the records of the log as far as collections and purges have left them, and before that
put together from the history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

from datahike_async.database import Database, time_point
from datahike_async.errors import ArgumentError, CorruptData, SnapshotExpired, shown
from datahike_async.index.source import Reading, read
from datahike_async.konserve.threads import in_thread
from datahike_async.pausing import pause
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.ids import EMAX, TX0
from datahike_async.snapshot.logged import Ends, datoms_of, ends_of, told
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import PastView
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.retained import expired, floor_of
from datahike_async.storage.branches.walk import Stretch
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import decode_record, txs_of
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.branch import Branch

__all__ = ["Log", "LogEntry", "Point", "checked_basis_point", "checked_point"]

_INLINE_BYTES: Final = 32 * 1024
"""Of a record that is decoded on the event loop; more goes to a worker thread."""

Point = int | datetime | Database | None
"""A transaction, an instant, or a database; None: the beginning or the end."""


@dataclass(frozen=True, slots=True)
class LogEntry(Json):
    """What one transaction did.

    ``tx`` is its id, ``instant`` when it was; None where that was purged. ``datoms`` are those that
    it retracted, then those that it asserted, each in the order of :eavt; those of the transaction
    itself are among them. A fact that it asserted and took back again is not. ``commit_id`` is the
    commit that it is, None where the log does not reach as far back; it is not compared.
    """

    tx: int
    instant: datetime | None
    datoms: Datoms
    commit_id: UUID | None = field(default=None, compare=False)

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "properties": {
            "tx": {"type": "integer"},
            "instant": {"type": ["string", "null"]},
            "datoms": Datoms.json_schema,
            "commit_id": {"type": ["string", "null"]},
        },
        "required": ["tx", "instant", "datoms", "commit_id"],
    }

    __hash__ = None  # type: ignore[assignment]

    def as_json(self) -> dict[str, Any]:
        """Return its parts, by their names."""
        return {
            "tx": self.tx,
            "instant": None if self.instant is None else self.instant.isoformat(),
            "datoms": self.datoms.as_json(),
            "commit_id": None if self.commit_id is None else str(self.commit_id),
        }


def checked_point(point: Any, store_id: UUID) -> int | datetime | None:
    """Return a point of the log of a store as a transaction or an instant.

    Raises ArgumentError ``:temporal/invalid-time-point`` for what is none.
    """
    if not isinstance(point, Database):
        return None if point is None else time_point(point, beginning=True)
    if point.commit_id is None or point.view.past or point.config.store["id"] != store_id:
        raise ArgumentError(
            f"{shown(point)} is no point of this log: it is a view, was never stored, or is of "
            "another database. Give a transaction or an instant.",
            error=":temporal/invalid-time-point",
        )
    return point.max_tx


def checked_basis_point(basis: Any, store_id: UUID) -> int:
    """Return the transaction of a basis. Raises ArgumentError as ``checked_point``."""
    found = checked_point(basis, store_id)
    if not isinstance(found, int):
        raise ArgumentError(
            f"A basis is a transaction id or a database, not {shown(basis)}.",
            error=":temporal/invalid-time-point",
        )
    return found


class Log(AsyncIterator[LogEntry]):
    """The transactions of a branch after one point, up to another one, oldest first.

    What is committed after it was made is not among them. ``check`` is called before each. With
    ``partly`` those are left out which were collected and are in no history, either; without, there
    is SnapshotExpired.
    """

    def __init__(
        self,
        branch: Branch,
        after: int | datetime | None = None,
        upto: int | datetime | None = None,
        *,
        check: Callable[[], None] | None = None,
        partly: bool = False,
    ) -> None:
        self._branch = branch
        self._snapshot = branch.snapshot
        base, tail = branch.line
        self._base: Checkpoint = base
        self._tail: Sequence[bytes] = tail
        self._points = (after, upto)
        self._check = check
        self._partly = partly
        # The first transaction that is not read yet comes after it, the last one is the other.
        self._lo = self._at = self._hi = -1
        self._records: deque[bytes] = deque()
        self._ready: deque[LogEntry] = deque()

    @property
    def last(self) -> int:
        """The newest transaction that it may come to."""
        return self._snapshot.max_tx

    async def __anext__(self) -> LogEntry:
        if self._at < 0:
            after, upto = self._points
            last = self._snapshot.max_tx
            self._hi = last if upto is None else min(await self._tx_at(upto), last)
            self._at = TX0 if after is None else max(await self._tx_at(after), TX0)
        while not self._ready:
            if self._records:
                self._ready.extend(await self._decoded(self._records.popleft()))
            elif self._at >= self._hi:
                raise StopAsyncIteration
            else:
                with konserve_errors():
                    await self._go_on()
        if self._check is not None:
            self._check()
        await pause()
        return self._ready.popleft()

    async def _tx_at(self, point: int | datetime) -> int:
        """Return the newest transaction at or before a point.

        Of instants the newest that, like all before it, is not later.
        """
        if not isinstance(point, datetime):
            return point
        if self._snapshot.keep_history:
            return (await read(PastView(self._snapshot, as_of=(point,)).bounds))[1]
        before = TX0
        async for entry in Log(self._branch, partly=True):
            if entry.instant is not None and entry.instant > point:
                break
            before = entry.tx
        return before

    async def _go_on(self) -> None:
        """Read the records of one flush, or what there is in the place of those that are gone."""
        at, hi = self._at, self._hi
        stretch = await self._stretch(at)
        if not stretch.whole:
            # Nothing of the log leads to those before.
            upto = min(_first(stretch) - 1, hi)
            if upto > at and not self._partly:
                self._ready.extend(await self._from_history(at, upto))
        self._lo = at
        self._records.extend(stretch.encoded)
        self._at = hi if stretch.upto is None else stretch.upto

    async def _stretch(self, tx: int) -> Stretch:
        """Return the records after a transaction, or that they are gone up to another one."""
        branch = self._branch
        try:
            return await branch.opened.past.after(self._base, self._tail, tx)
        except CorruptData as error:
            if error.error != ":node-not-found":
                raise
            registry = await read_registry(branch.store)
            floor = floor_of(registry, self._base.branch, self._base)
            if floor is None or floor.tx <= tx:
                raise
            # What is in memory is there, whatever was collected.
            return Stretch((), min(floor.tx, self._base.tx), whole=False)

    async def _decoded(self, data: bytes) -> list[LogEntry]:
        schema, branch = self._snapshot.schema, self._base.branch
        call = partial(_entries, data, schema, branch, self._lo, self._hi)
        return await in_thread(call) if len(data) > _INLINE_BYTES else call()

    async def _from_history(self, lo: int, hi: int) -> list[LogEntry]:
        snapshot = self._snapshot
        if not snapshot.keep_history:
            raise _too_old(lo)
        ends: list[Ends] = []
        for attr in snapshot.schema.attrs:
            with Reading() as reading:
                found: Ends = await reading.call(ends_of, snapshot, attr.id, lo, hi, run=in_thread)
                ends.append(found)
        return await in_thread(_told, snapshot, ends)


def _first(stretch: Stretch) -> int:
    """Return the first transaction that is in the log."""
    if stretch.encoded:
        return txs_of(stretch.encoded[0])[0]
    return EMAX if stretch.upto is None else stretch.upto + 1


def _told(snapshot: Snapshot, ends: Sequence[Ends]) -> list[LogEntry]:
    return [LogEntry(*parts) for parts in told(snapshot.schema, ends)]


def _entries(data: bytes, schema: Any, branch: str, lo: int, hi: int) -> list[LogEntry]:
    record = decode_record(data, f"The log of :{branch}")
    return [
        LogEntry(e.tx, e.instant, datoms_of(schema, e.operations, e.tx), commit)
        for e, commit in zip(record.entries, record.commits, strict=True)
        if lo < e.tx <= hi
    ]


def _too_old(tx: int) -> SnapshotExpired:
    return expired(
        f"What transactions after {tx} did can't be told, for this database keeps no history: the "
        "log of them"
    )
