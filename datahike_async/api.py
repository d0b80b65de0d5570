"""Datahike's verbs as functions; each delegates to the method that does the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from datahike_async.database import Database, require_database
from datahike_async.edn.types import Keyword
from datahike_async.pausing import pause
from datahike_async.query.api import q as run_query
from datahike_async.snapshot.datoms import Datoms

__all__ = [
    "as_of",
    "datoms",
    "history",
    "index_range",
    "pull",
    "pull_many",
    "q",
    "reverse_schema",
    "rseek_datoms",
    "schema",
    "seek_datoms",
    "since",
]


async def q(
    query: Any,
    *inputs: Any,
    limit: int | None = None,
    offset: int | None = None,
    timeout: float | None = None,
) -> Any:
    """Run a Datalog query.

    ``query`` is EDN text, a list, or a map; or an argument map ``{":query": …, ":args": […]}``.
    ``inputs`` are what its ``:in`` names (a single ``$`` where it has none): databases, collections
    of tuples, values, rules. ``limit`` and ``offset`` count rows, ``timeout`` is in milliseconds.

    Returns a read-only set of tuples over columns for ``:find ?a ?b`` (a list where it is ordered,
    grouped, or has ``:with``), a list for ``[?a ...]``, a tuple or None for ``[?a ?b]``, a value or
    None for ``?a .``. Raises QueryError and EdnError. Cancellation: noticed between clauses.
    """
    return await run_query(query, *inputs, limit=limit, offset=offset, timeout=timeout, pause=pause)


async def pull(db: Database, pattern: Any, eid: Any) -> Any:
    """Return what ``pattern`` names of one entity; see :meth:`Database.pull`."""
    return await require_database(db).pull(pattern, eid)


async def pull_many(db: Database, pattern: Any, eids: Iterable[Any]) -> list[Any]:
    """Return one pull result an entity; see :meth:`Database.pull_many`."""
    return await require_database(db).pull_many(pattern, eids)


async def datoms(db: Database, index: str | Keyword, *components: Any) -> Datoms:
    """Return the datoms of an index under components; see :meth:`Database.datoms`."""
    return await require_database(db).datoms(index, *components)


async def seek_datoms(db: Database, index: str | Keyword, *components: Any) -> Datoms:
    """Return the datoms from components on; see :meth:`Database.seek_datoms`."""
    return await require_database(db).seek_datoms(index, *components)


async def rseek_datoms(db: Database, index: str | Keyword, *components: Any) -> Datoms:
    """Return the datoms down from components; see :meth:`Database.rseek_datoms`."""
    return await require_database(db).rseek_datoms(index, *components)


async def index_range(db: Database, attrid: Any, start: Any = None, end: Any = None) -> Datoms:
    """Return the datoms of an indexed attribute by value; see :meth:`Database.index_range`."""
    return await require_database(db).index_range(attrid, start, end)


def as_of(db: Database, point: int | datetime) -> Database:
    """Return the database as it was; see :meth:`Database.as_of`."""
    return require_database(db).as_of(point)


def since(db: Database, point: int | datetime) -> Database:
    """Return what was asserted since; see :meth:`Database.since`."""
    return require_database(db).since(point)


def history(db: Database) -> Database:
    """Return every assertion and retraction; see :meth:`Database.history`."""
    return require_database(db).history()


def schema(db: Database) -> Mapping[Keyword, Mapping[Keyword, Any]]:
    """Return the user's attributes; see :attr:`Database.schema`."""
    return require_database(db).schema


def reverse_schema(db: Database) -> Mapping[Keyword, frozenset[Keyword]]:
    """Return property → attributes; see :attr:`Database.reverse_schema`."""
    return require_database(db).reverse_schema
