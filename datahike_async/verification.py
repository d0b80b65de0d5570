"""Verifying a database, and what it is made of: whether all of it is there, whole, and agrees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from datahike_async.config import Config
from datahike_async.connection import Connection, writer_of
from datahike_async.errors import ArgumentError, CorruptData, DatabaseNotFound, shown
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import StoreNotFound
from datahike_async.konserve.loops import surely
from datahike_async.konserve.store import Store
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.storage.branches.read import missing_branch
from datahike_async.storage.summary import Summary, summarize
from datahike_async.storage.translate import konserve_errors
from datahike_async.storage.verify import Finding, verify_store
from datahike_async.values.json_form import jsonable

__all__ = ["BranchInfo", "Finding", "Info", "Verification", "info", "opened", "verify"]


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


class BranchInfo(NamedTuple):
    """A branch: its newest commit and transaction, and how much of it lies in the indexes.

    ``pending`` are transactions that lie in the log alone, until the next flush.
    """

    name: str
    commit: UUID
    tx: int
    instant: datetime | None
    datoms: int
    pending: int


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
    main: str
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
            f"branch :{one.name} at commit {one.commit}, transaction {one.tx}, {one.datoms} datoms "
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
        assert [branch.name for branch in found.branches] == ["db"]
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
        BranchInfo(name, of.commit.id, of.tx, of.instant, of.datoms, of.pending)
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
        main=found.main,
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
