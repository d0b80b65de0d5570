"""Verifying a database, and what it is made of: whether all of it is there, whole, and agrees.

And auditing it: whether it is what the ids of its commits say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from datahike_async.config import Config
from datahike_async.connection import Connection, writer_of
from datahike_async.database import Database
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, CorruptData, DatabaseNotFound, shown
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import StoreNotFound
from datahike_async.konserve.loops import surely
from datahike_async.konserve.store import Store
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.storage.audit import Audited, audit_from
from datahike_async.storage.branches.finding import Line, find_commit
from datahike_async.storage.branches.read import missing_branch, read_branch
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.walk import Past, Place
from datahike_async.storage.summary import Summary, summarize
from datahike_async.storage.translate import konserve_errors
from datahike_async.storage.verify import Finding, verify_store
from datahike_async.values.json_form import jsonable

__all__ = [
    "Audit",
    "BranchInfo",
    "Finding",
    "Info",
    "Verification",
    "info",
    "opened",
    "verify",
    "verify_chain",
]


@dataclass(frozen=True)
class Verification(Json):
    """What a look at a whole database has found. ``ok`` says that nothing is wrong.

    ``findings`` say what is, each its ``kind``, ``place`` and ``message``: ``missing`` is what is
    referred to and not there, ``corrupt`` what is not as it was written, ``mismatch`` what is whole
    and contradicts something. Beyond a thousand they are only counted, in ``more``.

    ``blobs`` and ``bytes`` were read; ``orphans`` of them nothing refers to. They are no fault: a
    collection frees them. ``datoms`` is the most that one of the ``checkpoints`` holds.
    """

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    deep: bool
    branches: int
    checkpoints: int
    segments: int
    nodes: int
    datoms: int
    blobs: int
    bytes: int
    orphans: int
    orphan_bytes: int
    findings: tuple[Finding, ...]
    more: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        out = {**asdict(self), "ok": self.ok}
        out["findings"] = [finding._asdict() for finding in self.findings]
        return out

    def __repr__(self) -> str:
        return f"<Verification {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        wrong = len(self.findings) + self.more
        said = "nothing is wrong" if self.ok else f"{wrong} findings"
        lines = [
            f"{said}: {self.blobs} blobs with {self.bytes} bytes were read"
            + (", and the log compared with the indexes" if self.deep else ""),
            f"branches {self.branches}, checkpoints {self.checkpoints}, segments of the log "
            f"{self.segments}, nodes {self.nodes}, datoms {self.datoms}",
            f"orphans: {self.orphans} blobs with {self.orphan_bytes} bytes",
        ]
        lines += [f"{kind} {place}: {message}" for kind, place, message in self.findings]
        if self.more:
            lines.append(f"and {self.more} more")
        return "\n".join(lines)


async def verify(
    database: Connection | Any,
    *,
    deep: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Verification:
    """Look whether all of a database is there, whole, and agrees; write nothing.

    ``database`` is a connection or a config. Every blob of its store is read once, past every
    cache: all branches, with all commits that they lead to, and what is left over. The indexes are
    compared with one another, and with ``deep`` the log with them. Writers go on meanwhile.
    ``progress`` is called with how many blobs were read, and of how many.

    Raises DatabaseNotFound, UnsupportedFormat, and StorageError where the store cannot be read at
    all; CorruptData where it cannot even be opened. ::

        report = await d.verify(conn, deep=True)
        assert report.ok, str(report)
    """
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress is a function of two numbers, not {shown(progress)}.")
    async with opened(database) as (store, branch):
        found = await verify_store(store, [branch], deep=bool(deep), progress=progress)
        if not found.branches and not found.blobs:
            raise missing_branch(branch)
    counts = {name: getattr(found, name) for name in _COUNTS}
    return Verification(deep=bool(deep), findings=tuple(found.findings), **counts)


_COUNTS = (
    "branches",
    "checkpoints",
    "segments",
    "nodes",
    "datoms",
    "blobs",
    "bytes",
    "orphans",
    "orphan_bytes",
    "more",
)


@dataclass(frozen=True)
class Audit(Json):
    """What an audit of a database has found. ``ok`` says that all is what its commits' ids say.

    ``status`` is ``":ok"``; ``":mismatch"`` where something contradicts its hash, is damaged, or,
    in a ``deep`` audit, where the indexes hold what the log does not lead to; ``":incomplete"``
    where something is missing, or some of the past has gone with a branch that was deleted, or by
    a collection of garbage; ``":advisory"`` where the database was created without
    ``:crypto-hash?``: then nothing can be proven, and nothing was looked at.

    Of ``commits`` the ids are right. ``mismatches`` and ``missing`` are findings, each its
    ``kind``, ``place`` and ``message``.
    """

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    status: str
    commits: int
    mismatches: tuple[Finding, ...]
    missing: tuple[Finding, ...]
    deep: bool

    @property
    def ok(self) -> bool:
        """Whether all of it was looked at, and nothing is wrong."""
        return self.status == ":ok"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        out = {**asdict(self), "ok": self.ok}
        for name in ("mismatches", "missing"):
            out[name] = [finding._asdict() for finding in getattr(self, name)]
        return out

    def __repr__(self) -> str:
        return f"<Audit {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        said = f"{self.status}: the ids of {self.commits} commits are right" + (
            ", and the indexes and the log were compared" if self.deep else ""
        )
        if self.status == ":advisory":
            said = f"{self.status}: commits have random ids; :crypto-hash? is set at creation"
        findings = (*self.mismatches, *self.missing)
        return "\n".join([said, *(f"{kind} {place}: {what}" for kind, place, what in findings)])


async def verify_chain(
    database: Connection | Database | Any, *, deep: bool = False, limit: int | None = None
) -> Audit:
    """Look whether a database is what the ids of its commits say; write nothing.

    For databases that were created with ``:crypto-hash?``. ``database`` is a connection or a
    config, whose branch is looked at as it lies in its store, or a database value, of which the
    commit is looked at. From there the commits are walked back through all their parents, at most
    ``limit`` of them: each id has to be the hash of its parents and its part of the log, and the
    roots of the indexes have to be those that belong to it. With ``deep`` all of the store is read,
    as ``verify(deep=True)`` does: every node has to have its hash, and the log has to lead to what
    the indexes hold.

    Whoever can write to the store can also make all hashes anew, up to the head, or set all of it
    back. That shows by a commit's id that was kept elsewhere: ``commit_as_db`` finds it, or not.

    Raises ArgumentError ``:audit/expected-db`` for anything else, and ``:audit/no-head`` for a
    value that is no commit; DatabaseNotFound, UnsupportedFormat, StorageError as ``verify``. ::

        hashed = {"store": {"backend": "memory"}, "crypto-hash?": True}
        async with d.connect(await d.create_database(hashed)) as proven:
            report = await d.verify_chain(proven, deep=True)
        assert report.ok, str(report)
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(f"limit is a number of commits, at least 1, not {shown(limit)}.")
    known, of = _to_audit(database)
    async with opened(of) as (store, branch):
        state = await read_branch(store, branch, None)
        if state is None:
            raise missing_branch(branch)
        base = state.head.base
        if not base.is_hashed:
            return Audit(":advisory", 0, (), (), bool(deep))
        own = Line(branch, state.head.epoch, base, state.tail.records)
        place: Place | None = Place(base, tuple(own.tail), state.records, state.commit)
        if isinstance(database, Database) and known is not None:
            registry = await read_registry(store)
            origin = await find_commit(store, Past(store), registry, own, known)
            place = None if origin is None else origin.place
        if place is None:
            found = Audited()
            found.missing.append(Finding("missing", f"commit {known}", _NOWHERE))
        else:
            found = await audit_from(store, own, place, limit=limit)
            complete = not (found.limited or found.ended or found.missing or found.mismatches)
            if complete and known is not None and known not in found.met:
                found.mismatch(f"commit {known}", _NOWHERE)
        if deep:
            looked = await verify_store(store, [branch], deep=True)
            found.missing += [x for x in looked.findings if x.kind == "missing"]
            found.mismatches += [x for x in looked.findings if x.kind != "missing"]
    status = ":incomplete" if found.missing or found.ended else ":ok"
    return Audit(
        ":mismatch" if found.mismatches else status,
        found.commits,
        tuple(dict.fromkeys(found.mismatches)),
        tuple(dict.fromkeys(found.missing)),
        bool(deep),
    )


