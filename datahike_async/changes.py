"""Following a branch: what transactions did, from a point of the past on, and then as they come.

Nothing is buffered: whoever follows reads the log at his own pace, so a slow one costs no memory,
and misses nothing. Commits of this event loop wake him; those of others he looks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

import anyio
import numpy as np

from datahike_async.database import Database
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, CorruptData, SnapshotExpired, shown
from datahike_async.log import Log, LogEntry, Point, checked_point
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.snapshot.datoms import Datoms
from datahike_async.storage.branches.finding import Line, find_commit
from datahike_async.storage.branches.graph import Graph
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.messages import Transact
from datahike_async.transactor.transactor import Transactor

__all__ = ["EVERY", "Changes", "Reset", "checked_attributes", "checked_seconds", "reach"]

EVERY: Final = 0.25
"""Seconds between two looks for what others have committed."""
_FIRST: Final = 0.005


@dataclass(frozen=True, slots=True)
class Reset(Json):
    """What comes in :meth:`Connection.changes` in the place of changes that can't be told.

    ``db`` is the database from which on they are told again: begin anew with it. ``ancestor`` is
    the newest commit that it has in common with the one that they were to begin after; None where
    that is not known.
    """

    db: Database
    ancestor: UUID | None

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "properties": {
            "tx": {"type": "integer"},
            "commit_id": {"type": "string"},
            "ancestor": {"type": ["string", "null"]},
        },
        "required": ["tx", "commit_id", "ancestor"],
    }

    def as_json(self) -> dict[str, Any]:
        """Return the transaction and the commit of its database, and the ancestor."""
        return {
            "tx": self.db.max_tx,
            "commit_id": str(self.db.commit_id),
            "ancestor": None if self.ancestor is None else str(self.ancestor),
        }


def checked_attributes(attributes: Any) -> frozenset[Keyword] | None:
    """Return attributes, or None for all. Raises ArgumentError for what is no collection of any."""
    if attributes is None:
        return None
    if isinstance(attributes, (str, Keyword)) or not isinstance(attributes, Iterable):
        raise ArgumentError(
            f"attributes is a collection such as [:person/name], not {shown(attributes)}."
        )
    out = set()
    for name in attributes:
        if not isinstance(name, Keyword) and not (isinstance(name, str) and name[:1] == ":"):
            raise ArgumentError(
                f"An attribute is a keyword such as :person/name, not {shown(name)}."
            )
        out.add(name if isinstance(name, Keyword) else Keyword(name))
    return frozenset(out)


def checked_seconds(every: Any) -> float:
    """Return a time between two looks. Raises ArgumentError for what is none."""
    if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0 < every < 1e9:
        raise ArgumentError(f"every is a number of seconds above 0, not {shown(every)}.")
    return float(every)


async def reach(writer: Transactor, tx: int, check: Callable[[], None], every: float) -> None:
    """Wait until a branch has a transaction, or a newer one; ``check`` is called before each look.

    Raises what ``check`` and reading the head raise.
    """
    wait = min(_FIRST, every)
    while writer.snapshot.max_tx < tx:
        moved, me = anyio.Event(), object()
        writer.subscribers[me] = partial(_tell, moved)
        try:
            check()
            await writer.refresh()
            if writer.snapshot.max_tx >= tx:
                return
            # Jitter: many who follow must not look at one time.
            with anyio.move_on_after(wait * (0.75 + 0.5 * writer.branch.env.random())):
                await moved.wait()
        finally:
            writer.subscribers.pop(me, None)
        wait = min(wait * 2, every)


def _tell(moved: anyio.Event, messages: list[Transact]) -> None:
    moved.set()


class Changes(AsyncIterator[LogEntry | Reset]):
    """What transactions of a branch do after a point, without end; see :meth:`Connection.changes`.

    ``now`` returns the database as it is, and raises once the connection is released.
    """

    def __init__(
        self,
        writer: Transactor,
        now: Callable[[], Database],
        since: Point | LogEntry,
        attributes: frozenset[Keyword] | None,
        every: float,
    ) -> None:
        self._writer = writer
        self._now = now
        self._attributes = attributes
        self._every = every
        self._commit: UUID | None = None
        point: int | datetime
        if isinstance(since, LogEntry):
            self._commit, point = since.commit_id, since.tx
        else:
            found = checked_point(since, writer.config.store["id"])
            point = now().max_tx if found is None else found
            if isinstance(since, Database):
                self._commit = since.commit_id
        self._seen = point if isinstance(point, int) else 0
        self._log: Log | None = self._logged(point)

    def _logged(self, after: int | datetime) -> Log:
        return Log(self._writer.branch, after, check=self._check)

    def _check(self) -> None:
        self._now()

    async def __anext__(self) -> LogEntry | Reset:
        self._check()
        if self._commit is not None:
            commit, self._commit = self._commit, None
            with konserve_errors():
                if not await self._has(commit):
                    return self._reset(await self._ancestor(commit))
        while True:
            if self._log is None:
                await reach(self._writer, self._seen + 1, self._check, self._every)
                self._log = self._logged(self._seen)
            try:
                entry = await anext(self._log)
            except StopAsyncIteration:
                self._seen, self._log = max(self._seen, self._log.last), None
                continue
            except SnapshotExpired:
                return self._reset(None)
            self._seen = entry.tx
            found = self._filtered(entry)
            if found is not None:
                return found

    def _reset(self, ancestor: UUID | None) -> Reset:
        db = self._now()
        self._seen, self._log = db.max_tx, None
        return Reset(db, ancestor)

    def _filtered(self, entry: LogEntry) -> LogEntry | None:
        """Return what a transaction did to the attributes that are asked for; None: nothing."""
        if self._attributes is None:
            return entry
        schema = self._writer.branch.snapshot.schema
        known = [schema.by_key.get(name) for name in self._attributes]
        rows = entry.datoms.columns()
        mask = np.isin(rows.a, [attr.id for attr in known if attr is not None])
        if not mask.any():
            return None
        datoms = Datoms(schema, [rows.take(mask)])
        return LogEntry(entry.tx, entry.instant, datoms, entry.commit_id)

    async def _has(self, commit: UUID) -> bool:
        """Whether the branch has a commit in its past, as far as that is kept."""
        branch = self._writer.branch
        if branch.committer.commit.id == commit:
            return True
        with suppress(SnapshotExpired):
            if await branch.opened.past.holds(*branch.line, commit):
                return True
            # It may be what others have committed since this process looked.
            await self._writer.refresh()
            return await branch.opened.past.holds(*branch.line, commit)
        return False

    async def _ancestor(self, commit: UUID) -> UUID | None:
        """Return the newest commit that the branch has in common with one of another line."""
        branch = self._writer.branch
        registry = await read_registry(branch.store)

        async def find(wanted: UUID) -> Place | None:
            with suppress(SnapshotExpired):
                past, own = branch.opened.past, _line(branch)
                origin = await find_commit(branch.store, past, registry, own, wanted)
                return None if origin is None else origin.place
            return None

        try:
            parting = await Graph(find).parting(commit, branch.committer.commit.id)
        except CorruptData:  # a collection is at it
            return None
        return parting.bases[0] if parting.bases else None


def _line(branch: Branch) -> Line:
    return Line(branch.name, branch.committer.epoch, *branch.line)
