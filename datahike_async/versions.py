"""Branches and commits: naming them, going back to them, making and deleting branches.

A database is a graph of commits, as in git: each transaction is one, on the one before it. A branch
is a name for the newest of a line of them. Any commit is a database value, and can be branched.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async.connection import (
    Connection,
    require_connection,
    transact_on,
    writer_of,
)
from datahike_async.database import Database, require_database
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, DatabaseNotFound, SnapshotExpired, shown
from datahike_async.index.columns import Rows
from datahike_async.index.source import Reading
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.opening import store_place
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.difference import difference
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import View
from datahike_async.storage.branches.branching import (
    begin_branch,
    both_in_use,
    end_branch,
    main_branch,
    neither,
    unknown_branch,
)
from datahike_async.storage.branches.finding import (
    Line,
    find_commit,
    head_place,
    require_kept,
)
from datahike_async.storage.branches.forcing import write_value
from datahike_async.storage.branches.origin import Origin
from datahike_async.storage.branches.read import deleted_branch, restore_at
from datahike_async.storage.branches.registry import Registry, read_registry
from datahike_async.storage.branches.retained import floor_of
from datahike_async.storage.branches.tagging import begin_tag, end_tag
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.sharing import forget, sharers
from datahike_async.values.report import TxReport

__all__ = [
    "Difference",
    "branch",
    "branch_as_db",
    "branch_history",
    "branches",
    "commit_as_db",
    "commit_id",
    "database_at",
    "delete_branch",
    "diff",
    "force_branch",
    "merge_db",
    "named_place",
    "origin_of",
    "parent_commit_ids",
    "place_of",
    "rename_branch",
    "shut_branch",
    "tag",
    "tags",
    "untag",
]

_ATTEMPTS: Final = 20


def commit_id(db: Database) -> UUID | None:
    """Return the id of the commit that a database is; None for a value that is no stored one. ::

    report = await conn.transact([{":person/name": "Ada"}])
    assert d.commit_id(report.db_after) == d.commit_id(conn.db())
    """
    return require_database(db).commit_id


def parent_commit_ids(db: Database) -> frozenset[UUID]:
    """Return the ids of the commits that a database was made on: one, of a merge several. ::

    report = await conn.transact([{":person/name": "Ada"}])
    assert d.parent_commit_ids(report.db_after) == {d.commit_id(report.db_before)}
    """
    return require_database(db).parent_commit_ids


class Difference(NamedTuple):
    """What one database says and another does not: see :func:`diff`."""

    added: Datoms
    removed: Datoms


async def diff(before: Database, after: Database, *, transactions: bool = False) -> Difference:
    """Return the datoms that are only in ``after``, and those that are only in ``before``.

    Datoms are the same where entity, attribute and value are, whenever they were asserted. Entities
    of transactions are left out without ``transactions``. The cost follows the difference: what two
    states of one store, branches included, share is not looked at. Views of the past are compared
    whole. ::

        report = await conn.transact([{":person/name": "Ada"}])
        found = await d.diff(report.db_before, report.db_after)
        assert [(x.a, x.v) for x in found.added] == [(d.kw("person/name"), "Ada")]
        assert not found.removed
    """
    left, right = require_database(before).view, require_database(after).view
    call = partial(difference, left, right, transactions=transactions)
    with Reading() as reading:
        found: tuple[list[Rows], list[Rows]] = await reading.call(call, run=in_thread)
    gone, new = found
    return Difference(Datoms(right.schema, new), Datoms(left.schema, gone))


async def branches(conn: Connection) -> frozenset[Keyword]:
    """Return the names of all branches of a connection's database. ::

    assert await d.branches(conn) == {d.kw("db")}
    """
    store = writer_of(conn).branch.store
    with konserve_errors():
        registry = await read_registry(store)
    return frozenset(Keyword(name) for name in registry.branches)


async def branch(conn: Connection, from_: Any, new: Any) -> None:
    """Make a branch ``new`` of a branch, a tag or a commit.

    A commit is named by its id, a database value, or a connection that is at it.

    It costs the same whatever the database holds. Connect to it with ``:branch`` in the config.

    Raises ArgumentError ``:branch-must-be-keyword``, NameTaken ``:branch-already-exists``,
    NameNotFound ``:from-branch-does-not-point-to-existing-branch-or-commit``. ::

        await d.branch(conn, ":db", ":trial")
        assert d.kw("trial") in await d.branches(conn)
    """
    writer = writer_of(conn)
    name = _name(new)
    writer.require_writable()
    with konserve_errors():
        await writer.branch.probe.check()
        await begin_branch(
            writer.branch.store, name, partial(_origin, conn, from_), writer.branch.env
        )


async def delete_branch(conn: Connection, name: Any) -> None:
    """Delete a branch. Values of it that somebody holds can still be read, until a collection.

    Its commits that no other branch has are found no more by their ids. Whoever has it open is told
    so by the next transaction or ``sync``. Raises BadInput ``:cannot-delete-main-db-branch``,
    NameNotFound ``:branch-does-not-exist``. ::

        await d.branch(conn, ":db", ":old")
        await d.delete_branch(conn, ":old")
        assert d.kw("old") not in await d.branches(conn)
    """
    writer = writer_of(conn)
    wanted = _name(name)
    writer.require_writable()
    with konserve_errors():
        await writer.branch.probe.check()
        await _end(conn, wanted)


async def rename_branch(conn: Connection, old: Any, new: Any) -> None:
    """Give a branch another name. Whoever has it open is told so, as when it is deleted.

    For a moment there are both. Raises BadInput ``:cannot-delete-main-db-branch``, and what
    ``branch`` and ``delete_branch`` raise. ::

        await d.branch(conn, ":db", ":sping")
        await d.rename_branch(conn, ":sping", ":spring")
        assert d.kw("spring") in await d.branches(conn)
    """
    writer = writer_of(conn)
    wanted, name = _name(old), _name(new)
    writer.require_writable()
    with konserve_errors():
        await writer.branch.probe.check()
        if wanted == (await read_registry(writer.branch.store)).main:
            raise main_branch(wanted)
        at: UUID | None = None

        async def find(registry: Registry) -> Origin:
            nonlocal at
            origin = await _head_of(conn, wanted, registry)
            if origin is None:
                raise unknown_branch(wanted, registry)
            at = origin.place.commit.id
            return origin

        for _ in range(_ATTEMPTS):
            await begin_branch(writer.branch.store, name, find, writer.branch.env)
            try:
                with suppress(DatabaseNotFound):  # where others have deleted it that is as good
                    await _end(conn, wanted, at)
                return
            except RevisionMismatch:
                # Somebody has written to it meanwhile, and perhaps to the new one as well.
                with both_in_use(wanted, name), suppress(DatabaseNotFound):
                    await _end(conn, name, at)
        raise RevisionMismatch(f"Others kept writing to branch :{wanted}; it was not renamed.")


async def force_branch(conn: Connection, db: Database, name: Any, parents: Iterable[Any]) -> None:
    """Have a branch be a database value, whatever it was before; it is made where there is none.

    The value is of this store: a commit of any branch, or what ``with_`` made of one. It becomes a
    commit on ``parents``, names of branches and ids of commits. Whoever has the branch open is told
    so, as when it is deleted.

    Raises ArgumentError ``:db-value-required``, ``:must-provide-at-least-one-parent``,
    ``:branch-must-be-keyword``; NameNotFound ``:branch-does-not-exist``. ::

        before = conn.db()
        await conn.transact([{":person/name": "Ada"}])
        await d.force_branch(conn, before, ":as-it-was", [":db"])
        found = await d.diff(before, await d.branch_as_db(conn, ":as-it-was"))
        assert not found.added and not found.removed
    """
    writer = writer_of(conn)
    wanted = _name(name)
    writer.require_writable()
    with konserve_errors():
        value = await _value_of(conn, db)
        found = await _parents(conn, parents)
        await writer.branch.probe.check()
        own = _own_line(conn)

        async def kept(registry: Registry) -> None:
            past = writer.branch.opened.past
            await require_kept(writer.branch.store, past, registry, own, value.trees)

        base, env = writer.branch.line[0], writer.branch.env
        born = await write_value(
            writer.branch.store, writer.branch.source, value, wanted, found, base, env, kept
        )
        await shut_branch(conn, wanted, born)


async def tag(conn: Connection, name: Any, of: Any = None) -> None:
    """Give a commit a name that stays, and keeps the commit whatever becomes of its branch.

    ``of`` is a branch, the id of a commit, a database value or a connection; without it, the newest
    commit of ``conn``.

    Raises NameTaken ``:tag-already-exists``, ArgumentError ``:tag-must-be-keyword``,
    NameNotFound ``:from-branch-does-not-point-to-existing-branch-or-commit``. ::

        await d.tag(conn, ":v1")
        assert (await d.tags(conn))[d.kw("v1")] == d.commit_id(conn.db())
    """
    writer = writer_of(conn)
    wanted = _name(name, "tag")
    writer.require_writable()
    with konserve_errors():
        await writer.branch.probe.check()
        of = conn if of is None else of
        await begin_tag(writer.branch.store, wanted, partial(_origin, conn, of), writer.branch.env)


async def untag(conn: Connection, name: Any) -> None:
    """Take a tag back. Raises NameNotFound ``:tag-does-not-exist``. ::

    await d.tag(conn, ":mistaken")
    await d.untag(conn, ":mistaken")
    assert d.kw("mistaken") not in await d.tags(conn)
    """
    writer = writer_of(conn)
    wanted = _name(name, "tag")
    writer.require_writable()
    with konserve_errors():
        await writer.branch.probe.check()
        await end_tag(writer.branch.store, wanted)


async def tags(conn: Connection) -> dict[Keyword, UUID]:
    """Return the tags of a connection's database, with the ids of the commits they name. ::

    await d.tag(conn, ":v2")
    assert (await d.tags(conn))[d.kw("v2")] == d.commit_id(conn.db())
    """
    with konserve_errors():
        registry = await read_registry(writer_of(conn).branch.store)
    return {Keyword(name): tag.commit for name, tag in registry.tags.items()}


async def branch_as_db(conn: Connection, name: Any) -> Database:
    """Return a branch as it is now, as a database value.

    Raises NameNotFound ``:branch-does-not-exist``. ::

        assert await d.branch_as_db(conn, ":db") == conn.db()
    """
    wanted = _name(name)
    conn = require_connection(conn)
    if wanted == conn.config.branch:
        return await conn.sync()
    with konserve_errors():
        writer = writer_of(conn)
        place = await head_place(writer.branch.store, wanted, writer.branch.store_id)
        if place is None:
            raise unknown_branch(wanted, await read_registry(writer_of(conn).branch.store))
        return await database_at(conn, place)


async def commit_as_db(conn: Connection, commit: Any) -> Database | None:
    """Return the database that a commit is; None where no branch has it in its past.

    Raises ArgumentError ``:commit-id-must-be-uuid``; SnapshotExpired where it is older than what
    collections of garbage have left. ::

        before = conn.db()
        await conn.transact([{":person/name": "Ada"}])
        assert await d.commit_as_db(conn, d.commit_id(before)) == before
    """
    conn = require_connection(conn)
    if not isinstance(commit, UUID):
        raise ArgumentError(
            f"A commit is named by its UUID, not by {shown(commit)}.",
            error=":commit-id-must-be-uuid",
        )
    now = conn.db()
    if now.commit_id == commit:
        return now
    with konserve_errors():
        place = await place_of(conn, commit)
        return None if place is None else await database_at(conn, place)


async def branch_history(conn: Connection) -> AsyncGenerator[Database, None]:
    """Iterate over the commits of a branch as databases, back to the first that is kept.

    Each comes once. Of what is next the one with the newest transaction comes first, so that a line
    of commits comes from its end to its beginning. ::

        await conn.transact([{":person/name": "Ada"}])
        line = [db.commit_id async for db in d.branch_history(conn)]
        assert line[0] == d.commit_id(conn.db())
    """
    start = require_connection(conn).db()
    waiting: dict[UUID, Database] = {start.commit_id: start} if start.commit_id else {}
    met = set(waiting)
    while waiting:
        newest = max(waiting, key=lambda commit: (waiting[commit].max_tx, commit.int))
        db = waiting.pop(newest)
        yield db
        for parent in db.parent_commit_ids - met:
            met.add(parent)
            try:
                found = await commit_as_db(conn, parent)
            except SnapshotExpired:
                continue
            if found is not None:
                waiting[parent] = found


async def merge_db(
    conn: Connection,
    parents: Iterable[Any],
    tx_data: Any,
    tx_meta: Mapping[Any, Any] | None = None,
) -> TxReport:
    """Commit a transaction that has other branches or commits as parents, too.

    What is merged is what the transaction says; ``parents`` are names of branches and ids of
    commits. Raises NameNotFound ``:branch-does-not-exist``, and what ``transact`` raises. ::

        await d.branch(conn, ":db", ":draft")
        async with d.connect(conn.config, branch=":draft") as draft:
            await draft.transact([{":person/name": "Bob"}])
            other = d.commit_id(draft.db())
        report = await d.merge_db(conn, [":draft"], [{":person/name": "Bob"}])
        assert other in d.parent_commit_ids(report.db_after)
    """
    conn = require_connection(conn)
    with konserve_errors():
        found = await _parents(conn, parents)
    return await transact_on(conn, found, tx_data, tx_meta)


async def _parents(conn: Connection, parents: Any) -> tuple[UUID, ...]:
    """Return the ids of the commits that branches and ids name, each once."""
    if isinstance(parents, (str, UUID, Keyword)) or not isinstance(parents, Iterable):
        raise ArgumentError(
            f"Parents are a collection of branches and commits, not {shown(parents)}."
        )
    found: dict[UUID, None] = {}
    for parent in parents:
        place = await named_place(conn, parent)
        if place is None:
            raise neither(parent)
        found[place.commit.id] = None
    if not found:
        raise ArgumentError(
            "A merge, or a branch that is forced, has at least one parent; give a branch.",
            error=":must-provide-at-least-one-parent",
        )
    return tuple(found)


async def _value_of(conn: Connection, db: Any) -> Snapshot:
    """Return the state of a value of a connection's store."""
    value = db if isinstance(db, Database) and db.config is not None else None
    mine, its = writer_of(conn).config.store, {} if value is None else dict(value.config.store)
    same = its.get("id") == mine["id"] and await store_place(its) == await store_place(dict(mine))
    if value is None or not same or value.view.past:
        raise ArgumentError(
            f"A branch can be a state of the database that {shown(conn)} is connected to, or what "
            f"with_ made of one; {shown(db)} is a view of the past, or not of this store.",
            error=":db-value-required",
        )
    return value.snapshot


