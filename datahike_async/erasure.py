"""Erasure: purging data wherever they are, and a report that shows what is left of them.

A transaction that purges takes data out of the present and the past of its branch. Other branches
and tags, and the blobs of the store, may hold them still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from datahike_async.collection import Collected
from datahike_async.config.collecting import Retention
from datahike_async.connection import Connection, connect, require_connection, writer_of
from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, DatabaseNotFound, TransactionError, shown
from datahike_async.index.source import read as fetched
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.storage.branches.pins import change_pins
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.erasure import Kept, Sought, search, wasteful_blobs
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.collecting import collect
from datahike_async.tx.purge import PURGES, by_ids, named, split
from datahike_async.values.json_form import jsonable
from datahike_async.values.report import TxReport
from datahike_async.values.types import ANY
from datahike_async.versions import commit_as_db, untag

__all__ = ["ErasureReport", "Kept", "Purged", "erasure_report", "purge"]

UNSEEN: Final = (
    "backups and copies of the store",
    "what lies below the store: earlier versions in a bucket, free pages of LMDB until it is "
    "compacted, blocks that a file system has freed",
    "the memory of processes that have the database open, and database values that they hold",
)
"""What no look into a store can see."""
_Forms = list[tuple[str, Any]]
"""Forms with their names."""

_MANY: Final = 20


@dataclass(frozen=True, slots=True)
class Purged(Json):
    """What a purge did: the report of each branch's transaction, the tags that were taken back.

    ``collected`` says which blobs were removed.
    """

    reports: Mapping[Keyword, TxReport]
    untagged: tuple[Keyword, ...]
    collected: Collected

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    @property
    def datoms(self) -> int:
        """How many datoms of the present and the past were purged, of all branches together."""
        return sum(report.purged for report in self.reports.values())

    def as_json(self) -> dict[str, Any]:
        """Return its parts, and how many datoms were purged."""
        return {
            "datoms": self.datoms,
            "reports": jsonable(self.reports),
            "untagged": jsonable(self.untagged),
            "collected": self.collected.as_json(),
        }

    def __repr__(self) -> str:
        return f"<Purged {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        lines = [
            f"branch {name}: {report.purged} datoms purged by transaction {report.tx}"
            for name, report in self.reports.items()
        ]
        if self.untagged:
            lines.append(f"tags taken back: {', '.join(map(str, self.untagged))}")
        return "\n".join([*lines, str(self.collected)])


@dataclass(frozen=True, slots=True)
class ErasureReport(Json):
    """What was looked at in search of values, and where they are still.

    ``found`` names the blobs, and each value by its place among those that were asked for;
    ``unread`` are blobs that could not be decoded, ``unseen`` says what nobody looked at.
    """

    blobs: int
    bytes: int
    nodes: int
    datoms: int
    records: int
    found: tuple[Kept, ...]
    unread: tuple[str, ...]
    unseen: tuple[str, ...] = UNSEEN

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    @property
    def clean(self) -> bool:
        """Whether all was read, and nothing was found."""
        return not self.found and not self.unread

    def as_json(self) -> dict[str, Any]:
        """Return its parts, by their names, and whether it is ``clean``."""
        out = {one.name: jsonable(getattr(self, one.name)) for one in fields(self)}
        return {**out, "found": [kept._asdict() for kept in self.found], "clean": self.clean}

    def __repr__(self) -> str:
        return f"<ErasureReport {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        said = "nothing was found" if self.clean else f"{len(self.found)} places have something"
        lines = [
            f"{said}: {self.blobs} blobs with {self.bytes} bytes, {self.nodes} nodes, "
            f"{self.datoms} datoms and {self.records} records were looked at"
        ]
        lines += [f"value {kept.value} is in {kept.key}" for kept in self.found[:_MANY]]
        if len(self.found) > _MANY:
            lines.append(f"and in {len(self.found) - _MANY} more")
        lines += [f"could not be read: {key}" for key in self.unread]
        return "\n".join([*lines, *(f"not looked at: {what}" for what in self.unseen)])


async def purge(
    conn: Connection, forms: Iterable[Any] | str, *, everywhere: bool = False
) -> Purged:
    """Erase data: from the present and the past, and from the blobs of the store.

    ``forms`` are those that purge: ``[":db/purge", e, a, v]``, ``[":db.purge/attribute", e, a]``,
    ``[":db.purge/entity", e]``, ``[":db.history.purge/before", date]``. What is left is written
    where nothing of them lies, and the garbage is collected. The commits of the branch before that
    can't be gone back to any more; ``as_of`` shows the past without what was purged.

    Other branches keep what they have, and so do tags and pins, unless it is to be ``everywhere``:
    then all branches are purged, tags of commits that have some of it are taken back, and all pins.

    ``forms`` may be EDN text as well. Raises ArgumentError for any other form: ``transact`` takes
    those; TransactionError ``:transact/purge`` and what ``transact`` and ``gc_storage`` raise. ::

        report = await conn.transact([{":db/id": "ada", ":person/name": "Ada"}])
        done = await d.purge(conn, [[":db.purge/entity", report.tempids["ada"]]])
        assert done.datoms == 1
    """
    conn = require_connection(conn)
    wanted = split(_forms(forms))[0]
    more = split(await fetched(by_ids, conn.db().snapshot, wanted))[0] if everywhere else []
    reports = {Keyword(conn.config.branch): await _purged(conn, [form for _, form in wanted])}
    untagged: list[Keyword] = []
    if everywhere:
        reports.update(await _elsewhere(conn, wanted, more))
        untagged = await _untagged(conn, [*wanted, *more])
    writer = writer_of(conn)
    with konserve_errors():
        if everywhere:
            await change_pins(writer.branch.store, lambda pins: {})
        collected = await collect(writer, Retention())
    return Purged(reports, tuple(untagged), collected)


def _forms(forms: Any) -> list[Any]:
    """Return the forms that purge, as a list. Raises ArgumentError for what is none."""
    found = read(forms) if isinstance(forms, str) else forms
    if isinstance(found, (bytes, Mapping)) or not isinstance(found, Iterable):
        raise ArgumentError(f"purge takes a list of forms that purge, not {shown(forms)}.")
    out = list(found)
    if not out:
        raise ArgumentError("purge takes at least one form that purges.")
    for form in out:
        name = form[0] if isinstance(form, (list, tuple)) and form else None
        text = name.text if isinstance(name, Keyword) else name
        if not isinstance(text, str) or text.removeprefix(":") not in PURGES:
            names = ", ".join(f":{one}" for one in sorted(PURGES))
            raise ArgumentError(
                f"{shown(form)} purges nothing. purge takes a list of forms, each a list that "
                f"begins with one of {names}; transact takes all others."
            )
    return out


async def _elsewhere(conn: Connection, forms: _Forms, by_id: _Forms) -> dict[Keyword, TxReport]:
    """Purge on all other branches, those that are made meanwhile as well."""
    reports: dict[Keyword, TxReport] = {}
    seen = {conn.config.branch}
    while True:
        with konserve_errors():
            names = (await read_registry(writer_of(conn).branch.store)).branches.keys() - seen
        if not names:
            return reports
        seen |= names
        for name in sorted(names):
            with suppress(DatabaseNotFound):  # it was deleted
                async with connect(conn.config, branch=name) as other:
                    # What is named may not be there, or have been made on another branch.
                    db = other.db()
                    there = await fetched(named, db.snapshot, forms)
                    ids = await fetched(named, db.snapshot, by_id)
                    if ids and (await db.with_(ids)).purged:
                        there += ids
                    if there:
                        reports[Keyword(name)] = await _purged(other, there)


async def _purged(conn: Connection, forms: list[Any]) -> TxReport:
    report = await conn.transact(forms)
    writer = writer_of(conn)
    with konserve_errors():
        if writer.flushing.under_way:
            # What it writes of the state before would come after the garbage was listed.
            await writer.renew(frozenset())
        wasteful = await wasteful_blobs(writer.branch.store, writer.snapshot.trees)
        for blobs in wasteful:
            await writer.renew(blobs)
        if not wasteful:
            # A flush may have merged all away that the checkpoint of the purge still names.
            await writer.renew(frozenset(), anew=True)
    return report


async def _untagged(conn: Connection, forms: _Forms) -> list[Keyword]:
    """Take back the tags of commits that have something of what is purged."""
    with konserve_errors():
        registry = await read_registry(writer_of(conn).branch.store)
    out = []
    for name, tag in registry.tags.items():
        db = await commit_as_db(conn, tag.commit)
        there = [] if db is None else await fetched(named, db.snapshot, forms)
        if db is not None and there and (await db.with_(there)).purged:
            await untag(conn, name)
            out.append(Keyword(name))
    return out


async def erasure_report(conn: Connection, values: Iterable[Any]) -> ErasureReport:
    """Decode all that lies in the store of a database, and say where values are still.

    Texts and bytes are found where others contain them, in what is decoded and in the raw bytes;
    other values where equal ones are. Raises ArgumentError for what no database holds, for tuples
    (search for their elements), and where nothing is asked for. ::

        await conn.transact([{":person/name": "Grace"}])
        report = await d.erasure_report(conn, ["Grace"])
        assert not report.clean and "head/db" in {kept.key for kept in report.found}
    """
    writer = writer_of(conn)
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ArgumentError(f"erasure_report takes a collection of values, not {shown(values)}.")
    wanted = [_sought(value) for value in values]
    if not wanted:
        raise ArgumentError("erasure_report takes at least one value to search for.")
    with konserve_errors():
        done = await search(writer.branch.store, writer.branch.factory, Sought(wanted))
    return ErasureReport(
        done.blobs,
        done.bytes,
        done.nodes,
        done.datoms,
        done.records,
        tuple(done.found),
        tuple(done.unread),
    )


def _sought(value: Any) -> Any:
    """Return a value as databases hold it. What none can hold is never found: it is refused."""
    try:
        made = ANY.coerce(value)
    except TransactionError:
        made = None
    if made is None or isinstance(made, tuple) or (isinstance(made, (str, bytes)) and not made):
        hint = "; search for its elements" if isinstance(made, tuple) and made else ""
        raise ArgumentError(
            f"{shown(value)} is no value that can be searched for{hint}. Texts, bytes, keywords, "
            "numbers, UUIDs and instants with a time zone can."
        )
    return made