def _to_audit(database: Any) -> tuple[UUID | None, Any]:
    """Return the commit that is known of what is to be audited, and where that lies."""
    if isinstance(database, Connection):
        return database.db().commit_id, database
    if isinstance(database, Database):
        if database.commit_id is None or database.config is None:
            raise ArgumentError(
                "This database value is no commit of a stored database; take that of a "
                "connection, conn.db().",
                error=":audit/no-head",
            )
        return database.commit_id, database.config
    if not isinstance(database, (Config, Mapping, str)):
        raise ArgumentError(
            f"verify_chain takes a connection, a database or a config, not {shown(database)}.",
            error=":audit/expected-db",
        )
    return None, database


_NOWHERE = "it is known here, and not in the past of the branch"


class BranchInfo(NamedTuple):
    """A branch: its newest commit and transaction, and how much of it lies in the indexes.

    ``pending`` are transactions that lie in the log alone, until the next flush. ``runs`` are the
    sorted runs over its indexes, of the present and of the past, with ``waiting`` rows that will be
    merged into these; :func:`compact` does it at once.
    """

    name: Keyword
    commit: UUID
    tx: int
    instant: datetime | None
    datoms: int
    pending: int
    runs: int
    waiting: int


@dataclass(frozen=True)
class Info(Json):
    """What a database is made of. ``bytes`` is what its heads refer to, in ``blobs`` of its store.

    ``orphans`` are blobs that nothing refers to, and could be freed, with their bytes. ``software``
    is the version that wrote the main branch's newest checkpoint.
    """

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    store: dict[str, Any]
    id: UUID
    format: int
    software: str
    created: datetime
    keep_history: bool
    index: str
    main: Keyword
    branches: tuple[BranchInfo, ...]
    checkpoints: int
    segments: int
    nodes: int
    blobs: int
    bytes: int
    orphans: int
    orphan_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        out = {field.name: getattr(self, field.name) for field in fields(self)}
        out["branches"] = [branch._asdict() for branch in self.branches]
        found: dict[str, Any] = jsonable(out)
        return found

    def __repr__(self) -> str:
        return f"<Info {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        lines = [
            f"database {self.id} of format {self.format}, by datahike-async {self.software}",
            f"store {self.store}",
            f"created {self.created.isoformat()}, index :{self.index}, "
            + ("with history" if self.keep_history else "without history"),
            f"{self.blobs} blobs; {self.bytes} bytes in {self.nodes} nodes, {self.segments} "
            f"segments of the log and {self.checkpoints} checkpoints",
            f"could be freed: {self.orphans} blobs with {self.orphan_bytes} bytes",
        ]
        lines += [
            f"branch {one.name} at commit {one.commit}, transaction {one.tx}, {one.datoms} datoms "
            f"in its indexes and {one.pending} transactions pending"
            for one in self.branches
        ]
        return "\n".join(lines)