async def _end(conn: Connection, name: str, at: UUID | None = None) -> None:
    """Delete a branch, if it is ``at`` a commit where one is given."""
    writer = writer_of(conn)
    await shut_branch(
        conn, name, await end_branch(writer.branch.store, name, writer.branch.env, at=at)
    )


async def shut_branch(conn: Connection, name: str, born: UUID | None) -> None:
    """Close what is open of a branch that is gone; who connects from now on must not join it."""
    if born is not None:
        place = await store_place(dict(writer_of(conn).config.store))
        for transactor in forget(place, born):
            transactor.shut(deleted_branch(name))


def _name(value: Any, of: str = "branch") -> str:
    """Return the name of a branch or a tag, without its colon."""
    text = value.text if isinstance(value, Keyword) else value
    if isinstance(text, str):
        text = text.removeprefix(":")
        if text and " " not in text and text.isprintable():
            return text
    hint = " Of a database value give the commit: commit_id(db)." * isinstance(value, Database)
    raise ArgumentError(
        f"A {of} is named by a keyword such as :trial, not by {shown(value)}.{hint}",
        error=":branch-must-be-keyword" if of == "branch" else ":tag-must-be-keyword",
    )


async def _origin(conn: Connection, of: Any, registry: Registry) -> Origin:
    """Return where a branch or a commit is that something is to be made of."""
    origin = await origin_of(conn, of, registry)
    if origin is None:
        raise neither(
            of, error=":from-branch-does-not-point-to-existing-branch-or-commit", from_=of
        )
    return origin


