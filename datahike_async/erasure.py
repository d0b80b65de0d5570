"""Erasure: purging data wherever they are, and a report that shows what is left of them.

A transaction that purges takes data out of the present and the past of its branch. Other branches
and tags, and the blobs of the store, may hold them still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datahike_async.collection import Collected
from datahike_async.config.collecting import Retention
from datahike_async.connection import Connection, connect, require_connection, writer_of
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, TransactionError, shown
from datahike_async.storage.branches.pins import change_pins
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.erasure import Kept, Sought, search, wasteful_blobs
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.collecting import collect
from datahike_async.values.report import TxReport
from datahike_async.versions import commit_as_db, untag

__all__ = ["ErasureReport", "Kept", "Purged", "erasure_report", "purge"]

UNSEEN: Final = (
    "backups and copies of the store",
    "what lies below the store: earlier versions in a bucket, free pages of LMDB until it is "
    "compacted, blocks that a file system has freed",
    "the memory of processes that have the database open, and database values that they hold",
)
"""What no look into a store can see."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did: the report of each branch's transaction, the tags that were taken back.

    ``collected`` says which blobs were removed.
    """

    reports: Mapping[Keyword, TxReport]
    untagged: tuple[Keyword, ...]
    collected: Collected

    @property
    def datoms(self) -> int:
        """How many datoms of the present and the past were purged, of all branches together."""
        return sum(report.purged for report in self.reports.values())


@dataclass(frozen=True, slots=True)
class ErasureReport:
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

    @property
    def clean(self) -> bool:
        """Whether all was read, and nothing was found."""
        return not self.found and not self.unread


async def purge(conn: Connection, forms: Iterable[Any], *, everywhere: bool = False) -> Purged:
    """Erase data: from the present and the past, and from the blobs of the store.

    ``forms`` are those that purge: ``[":db/purge", e, a, v]``, ``[":db.purge/attribute", e, a]``,
    ``[":db.purge/entity", e]``, ``[":db.history.purge/before", date]``. What is left is written
    where nothing of them lies, and the garbage is collected. The commits of the branch before that
    can't be gone back to any more; ``as_of`` shows the past without what was purged.

    Other branches keep what they have, and so do tags and pins, unless it is to be ``everywhere``:
    then all branches are purged, tags of commits that have some of it are taken back, and all pins.

    Raises TransactionError ``:transact/purge`` and what ``transact`` and ``gc_storage`` raise. ::

        report = await conn.transact([{":db/id": "ada", ":person/name": "Ada"}])
        done = await d.purge(conn, [[":db.purge/entity", report.tempids["ada"]]])
        assert done.datoms == 1
    """
    conn = require_connection(conn)
    forms = list(forms)
    names = [conn.config.branch]
    if everywhere:
        with konserve_errors():
            registry = await read_registry(writer_of(conn).store)
        names += sorted(registry.branches.keys() - set(names))
    reports: dict[Keyword, TxReport] = {}
    untagged: list[Keyword] = []
    for name in names:
        if name == conn.config.branch:
            reports[Keyword(name)] = await _purged(conn, forms)
            continue
        async with connect(conn.config, branch=name) as other:
            try:
                reports[Keyword(name)] = await _purged(other, forms)
            except TransactionError as error:
                if error.error != ":transact/purge":
                    raise
                # What is named is not there: it was made on another branch, or is gone from here.
    if everywhere:
        untagged = await _untagged(conn, forms)
    writer = writer_of(conn)
    with konserve_errors():
        if everywhere:
            await change_pins(writer.store, lambda pins: {})
        collected = await collect(writer, Retention())
    return Purged(reports, tuple(untagged), collected)


async def _purged(conn: Connection, forms: list[Any]) -> TxReport:
    report = await conn.transact(forms)
    writer = writer_of(conn)
    with konserve_errors():
        for blobs in await wasteful_blobs(writer.store, writer.snapshot.trees):
            await writer.renew(blobs)
    return report


async def _untagged(conn: Connection, forms: list[Any]) -> list[Keyword]:
    """Take back the tags of commits that have something of what is purged."""
    with konserve_errors():
        registry = await read_registry(writer_of(conn).store)
    out = []
    for name, tag in registry.tags.items():
        db = await commit_as_db(conn, tag.commit)
        if db is None:
            continue
        try:
            report = await db.with_(forms)
        except TransactionError as error:
            if error.error != ":transact/purge":
                raise
            continue
        if report.purged:
            await untag(conn, name)
            out.append(Keyword(name))
    return out


async def erasure_report(conn: Connection, values: Iterable[Any]) -> ErasureReport:
    """Decode all that lies in the store of a database, and say where values are still.

    Texts and bytes are found where others contain them, in what is decoded and in the raw bytes;
    other values where equal ones are. ::

        await conn.transact([{":person/name": "Grace"}])
        report = await d.erasure_report(conn, ["Grace"])
        assert not report.clean and "head/db" in {kept.key for kept in report.found}
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ArgumentError(f"erasure_report takes a collection of values, not {shown(values)}.")
    writer = writer_of(conn)
    with konserve_errors():
        done = await search(writer.store, writer.factory, Sought(list(values)))
    return ErasureReport(
        done.blobs,
        done.bytes,
        done.nodes,
        done.datoms,
        done.records,
        tuple(done.found),
        tuple(done.unread),
    )
