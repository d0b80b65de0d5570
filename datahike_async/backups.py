"""Backing a database up, and restoring it: copies of a whole database in another store.

A copy is a database like any other: it can be opened, queried, verified and copied on. So moving a
database from files to S3, or from S3 into memory for a test, is a restore too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from datahike_async.config import Config
from datahike_async.connection import Connection, writer_of
from datahike_async.edn.types import Keyword
from datahike_async.env import SYSTEM
from datahike_async.errors import ArgumentError, ConfigError, shown
from datahike_async.konserve import opening as stores
from datahike_async.konserve.loops import surely
from datahike_async.konserve.store import Store
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.storage.backup import Copying, copy_store
from datahike_async.storage.branches.read import read_head
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.creating import make_store, probe_of, store_exists
from datahike_async.storage.keys import BRANCHES
from datahike_async.verification import opened

__all__ = ["Backup", "backup", "restore"]


@dataclass(frozen=True)
class Backup(Json):
    """What a copy holds now, and what that took.

    ``id`` is that of the copy; ``commits`` say at which commit each branch is. ``blobs`` and
    ``bytes`` were written; ``kept`` blobs were there already. ``rewritten`` says that the target
    lays nodes out in another way, so that they were written anew.
    """

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    id: UUID
    commits: Mapping[Keyword, UUID]
    blobs: int
    bytes: int
    kept: int
    rewritten: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "id": str(self.id),
            "commits": {str(name): str(commit) for name, commit in self.commits.items()},
            "blobs": self.blobs,
            "bytes": self.bytes,
            "kept": self.kept,
            "rewritten": self.rewritten,
        }

    def __repr__(self) -> str:
        return f"<Backup {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        lines = [
            f"copied {self.blobs} blobs with {self.bytes} bytes"
            + (", written anew for the layout of the target" if self.rewritten else "")
            + f"; {self.kept} were there; database {self.id}"
        ]
        lines += [f"branch {name} at commit {at}" for name, at in sorted(self.commits.items())]
        return "\n".join(lines)


async def backup(
    database: Connection | Any,
    target: Any,
    *,
    branches: Iterable[Any] | None = None,
    since: Backup | None = None,
    id: UUID | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Backup:
    """Copy a database into another store, or bring the copy there up to date.

    ``database`` is a connection or a config, ``target`` the config of the copy, in any backend.
    All branches are copied with every commit they lead to, each as it is when it is looked at, or
    those of ``branches`` alone; writers go on meanwhile. Only what the target lacks is written.
    Heads come last: a copy that was ended half way is no database, and the same call goes on with
    it. A branch that the source has no more is deleted in the copy, unless ``branches`` are given.

    The copy has the id of the database, or ``id``, or what the target's config says. ``since``, an
    earlier result, refuses to go on with a copy that is at other commits than that says.
    ``progress`` is called with how much is done, and of how much: blobs, and nodes written anew.

    Raises DatabaseExists where the target holds another database (``:db-already-exists``), or was
    written to since it was copied (``:backup/diverged``); CorruptData where the source is damaged;
    StorageError. ::

        import uuid

        target = {"store": {"backend": "memory", "id": uuid.uuid4()}}
        copied = await d.backup(conn, target)
        assert copied.commits == {d.kw("db"): d.commit_id(conn.db())}
        async with d.connect(target) as copy:
            assert await d.diff(copy.db(), conn.db()) == ([], [])
    """
    if since is not None and not isinstance(since, Backup):
        raise ArgumentError(f"since is what an earlier backup returned, not {shown(since)}.")
    basis = None if since is None else {name.text: at for name, at in since.commits.items()}
    chosen = None if branches is None else _names(branches)
    return await _copied(database, target, chosen, id, progress, basis=basis)


async def restore(
    source: Any,
    target: Any,
    *,
    branches: Iterable[Any] | None = None,
    id: UUID | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Backup:
    """Make a database of a copy of it, or of any other database: as ``backup``, the other way.

    ``source`` and ``target`` are configs. The target must hold no database; one that an interrupted
    restore has left is gone on with. The result has the id of the source, unless ``id`` or the
    target's config gives it another one.

    Raises DatabaseNotFound where the source holds none; DatabaseExists ``:db-already-exists``, and
    what ``backup`` raises. ::

        import uuid

        target = {"store": {"backend": "memory", "id": uuid.uuid4()}}
        await d.restore(conn.config, target)
        assert await d.database_exists(target)
    """
    chosen = None if branches is None else _names(branches)
    return await _copied(source, target, chosen, id, progress, fresh=True)


def _names(branches: Iterable[Any]) -> list[str]:
    if isinstance(branches, (str, Keyword)) or not isinstance(branches, Iterable):
        raise ArgumentError(f"Branches are a collection of names, not {shown(branches)}.")
    names = [
        str(getattr(branch, "text", branch)).removeprefix(":")
        for branch in branches
        if isinstance(branch, (str, Keyword))
    ]
    if not names:
        raise ArgumentError("Name at least one branch, or leave branches out to copy all.")
    return names


async def _copied(
    database: Any,
    target: Any,
    branches: list[str] | None,
    id: UUID | None,
    progress: Callable[[int, int], object] | None,
    *,
    fresh: bool = False,
    basis: Mapping[str, UUID] | None = None,
) -> Backup:
    config = Config.of(target)
    if config.read_only:
        raise ConfigError(
            "A copy cannot be made with read_only=True; leave it out.", key=":read-only?"
        )
    if id is not None and not isinstance(id, UUID):
        raise ArgumentError(f"The id of a copy is a UUID, not {shown(id)}.")
    if id is not None and config.store.get("id") not in (None, id):
        raise ConfigError(
            f"The copy is to have the id {id}, and its config says {config.store['id']}; give one.",
            error=":store-identity-mismatch",
        )
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress is a function of two numbers, not {shown(progress)}.")
    async with opened(database) as (source, _):
        wanted = id or config.store.get("id")
        to = config.in_store({**config.store, "id": wanted or await _id_of(source)})
        await _refuse_same(database, to)
        store, target_id = await _target(to, wanted)
        try:
            await probe_of(store, target_id, to, SYSTEM).check()
            job = Copying(source, store, target_id, SYSTEM, branches, fresh, basis, progress)
            done = await copy_store(job)
        finally:
            await surely(partial(stores.release_store, store))
    commits = {Keyword(name): commit for name, commit in done.commits.items()}
    return Backup(target_id, commits, done.blobs, done.bytes, done.kept, done.rewritten)


async def _id_of(source: Store) -> UUID:
    """Return the id of the database in a store; the copy finds out that there is none."""
    if await source.exists(BRANCHES):
        head, _ = await read_head(source, (await read_registry(source)).main)
        if head is not None:
            return head.base.store
    return source.id or SYSTEM.new_uuid()


async def _refuse_same(database: Any, target: Config) -> None:
    """Raise ConfigError where a store would be copied onto itself."""
    config = writer_of(database).config if isinstance(database, Connection) else Config.of(database)
    place = await stores.store_place(dict(config.store))
    if place == await stores.store_place(dict(target.store)):
        raise ConfigError(
            "The copy would lie where the database is. Give it another place; in memory, that is "
            "another id.",
            error=":backup/same-place",
        )


async def _target(config: Config, wanted: UUID | None) -> tuple[Store, UUID]:
    """Open the store for a copy, or make it; return the id that the copy has."""
    if wanted is None and config.store["backend"] != "memory" and await store_exists(config):
        # What is there keeps its id.
        config = config.in_store({k: v for k, v in config.store.items() if k != "id"})
    store, _ = await make_store(config, SYSTEM)
    found = store.id or await _known(store)
    return store, found or config.store.get("id") or SYSTEM.new_uuid()


async def _known(store: Store) -> UUID | None:
    if not await store.exists(BRANCHES):
        return None
    head, _ = await read_head(store, (await read_registry(store)).main)
    return None if head is None else head.base.store