def _named(of: Any) -> Any:
    """Return the commit that a connection or a database value is at, and all else as it is."""
    db = of.db() if isinstance(of, Connection) else of
    if not isinstance(db, Database):
        return of
    if db.commit_id is None or db.view.past:
        raise ArgumentError(
            f"A branch or a commit is expected, and {shown(of)} is neither: it is a view of the "
            "past, or was never stored."
        )
    return db.commit_id


async def origin_of(conn: Connection, of: Any, registry: Registry) -> Origin | None:
    """Return where a branch, a tag or a commit is, and from where on its past is kept.

    A connection and a database value stand for their commit. Of a branch and a tag with one name it
    is the branch.
    """
    of = _named(of)
    if isinstance(of, UUID):
        writer = writer_of(conn)
        own = _own_line(conn)
        past = writer.branch.opened.past
        return await find_commit(writer.branch.store, past, registry, own, of)
    name = _name(of)
    found = await _head_of(conn, name, registry)
    if found is None and name in registry.tags:
        return await origin_of(conn, registry.tags[name].commit, registry)
    return found


def _own_line(conn: Connection) -> Line:
    branch = writer_of(conn).branch
    return Line(conn.config.branch, branch.committer.epoch, *branch.line)


async def _head_of(conn: Connection, name: str, registry: Registry) -> Origin | None:
    writer = writer_of(conn)
    place = await head_place(writer.branch.store, name, writer.branch.store_id, registry)
    return None if place is None else Origin(place, floor_of(registry, name, place.base))


async def named_place(conn: Connection, of: Any) -> Place | None:
    """Return where a branch or tag, by its name, or a commit, by its id, is; None: nowhere.

    A branch that is open here, too, is taken as it is known here: nothing is read.
    """
    ours, of = writer_of(conn).branch, _named(of)
    if not isinstance(of, UUID):
        name = _name(of)
        for one in sharers(ours.opened):
            if one.config.branch == name:
                place = await ours.opened.past.find(*one.branch.line, one.commit.id)
                if place is not None:
                    return place
        place = await head_place(ours.store, name, ours.store_id)
        if place is not None:
            return place
    origin = await origin_of(conn, of, await read_registry(ours.store))
    return None if origin is None else origin.place


async def place_of(conn: Connection, commit: UUID) -> Place | None:
    """Return where a commit is in the past of any branch, its own first."""
    return await named_place(conn, commit)


async def database_at(conn: Connection, place: Place) -> Database:
    """Return the database that is at a place."""
    writer = writer_of(conn)
    snapshot, _ = await restore_at(
        place.base, place.records, writer.branch.factory, writer.branch.source
    )
    config = conn.config.on_branch(place.base.branch)
    return Database(View(snapshot), config=config, commit=place.commit, env=writer.branch.env)