async def info(database: Connection | Any) -> Info:
    """Say what a database is made of: branches, sizes, format, and what could be freed.

    ``database`` is a connection or a config. Reads what leads to the leaves, and the orphans, and
    none of the leaves. Raises DatabaseNotFound, UnsupportedFormat; CorruptData where something is
    missing or damaged: ``verify`` says all of it. ::

        found = await d.info(conn)
        assert [branch.name for branch in found.branches] == [d.kw("db")]
    """

    async with opened(database) as (store, branch):
        if not await store.exists("branches"):
            raise missing_branch(branch)
        found = await summarize(store, _raise)
    return _info(found)


def _raise(kind: str, place: str, message: str) -> None:
    raise CorruptData(f"{place} is {kind}: {message} verify says all that is wrong.", place=place)


def _info(found: Summary) -> Info:
    base = found.base
    branches = [
        BranchInfo(
            Keyword(name),
            of.commit.id,
            of.tx,
            of.instant,
            of.datoms,
            of.pending,
            of.runs,
            of.waiting,
        )
        for name, of in sorted(found.branches.items())
    ]
    return Info(
        store=dict(found.store),
        id=base.store,
        format=found.format,
        software=found.software,
        created=found.created,
        keep_history=bool(base.config["keep-history"]),
        index=str(base.config["index"]),
        main=Keyword(found.main),
        branches=tuple(branches),
        checkpoints=found.checkpoints,
        segments=found.segments,
        nodes=found.nodes,
        blobs=found.blobs,
        bytes=found.bytes,
        orphans=found.orphans,
        orphan_bytes=found.orphan_bytes,
    )


@asynccontextmanager
async def opened(database: Any, **options: Any) -> AsyncIterator[tuple[Store, str]]:
    """Have the store of a connection or a config at hand, and the name of its branch.

    That of a config is opened to be read only. konserve's errors that leave the block become ours.
    """
    with konserve_errors():
        if isinstance(database, Connection):
            writer = writer_of(database)
            yield writer.branch.store, writer.config.branch
            return
        if database is None or isinstance(database, Database):
            raise ArgumentError(
                f"A connection or a configuration is expected, not {shown(database)}."
            )
        config = Config.of(database, **options)
        try:
            store = await stores.connect_store({**config.store, "read-only": True})
        except StoreNotFound as error:
            raise DatabaseNotFound(
                f"Database does not exist: {error}", error=":backend-does-not-exist"
            ) from error
        try:
            yield store, config.branch
        finally:
            await surely(partial(stores.release_store, store))
