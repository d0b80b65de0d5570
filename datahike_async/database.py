"""Database: the immutable value users hold, query and pass around.

Making one or a view of one is synchronous and free; whatever may have to read storage is a
coroutine. A Database never changes: keep it as long as you like, on any task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from uuid import UUID

from datahike_async import entities, warming
from datahike_async import metrics as counting
from datahike_async.beside import apply_beside, read_input
from datahike_async.edn.types import Keyword
from datahike_async.entities import Entity
from datahike_async.env import SYSTEM, Env
from datahike_async.errors import ArgumentError, ConfigError, QueryError, TransactionError, shown
from datahike_async.hosting import HOST
from datahike_async.index.columns import Rows
from datahike_async.index.memtable import Memtable
from datahike_async.index.registry import index_factory
from datahike_async.index.source import Reading, read
from datahike_async.konserve.threads import in_thread
from datahike_async.metrics import Metrics
from datahike_async.pausing import pause
from datahike_async.planned import FUNCTIONS_OF_CONNECTIONS, attribute_error
from datahike_async.query import api as query_api
from datahike_async.query.answer.explain import Explained
from datahike_async.query.api import QueryStats
from datahike_async.query.pulling import execute as pull_execute
from datahike_async.snapshot import datoms as datom_access
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.filtered import DatomColumns, FilteredView, by_columns, by_datom
from datahike_async.snapshot.ids import EMAX, TX0
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.snapshot.views import View
from datahike_async.storage.log.records import Commit
from datahike_async.tx.apply import apply
from datahike_async.tx.forms import normalize
from datahike_async.values.datom import Datom
from datahike_async.values.report import TxReport
from datahike_async.values.schema import Schema
from datahike_async.warming import Warmed

__all__ = ["Database", "db_with", "empty_db", "init_db", "time_point", "with_"]

T = TypeVar("T")

_OF_CONNECTIONS: Final = frozenset(
    {
        *("transact", "transact_many", "sync", "listen", "unlisten", "release", "db"),
        "tx_range",
    }
)


class Database:
    """One immutable state of a database, or a view of its past.

    ``max_tx`` is its newest transaction, ``commit_id`` the commit that it is (None for a value
    without a store), ``config`` the configuration it was opened with.
    """

    __slots__ = ("__datahike_view__", "__weakref__", "_commit", "_env", "config", "slow_seconds")

    def __init__(
        self,
        view: View,
        *,
        config: Any = None,
        commit: Commit | None = None,
        env: Env = SYSTEM,
    ) -> None:
        self.__datahike_view__ = view
        self.config = config
        # From which on a query on this database is told in the log.
        self.slow_seconds = query_api.SLOW if config is None else config.slow_query_ms / 1000
        self._commit = commit
        self._env = env

    @property
    def view(self) -> View:
        """What the query engine reads."""
        return self.__datahike_view__

    @property
    def snapshot(self) -> Snapshot:
        """The state below the view."""
        return self.__datahike_view__.snapshot

    @property
    def max_tx(self) -> int:
        """The newest transaction of this state."""
        return self.snapshot.max_tx

    @property
    def max_eid(self) -> int:
        """The highest entity id in use."""
        return self.snapshot.max_eid

    @property
    def commit_id(self) -> UUID | None:
        """The id of the commit that this state is; None for a value that is no stored one."""
        return None if self._commit is None else self._commit.id

    @property
    def parent_commit_ids(self) -> frozenset[UUID]:
        """The ids of the commits that this one was made on; none of the first, and of a value."""
        return frozenset() if self._commit is None else frozenset(self._commit.parents)

    @property
    def schema(self) -> dict[Keyword, dict[Keyword, Any]]:
        """The user's attributes: ident → what the schema says of it."""
        return self.snapshot.schema.public()

    @property
    def reverse_schema(self) -> dict[Keyword, frozenset[Keyword]]:
        """Property → idents, for example ``:db/unique`` → all unique attributes."""
        return self.snapshot.schema.reverse()

    def __repr__(self) -> str:
        view = self.view
        kind = "Database" if not view.past else "Database view"
        return f"<{kind} max-tx {self.max_tx}, max-eid {self.max_eid}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Database):
            return NotImplemented
        same = self.snapshot.state is other.snapshot.state or (
            # The same commit, read at another time or by another connection.
            self._commit is not None
            and other._commit is not None
            and self._commit.id == other._commit.id
        )
        return same and self.view.settings == other.view.settings

    def __hash__(self) -> int:
        return hash((self.max_tx, self.view.settings))

    if not TYPE_CHECKING:  # a type checker should still report names that nothing has

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"a connection has it: conn.{name}" if name in _OF_CONNECTIONS else ""
            if name in FUNCTIONS_OF_CONNECTIONS:
                hint = f"it is a function: {name}(conn, …)"
            raise attribute_error(self, "A Database", name, hint)

    def _with_view(self, view: View) -> Database:
        return Database(view, config=self.config, commit=self._commit, env=self._env)

    def _require_history(self, what: str) -> None:
        if not self.snapshot.keep_history:
            raise ArgumentError(
                f"{what} is only allowed on databases that keep their history; this one was "
                "created with :keep-history? false.",
                error=":temporal/history-required",
            )

    # -- views: synchronous, they read nothing -------------------------------------------------

    def as_of(self, point: int | datetime) -> Database:
        """Return the database as it was at ``point``, inclusive: a transaction id or an instant.

        Raises ArgumentError without history, and where a number is no transaction id. ::

            ada = [":person/email", "ada@example.org"]
            report = await conn.transact([{":db/id": ada, ":person/name": "Ada Lovelace"}])
            then = report.db_after.as_of(report.tx - 1)
            assert await then.pull("[:person/name]", ada) == {":person/name": "Ada"}
        """
        self._require_history("as_of")
        return self._with_view(self.view.as_of(time_point(point)))

    def since(self, point: int | datetime) -> Database:
        """Return what was asserted after ``point``, exclusive, and is still true.

        ``point`` is a transaction id or an instant; 0 stands before everything.
        """
        self._require_history("since")
        return self._with_view(self.view.since(time_point(point, beginning=True)))

    def history(self) -> Database:
        """Return every assertion and retraction; the fifth component of a datom tells which. ::

        names = await conn.db().history().datoms("aevt", ":person/name")
        assert ("Ada", False) in [(name.v, name.added) for name in names]
        """
        self._require_history("history")
        return self._with_view(self.view.with_history())

    def filter(
        self,
        predicate: Callable[[Database, Datom], Any] | None = None,
        *,
        columns: Callable[[Database, DatomColumns], Any] | None = None,
    ) -> Database:
        """Return this database as if it held those datoms alone that ``predicate`` keeps.

        It is called with this database, unfiltered, and a datom, each time that one is read; it may
        be called in a worker thread. ``columns`` is the same for many datoms at once: it gets
        :class:`DatomColumns` and returns a mask, an array of as many bools, which is far faster.
        Filters stack, and ``as_of``, ``since`` and ``history`` of a filtered database are filtered
        as well. It cannot be modified: TransactionError ``:transaction/filtered``. Compare
        attributes with keywords, as here: no string is equal to one. ::

            public = db.filter(lambda db, datom: datom.a != d.kw("person/born"))
            ada = [":person/email", "ada@example.org"]
            found = await public.pull("[:person/name :person/born]", ada)
            assert found == {":person/name": "Ada"}
            known = db.filter(columns=lambda db, datoms: datoms.a == d.kw("person/name"))
            assert await known.count() == 2

        Raises ArgumentError unless exactly one of the two is given, a plain function; what reads
        raises it where the function's answer has to be awaited.
        """
        if (predicate is None) == (columns is None):
            raise ArgumentError(
                "filter takes a predicate of a database and a datom, or columns=, a function of a "
                "database and columns of datoms: one of the two."
            )
        wanted = predicate if columns is None else columns
        if not callable(wanted):
            raise ArgumentError(f"A database is filtered by a function, not by {shown(wanted)}.")
        view, schema = self.view, self.snapshot.schema
        unfiltered = self._with_view(view.base) if isinstance(view, FilteredView) else self
        make = by_datom if columns is None else by_columns
        keep = make(partial(wanted, unfiltered), schema)
        if isinstance(view, FilteredView):
            return self._with_view(view.filtered(keep))
        return self._with_view(FilteredView(view, [keep]))

    @property
    def is_filtered(self) -> bool:
        """Whether :meth:`filter` made it, or what it is a view of."""
        return self.view.is_filtered

    # -- reading -------------------------------------------------------------------------------

    async def _read(self, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``, fetching what it misses; where filters are asked, in a thread."""
        if not self.view.is_filtered:
            return await read(call, *args)
        with Reading() as reading:
            return await reading.call(call, *args, run=in_thread)

    async def q(self, query: Any, *inputs: Any, **options: Any) -> Any:
        """Run ``query`` with this database as its first input; see :func:`datahike_async.q`."""
        found = await query_api.q(
            query, self, *inputs, host=HOST, slow=self.slow_seconds, **options
        )
        await pause()
        return found

    async def explain(self, query: Any, *inputs: Any, **options: Any) -> Explained:
        """Return the plan of a query on this database; see :func:`datahike_async.explain`."""
        return await query_api.explain(query, self, *inputs, host=HOST, **options)

    async def query_stats(self, query: Any, *inputs: Any, **options: Any) -> QueryStats:
        """Run ``query`` on this database and say what each clause did."""
        return await query_api.query_stats(query, self, *inputs, host=HOST, **options)

    async def pull(self, pattern: Any, eid: Any) -> Any:
        """Return the attributes of one entity that ``pattern`` names, as a dict, or None.

        ``eid`` is an entity id, an ident or a lookup ref. Raises QueryError ``:parser/pull``. ::

            ada = await db.pull("[:person/name {:person/knows [:person/name]}]",
                                [":person/email", "ada@example.org"])
            assert ada == {":person/name": "Ada", ":person/knows": [{":person/name": "Bob"}]}
        """
        found = await pull_execute.pull(self.view, pattern, eid, HOST)
        await pause()
        return found

    async def pull_many(self, pattern: Any, eids: Iterable[Any]) -> list[Any]:
        """Return one pull result an entity, in the order of ``eids``."""
        found = await pull_execute.pull_many(self.view, pattern, eids, host=HOST)
        await pause()
        return found

    async def entity(self, eid: Any) -> Entity | None:
        """Return what this database says of one entity, as a map; see :class:`Entity`.

        ``eid`` is an entity id, an ident or a lookup ref; None where that names nothing. An id
        without datoms gives an empty one.
        """
        return await entities.entity(self, eid)

    async def datoms(self, index: str | Keyword, *components: Any) -> Datoms:
        """Return the datoms of ``index`` (``"eavt"``, ``"aevt"``, ``"avet"``) under components.

        Components are given in the order of the index; entity ids may be lookup refs or idents.
        AVET holds only attributes that are indexed, unique or refs.
        """
        return await self._read(datom_access.find_datoms, self.view, index, components)

    async def seek_datoms(self, index: str | Keyword, *components: Any) -> Datoms:
        """Return the datoms from ``components`` on, to the end of the index."""
        runs: list[Rows] = await self._read(datom_access.seek, self.view, index, components)
        return Datoms(self.snapshot.schema, runs)

    async def rseek_datoms(self, index: str | Keyword, *components: Any) -> Datoms:
        """Return the datoms from ``components`` down to the beginning of the index, descending."""
        seek = partial(datom_access.seek, reverse=True)
        runs = await self._read(seek, self.view, index, components)
        return Datoms(self.snapshot.schema, runs)

    async def index_range(self, attrid: Any, start: Any = None, end: Any = None) -> Datoms:
        """Return the datoms of an indexed attribute with start <= v <= end, ordered by value.

        None leaves a side open. Raises QueryError where the attribute is not indexed.
        """
        return await self._read(datom_access.index_range, self.view, attrid, start, end)

    async def entid(self, ref: Any) -> int | None:
        """Return the entity id of an id, ident or lookup ref, or None where there is none."""
        return await self._read(self.view.entid, ref)

    async def count(self) -> int:
        """Return the number of datoms in this database or view."""
        if not self.view.past:
            return self.snapshot.count()
        runs = await self._read(self.view.slice, datom_access.order_of("eavt"))
        return sum(map(len, runs))

    async def metrics(self) -> Metrics:
        """Count the datoms of this database or view; see :func:`datahike_async.metrics`."""
        return await counting.metrics(self.view)

    # -- warming up ----------------------------------------------------------------------------

    async def warm_db(
        self,
        *,
        indexes: Iterable[str | Keyword] = (":eavt", ":aevt", ":avet"),
        depth: str | int = "with-leaves",
        budget: int | Mapping[str, Any] | None = None,
    ) -> Warmed:
        """Read the indexes into memory; see :func:`datahike_async.warm_db`."""
        return await warming.warm_db(self.view, indexes, depth, budget)

    async def warm_index(
        self,
        index: str | Keyword,
        *,
        depth: str | int = "with-leaves",
        budget: int | Mapping[str, Any] | None = None,
    ) -> Warmed:
        """Read one index into memory; see :func:`datahike_async.warm_db`."""
        return await warming.warm_index(self.view, index, depth, budget)

    async def warm_datoms(
        self,
        index: str | Keyword,
        components: Sequence[Any] = (),
        *,
        unbounded: bool = False,
        depth: str | int = "with-leaves",
        budget: int | Mapping[str, Any] | None = None,
    ) -> Warmed:
        """Read into memory what a scan will read; see :func:`datahike_async.warm_datoms`."""
        return await warming.warm_datoms(
            self.view, index, components, depth, budget, unbounded=unbounded
        )

    # -- speculation ---------------------------------------------------------------------------

    async def with_(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> TxReport:
        """Apply a transaction to this value without storing it, and return its report.

        Raises TransactionError; this database is unchanged whatever happens. ::

            report = await db.with_([{":person/email": "cy@example.org", ":person/name": "Cy"}])
            assert [datom.v for datom in report.tx_data][1:] == ["cy@example.org", "Cy"]
        """
        return await self._applied(tx_data, tx_meta)

    async def merged_with(self, tx_data: Any) -> Database:
        """Return this value with what a merge does applied, which may state any branch's ids."""
        report = await self._applied(tx_data, None, foreign=True)
        return report.db_after  # type: ignore[no-any-return]

    async def _applied(
        self, tx_data: Any, tx_meta: Mapping[Any, Any] | None, *, foreign: bool = False
    ) -> TxReport:
        if self.view.past:
            raise TransactionError(
                f"A {'filtered database' if self.is_filtered else 'view of the past'} cannot be "
                "modified; use the database it was made from.",
                error=":transaction/filtered",
            )
        items, meta = normalize(await read_input(tx_data), tx_meta)
        call = partial(
            apply,
            self.snapshot,
            items,
            tx_meta=meta,
            env=self._env,
            wrap=self._wrap,
            foreign=foreign,
        )
        applied = await apply_beside(self.snapshot, items, call, absorb=True)
        return applied.report(self, self._wrap(applied.after))

    async def db_with(self, tx_data: Any) -> Database:
        """Apply a transaction to this value without storing it, and return the new value."""
        report = await self.with_(tx_data)
        return report.db_after  # type: ignore[no-any-return]

    def _wrap(self, snapshot: Snapshot) -> Database:
        return Database(View(snapshot), config=self.config, env=self._env)


def time_point(point: int | datetime, *, beginning: bool = False) -> int | datetime:
    """Return a point in time; with ``beginning`` 0 is one, too.

    Raises ArgumentError ``:temporal/invalid-time-point`` for what is no transaction id and no aware
    datetime.
    """
    if isinstance(point, datetime):
        if point.utcoffset() is None:
            raise ArgumentError(
                f"{shown(point)} has no time zone; give an aware datetime, for example with "
                "tzinfo=datetime.UTC.",
                error=":temporal/invalid-time-point",
            )
        return point
    if beginning and type(point) is int and point == 0:
        return point
    if type(point) is not int or not TX0 <= point <= EMAX:
        raise ArgumentError(
            f"Invalid transaction ID {shown(point)}. It must be a transaction id ({TX0} "
            f"to {EMAX}) or an aware datetime.",
            error=":temporal/invalid-time-point",
        )
    return point


def require_database(db: Any) -> Database:
    """Return ``db`` where it is a Database; else raise QueryError ``:datahike/db-expected``."""
    if isinstance(db, Database):
        return db
    hint = "; pass its value, conn.db()" if hasattr(db, "transact") else ""
    raise QueryError(
        f"A database is expected, not {shown(db)}{hint}.", error=":datahike/db-expected"
    )


async def with_(db: Database, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> TxReport:
    """Apply a transaction to a database value without storing it; see :meth:`Database.with_`."""
    return await require_database(db).with_(tx_data, tx_meta)


async def db_with(db: Database, tx_data: Any) -> Database:
    """Return ``db`` with a transaction applied, storing nothing."""
    return await require_database(db).db_with(tx_data)


def empty_db(
    schema: Mapping[Any, Mapping[Any, Any]] | None = None,
    *,
    keep_history: bool = False,
    schema_flexibility: str = "read",
    index: str = ":datahike.index/persistent-set",
    index_config: Mapping[str, Any] | None = None,
    env: Env = SYSTEM,
) -> Database:
    """Return a database value without a store, for tests and scratch work.

    ``schema`` maps an attribute to its properties, ``{":person/aka": {":db/cardinality":
    ":db.cardinality/many"}}``; it takes no entity ids. Entity ids start at 1. Raises
    TransactionError ``:schema/validation`` on a bad schema.
    """
    if type(keep_history) is not bool:
        raise ConfigError(f"keep_history is True or False, not {shown(keep_history)}.")
    flexibility = _name(schema_flexibility)
    if flexibility not in ("read", "write"):
        raise ConfigError(
            f'schema_flexibility is "read" or "write", not {shown(schema_flexibility)}.'
        )
    if _name(index) is None:
        raise ConfigError(f"index is the name of an index, not {shown(index)}.")
    if index_config is not None and not isinstance(index_config, Mapping):
        raise ConfigError(
            f'index_config is a dict such as {{"branching-factor": 512}}, not '
            f"{shown(index_config)}."
        )
    trees = Trees.empty(
        index_factory(index), index_config or {}, keep_history=keep_history, max_eid=0, max_tx=TX0
    )
    known = Schema.empty(flexibility).with_map({} if schema is None else schema)
    return Database(View(Snapshot(known, trees, Memtable(), 0, 0, 0, TX0)), env=env)


def _name(name: Any) -> str | None:
    text = name.text if isinstance(name, Keyword) else name
    return text.removeprefix(":") if isinstance(text, str) else None


def init_db(
    datoms: Iterable[Datom | Sequence[Any]],
    schema: Mapping[Any, Mapping[Any, Any]] | None = None,
    **options: Any,
) -> Database:
    """Return a database value that holds ``datoms``, built in one go.

    A datom is a Datom or ``(e, attribute, value[, tx])``; a pair (e, a) of cardinality one that
    comes twice keeps its last value. Options are those of :func:`empty_db`. It takes its time on
    the spot: to build from very many beside an event loop, call it in a worker thread. ::

        tall = d.init_db([(1, ":name", "Ann"), (1, ":height", 181)])
        assert await tall.q("[:find ?n . :where [?e :name ?n] [?e :height 181]]") == "Ann"
    """
    db = empty_db(schema, **options)
    if isinstance(datoms, (str, bytes, Mapping)) or not isinstance(datoms, Iterable):
        raise TransactionError(
            f"init_db takes a list of datoms, not {shown(datoms)}.", error=":transact/syntax"
        )
    snapshot = db.snapshot
    return Database(View(snapshot.build(datoms)), env=db._env)
