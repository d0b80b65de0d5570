"""Datahike's verbs as functions; each delegates to the method that does the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from random import Random
from typing import Any

from datahike_async.database import Database, require_database
from datahike_async.edn.types import Keyword
from datahike_async.entities import Entity
from datahike_async.hosting import HOST
from datahike_async.metrics import Metrics
from datahike_async.pausing import pause
from datahike_async.query import api as query_api
from datahike_async.query.answer.explain import Explained
from datahike_async.query.api import QueryStats
from datahike_async.query.limits.budget import Budget
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.filtered import DatomColumns
from datahike_async.values.datom import Datom
from datahike_async.warming import Warmed

__all__ = [
    "as_of",
    "datoms",
    "entity",
    "entity_db",
    "explain",
    "filter",
    "history",
    "index_range",
    "is_filtered",
    "metrics",
    "pull",
    "pull_many",
    "q",
    "query_stats",
    "reverse_schema",
    "rseek_datoms",
    "schema",
    "seek_datoms",
    "since",
    "touch",
    "warm_datoms",
    "warm_db",
    "warm_index",
]


async def q(
    query: Any,
    *inputs: Any,
    limit: int | None = None,
    offset: int | None = None,
    order_by: Any = None,
    timeout: float | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    stats: bool = False,
    rng: Random | None = None,
) -> Any:
    """Run a Datalog query.

    ``query`` is EDN text, a list, or a map; or an argument map ``{":query": …, ":args": […]}``.
    ``inputs`` are what its ``:in`` names (a single ``$`` where it has none): databases, collections
    of tuples, values, rules.

    Options, which override the query's own sections: ``limit`` and ``offset`` count rows (a
    negative one is none), ``order_by`` is as ``:order-by``, ``timeout`` is in milliseconds,
    ``budget`` is a :class:`Budget` (or a mapping) of what the query may use; ``stats=True`` returns
    what :func:`query_stats` does; ``rng`` is where ``rand``, ``sample`` and their like get their
    chance from, so that a seeded one repeats what it did.

    Returns a :class:`QueryResult`, a lazy set of tuples, for ``:find ?a ?b``, and a
    :class:`QueryList`, as lazy, where it is ordered, grouped, pulled or has ``:with``; a list for
    ``[?a ...]``, a tuple or None for ``[?a ?b]``, a value or None for ``?a .``, and dicts by the
    names of ``:keys``, ``:strs`` or ``:syms``. Raises QueryError (QueryCanceled where the
    time or a budget is used up) and EdnError. A step over many rows runs in a worker thread;
    cancellation is noticed between steps, and within long ones. ::

        rows = await d.q('''[:find ?name ?friend
                             :in $ ?email
                             :where [?e :person/email ?email] [?e :person/name ?name]
                                    [?e :person/knows ?f] [?f :person/name ?friend]]''',
                         db, "ada@example.org")
        assert rows == {("Ada", "Bob")}
    """
    first = inputs[0] if inputs else None
    found = await query_api.q(
        query,
        *inputs,
        limit=limit,
        offset=offset,
        order_by=order_by,
        timeout=timeout,
        budget=budget,
        stats=stats,
        rng=rng,
        host=HOST,
        slow=first.slow_seconds if isinstance(first, Database) else query_api.SLOW,
    )
    # Many small queries, one after the other, leave the others their turn too.
    await pause()
    return found


async def explain(query: Any, *inputs: Any, analyze: bool = False, **options: Any) -> Explained:
    """Return the plan of a query: ``str()`` of it is a table, ``.data()`` a list of dicts.

    With ``analyze`` the query is run, and each step also says how many rows it left, how long it
    took, and how many nodes were fetched in how many waves. Options and errors are those of
    :func:`q`.
    """
    return await query_api.explain(query, *inputs, analyze=analyze, host=HOST, **options)


async def query_stats(query: Any, *inputs: Any, **options: Any) -> QueryStats:
    """Run a query; return its ``result`` and, in ``clauses``, what each clause did.

    ``.data()`` is the same in the form of Datahike's query-stats. Options and errors are those of
    :func:`q`.
    """
    return await query_api.query_stats(query, *inputs, host=HOST, **options)


async def pull(db: Database, pattern: Any, eid: Any) -> Any:
    """Return what ``pattern`` names of one entity; see :meth:`Database.pull`."""
    return await require_database(db).pull(pattern, eid)


async def pull_many(db: Database, pattern: Any, eids: Iterable[Any]) -> list[Any]:
    """Return one pull result an entity; see :meth:`Database.pull_many`."""
    return await require_database(db).pull_many(pattern, eids)


async def entity(db: Database, eid: Any) -> Entity | None:
    """Return what a database says of one entity, as a map; see :meth:`Database.entity`."""
    return await require_database(db).entity(eid)


def entity_db(entity: Entity) -> Database:
    """Return the database value that an entity was made from."""
    return entity.db


async def touch(entity: Entity) -> Entity:
    """Load an entity, its components, theirs, and so on; return it."""
    return await entity.touch()


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


async def metrics(db: Database) -> Metrics:
    """Count the datoms of a database: all, by attribute and by entity, now and in the past.

    All of it is read. ::

        found = await d.metrics(db)
        assert found.per_attr_counts[d.kw("person/name")] == 2
    """
    return await require_database(db).metrics()


async def warm_db(
    db: Database,
    *,
    indexes: Iterable[str | Keyword] = (":eavt", ":aevt", ":avet"),
    depth: str | int = "with-leaves",
    budget: int | Mapping[str, Any] | None = None,
) -> Warmed:
    """Read the indexes of a database into memory, so that who asks first need not wait.

    From the top down, all indexes at once, in about as many waves of reads as they have levels; of
    views by ``as_of`` and ``history`` those of the past too. What is in memory already is not read.
    ``depth`` is "with-leaves", "interior" for all but the leaves, or a number of levels.

    Never more than stays in memory, which is half of what the cache of nodes holds
    (``:store-cache-size``). ``budget`` makes it less: a number of nodes, or a mapping of ``nodes``,
    ``bytes`` (of nodes, as they are stored) and ``seconds``; the indexes share it evenly. What was
    read when a budget or the cache was full, or the call was cancelled, stays.

    Raises BadInput (ArgumentError; QueryError for what is no database or index), and StorageError
    where reading fails. ::

        found = await d.warm_db(db, budget={"bytes": 50_000_000, "seconds": 5})
        assert found.complete, found.stopped
    """
    return await require_database(db).warm_db(indexes=indexes, depth=depth, budget=budget)


async def warm_index(
    db: Database,
    index: str | Keyword,
    *,
    depth: str | int = "with-leaves",
    budget: int | Mapping[str, Any] | None = None,
) -> Warmed:
    """Read one index of a database into memory; options and errors are those of :func:`warm_db`."""
    return await require_database(db).warm_index(index, depth=depth, budget=budget)


async def warm_datoms(
    db: Database,
    index: str | Keyword,
    components: Sequence[Any] = (),
    *,
    unbounded: bool = False,
    depth: str | int = "with-leaves",
    budget: int | Mapping[str, Any] | None = None,
) -> Warmed:
    """Read into memory what :func:`datoms` reads for some components.

    With ``unbounded`` what :func:`seek_datoms` does: all from there to the end of the index. Other
    options and errors are those of :func:`warm_db`. ::

        await d.warm_datoms(db, ":aevt", [":person/name"])
        names = await d.datoms(db, ":aevt", ":person/name")
    """
    return await require_database(db).warm_datoms(
        index, components, unbounded=unbounded, depth=depth, budget=budget
    )


def as_of(db: Database, point: int | datetime) -> Database:
    """Return the database as it was; see :meth:`Database.as_of`."""
    return require_database(db).as_of(point)


def since(db: Database, point: int | datetime) -> Database:
    """Return what was asserted since; see :meth:`Database.since`."""
    return require_database(db).since(point)


def history(db: Database) -> Database:
    """Return every assertion and retraction; see :meth:`Database.history`."""
    return require_database(db).history()


def filter(
    db: Database,
    predicate: Callable[[Database, Datom], Any] | None = None,
    *,
    columns: Callable[[Database, DatomColumns], Any] | None = None,
) -> Database:
    """Return a database as if it held some datoms alone; see :meth:`Database.filter`."""
    return require_database(db).filter(predicate, columns=columns)


def is_filtered(db: Database) -> bool:
    """Whether a database was filtered; see :meth:`Database.filter`."""
    return require_database(db).is_filtered


def schema(db: Database) -> Mapping[Keyword, Mapping[Keyword, Any]]:
    """Return the user's attributes; see :attr:`Database.schema`."""
    return require_database(db).schema


def reverse_schema(db: Database) -> Mapping[Keyword, frozenset[Keyword]]:
    """Return property → attributes; see :attr:`Database.reverse_schema`."""
    return require_database(db).reverse_schema
