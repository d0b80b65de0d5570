"""Connection: the way to a stored database: opening, transacting, listening.

``conn.db()`` is a pointer read; everything that touches storage is a coroutine. A connection may be
opened, used and released by any task of its event loop, and nowhere else. What writes belongs to
the loop, so an exception of an ``async with`` block comes out as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import anyio

from datahike_async.beside import read_input
from datahike_async.changes import (
    EVERY,
    Changes,
    Reset,
    checked_attributes,
    checked_seconds,
    reach,
)
from datahike_async.config import Config
from datahike_async.database import Database
from datahike_async.edn import Keyword
from datahike_async.env import SYSTEM, Env
from datahike_async.errors import (
    ArgumentError,
    ConnectionClosed,
    DatabaseExists,
    DatabaseNotFound,
    WrongEventLoop,
    shown,
)
from datahike_async.konserve.loops import outlast
from datahike_async.konserve.redaction import public
from datahike_async.log import Log, LogEntry, Point, checked_basis_point, checked_point
from datahike_async.pausing import pause
from datahike_async.planned import FUNCTIONS_OF_CONNECTIONS, attribute_error
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import PastView, View
from datahike_async.storage import creating
from datahike_async.storage.log.records import Commit
from datahike_async.transactor.listeners import Listeners
from datahike_async.transactor.messages import Transact
from datahike_async.transactor.sharing import Member, Opening, join
from datahike_async.transactor.transactor import Limits, Transactor, Wrap
from datahike_async.transactor.writer import Writer
from datahike_async.tx.answers import Answer, checked_basis, checked_key
from datahike_async.tx.forms import normalize, take_options
from datahike_async.values.datom import Datom
from datahike_async.values.report import TxReport

__all__ = [
    "Connection",
    "connect",
    "require_connection",
    "transact_on",
    "writer_of",
]

_COMMIT_ID = Keyword("db/commitId")


class Connection:
    """An open database, from ``await connect(config)`` or ``async with connect(config) as conn``.

    ``async with conn`` releases it, too. One that nobody holds any more releases itself, with a
    ResourceWarning, and so does one whose event loop ends.
    """

    def __init__(self, member: Member, env: Env) -> None:
        self._member = member
        self._transactor = member.transactor
        self._writer: Writer = self._transactor
        self._env = env
        self._home = member.home
        limits = self._writer.limits
        self._listeners = Listeners(limits.listener_reports, limits.close_seconds)
        self._closed = False
        self._left = anyio.Event()
        self._value: Database | None = None
        self._snapshot: Snapshot | None = None
        self._keys = 0
        config = self._writer.config
        member.called(f"connection to branch :{config.branch} of {public(config.store)}")

    def __repr__(self) -> str:
        state = "released" if self._closed else f"max-tx {self._writer.snapshot.max_tx}"
        return f"<Connection :{self.config.branch}, {state}>"

    if not TYPE_CHECKING:  # a type checker should still report names that nothing has

        def __getattr__(self, name: str) -> NoReturn:
            known = not name.startswith("_") and hasattr(Database, name)
            hint = f"its database value has it: conn.db().{name}" if known else ""
            if not known and name in FUNCTIONS_OF_CONNECTIONS:
                hint = f"it is a function: {name}(conn, …)"
            raise attribute_error(self, "A Connection", name, hint)

    @property
    def config(self) -> Config:
        """The completed configuration, with what the database was created with."""
        return self._writer.config

    @property
    def closed(self) -> bool:
        """Whether the connection was released."""
        return self._closed

    def __del__(self) -> None:
        member = getattr(self, "_member", None)
        if member is None or self._closed or member.over or member.home.forked:
            return
        member.drop()

    async def __aenter__(self) -> Connection:
        self._check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.release()

    def _check_home(self, *, waiting: bool = True) -> None:
        elsewhere = self._home.elsewhere(waiting=waiting)
        if elsewhere is not None:
            raise WrongEventLoop(
                f"This connection is used {elsewhere}. Open another one here: connections of "
                "several event loops and processes may share a database."
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(
                "Connection has been released; open a new one with connect.",
                error=":connection-has-been-released",
            )

    # -- reading -------------------------------------------------------------------------------

    def db(self) -> Database:
        """Return the database as it is now, an immutable value. Reads nothing, never waits.

        Raises ConnectionClosed after ``release``.
        """
        self._check_open()
        return self._wrap(self._writer.snapshot, self._writer.commit)

    def _wrap(self, snapshot: Snapshot, commit: Commit) -> Database:
        value = self._value
        if value is None or self._snapshot is not snapshot:
            config = self._writer.config
            value = Database(View(snapshot), config=config, commit=commit, env=self._env)
            self._value, self._snapshot = value, snapshot
        return value

    async def sync(self, basis: Database | int | None = None) -> Database:
        """Look for what other processes have committed, and return the database as it is then.

        Within one event loop there is no need: its connections share their writer's state.

        With a ``basis``, a transaction id or a database of this branch, wait until the database has
        that transaction; nothing is read where it has already. There is no limit to the wait but
        that of the caller, ``anyio.fail_after``. Raises ArgumentError
        ``:temporal/invalid-time-point`` for what is no basis. ::

            report = await conn.transact([{":person/name": "Di"}])
            with anyio.fail_after(5):
                db = await conn.sync(report.tx)
            assert db.max_tx >= report.tx
        """
        self._check_open()
        self._check_home()
        if basis is None:
            await self._writer.refresh()
        else:
            wanted = checked_basis_point(basis, self._writer.config.store["id"])
            await reach(self._transactor, wanted, self._check_open, EVERY)
            await pause()
        return self.db()

    def tx_range(self, from_: Point = None, to: Point = None) -> AsyncIterator[LogEntry]:
        """Iterate over the transactions after ``from_``, up to ``to`` inclusive, oldest first.

        Both are transaction ids, aware datetimes or databases of this branch; None stands for the
        beginning, and for the newest transaction by now. Each comes as a :class:`LogEntry`.

        They are read from the log as far as it goes. What was before it (collections and purges cut
        it off) is put together from the history, in memory: the same datoms, without what was
        purged, and without past values of ``:db/noHistory`` attributes. Raises SnapshotExpired
        where there is no history; ArgumentError ``:temporal/invalid-time-point``. ::

            report = await conn.transact([{":person/name": "Cy"}])
            found = [entry async for entry in conn.tx_range(report.db_before)]
            assert [entry.tx for entry in found] == [report.tx]
            assert ("Cy", True) in [(x.v, x.added) for x in found[0].datoms]
        """
        self._check_open()
        self._check_home()
        store_id = self._writer.config.store["id"]
        points = checked_point(from_, store_id), checked_point(to, store_id)
        return Log(self._transactor.branch, *points, check=self._check_open)

    def changes(
        self,
        since: Point | LogEntry = None,
        *,
        attributes: Iterable[Keyword | str] | None = None,
        every: float = EVERY,
    ) -> AsyncIterator[LogEntry | Reset]:
        """Iterate over what transactions did after ``since``, and go on as they are committed.

        ``since`` is a point as for :meth:`tx_range`, or the :class:`LogEntry` that was seen last;
        0 stands before everything, None for now. Each transaction comes once, whole and in order,
        whoever committed it; with ``attributes`` what concerns those alone, and transactions that
        do not are left out. It has no end: leave the loop, or cancel it.

        Nothing is buffered for a slow reader: he reads the log, however far he is behind. Commits
        of this event loop are seen at once, those of others within ``every`` seconds: as often the
        head is looked at, one conditional read.

        Where what comes after ``since`` can't be told, the first is a :class:`Reset`, with a
        database to begin anew with: it was collected and there is no history; or ``since`` is an
        entry or a database with a commit that this branch does not have in its past, since another
        took its place (``force_branch``) or collections have cut it off. While a branch is replaced
        the iteration ends as its connections do, with an error ``:branch-does-not-exist`` or
        ``:writer-shut-down``: connect again, and go on since the last entry.

        Raises ArgumentError, and StorageError where reading fails; it may be gone on with then. ::

            report = await conn.transact([{":person/name": "Ed"}])
            async for change in conn.changes(report.db_before, attributes=[":person/name"]):
                if isinstance(change, d.Reset):
                    ...                                 # begin anew, with change.db
                else:
                    assert [x.v for x in change.datoms] == ["Ed"]
                    break
        """
        self._check_open()
        self._check_home()
        wanted, seconds = checked_attributes(attributes), checked_seconds(every)
        return Changes(self._transactor, self.db, since, wanted, seconds)

    # -- writing -------------------------------------------------------------------------------

    async def transact(
        self,
        tx_data: Any,
        tx_meta: Mapping[Any, Any] | None = None,
        *,
        expected_basis: Database | int | None = None,
        idempotency_key: str | None = None,
    ) -> TxReport:
        """Run a transaction and return its report once it is durable.

        ``tx_data`` is a list of maps and vectors, EDN text, or a map with ``:tx-data`` and
        ``:tx-meta`` (and the options below, as ``:expected-basis`` and ``:idempotency-key``).

        With ``expected_basis``, a database or the id of its newest transaction, it runs on that
        state or not at all: TransactionError ``:transact/basis-mismatch``. An ``idempotency_key``
        is kept with the transaction; sent again with the same key, by anyone and at any time, it
        is not run again, whatever its data: the report is the first one's, and ``repeated``.

        Raises TransactionError where it is refused (nothing was written),
        TransactionOutcomeUnknown where the store does not say, WriterError where the writer had to
        close. Cancelled after it was sent, it still takes its course.
        """
        return await self._transact(tx_data, tx_meta, expected_basis, idempotency_key)

    async def transact_many(
        self, transactions: Iterable[Any], *, expected_basis: Database | int | None = None
    ) -> list[TxReport]:
        """Run several transactions, one on the other: all of them or, where one fails, none.

        Each is what ``transact`` takes, ``{":tx-data": …, ":tx-meta": …}`` among that, and a commit
        of its own. They become durable in one step, so a crash leaves all or none, too. Returns
        their reports. Raises what ``transact`` raises, with the place of the one that failed, from
        0, as ``error.data[":transaction"]``. ::

            reports = await conn.transact_many(
                [[{":person/name": "Ada", ":db/id": 1}], [[":db/add", 1, ":person/name", "Ann"]]]
            )
            assert [r.db_after.max_tx for r in reports] == [r.tx for r in reports]
        """
        self._check_open()
        self._check_home()
        if isinstance(transactions, (str, Mapping)) or not isinstance(transactions, Iterable):
            raise ArgumentError(
                f"transact_many takes a collection of transactions, not {shown(transactions)}."
            )
        basis = checked_basis(expected_basis)
        messages: list[Transact] = []
        for tx_data in transactions:
            tx_data = await read_input(tx_data)
            if isinstance(tx_data, (str, Mapping)):
                tx_data, options = take_options(tx_data)
                if options:
                    raise ArgumentError(
                        f"{', '.join(options)} can't be said of one transaction of several."
                    )
            messages.append(Transact(*normalize(tx_data, None)))
        if not messages:
            return []
        first, *first.rest = messages
        first.basis = basis
        await self._writer.send(first)
        return [self._report(message) for message in messages]

    async def _transact(
        self,
        tx_data: Any,
        tx_meta: Mapping[Any, Any] | None,
        expected_basis: Database | int | None = None,
        idempotency_key: str | None = None,
        parents: tuple[UUID, ...] = (),
        foreign: bool = False,
        tempids: Mapping[Any, int] | None = None,
    ) -> TxReport:
        self._check_open()
        self._check_home()
        if type(tx_data) is not list:
            tx_data = await read_input(tx_data)
        if type(tx_data) is not list and isinstance(tx_data, (str, Mapping)):
            tx_data, options = take_options(tx_data)
            expected_basis = options.get("expected_basis", expected_basis)
            idempotency_key = options.get("idempotency_key", idempotency_key)
        basis, key = checked_basis(expected_basis), checked_key(idempotency_key)
        normal = normalize(tx_data, tx_meta)
        message = Transact(*normal, basis, key, parents, foreign, tempids=tempids)
        await self._writer.send(message)
        if message.answer is not None:
            return await self._repeated(message.answer)
        return self._report(message)

    async def _repeated(self, answer: Answer) -> TxReport:
        state, tx = answer.state, answer.tx
        kept = state.keep_history

        def at(point: int) -> Database:
            view = PastView(state, as_of=(point,)) if kept else View(state)
            return Database(view, config=self.config, env=self._env)

        done = PastView(state, history=kept, as_of=(tx,) if kept else (), since=(tx - 1,))
        datoms = await Database(done, config=self.config, env=self._env).datoms("eavt")

        def load() -> list[Datom]:
            return [x for x in datoms if x.tx == tx]

        return TxReport(at(tx - 1), at(tx), tx, answer.tempids, answer.tx_meta, load, repeated=True)

    def _report(self, message: Transact) -> TxReport:
        applied, before, commit = message.applied, message.before, message.commit
        assert applied is not None
        assert before is not None
        assert commit is not None
        applied.tx_meta[_COMMIT_ID] = commit.id
        return applied.report(self._wrap(applied.before, before), self._wrap(applied.after, commit))

    # -- listening -----------------------------------------------------------------------------

    def listen(self, listener: Callable[[TxReport], Any], key: Any = None) -> Any:
        """Call ``listener`` with the report of every commit from now on, in order; return its key.

        ``listener`` is a function or a coroutine function; it may transact. What it raises is
        logged. It has a task of its own, in which up to 1024 reports wait for it; beyond them the
        oldest are dropped, and a warning logged. A key that is in use is taken over.
        """
        self._check_open()
        self._check_home(waiting=False)
        if not callable(listener):
            raise ArgumentError(
                f"{shown(listener)} is not callable; pass a function of one report."
            )
        _check_key(key)
        if key is None:
            self._keys += 1
            key = self._keys
        self._listeners.add(key, listener)
        self._writer.subscribers[self] = self._committed
        return key

    def unlisten(self, key: Any) -> None:
        """Call the listener of ``key`` no more; an unknown key is ignored."""
        _check_key(key)
        self._listeners.remove(key)
        if not self._listeners:
            self._writer.subscribers.pop(self, None)

    def _committed(self, messages: list[Transact]) -> None:
        for message in messages:
            self._listeners.put(partial(self._report, message))

    # -- the end -------------------------------------------------------------------------------

    async def release(self) -> None:
        """Close this connection; the last one to a branch closes its writer and its store.

        What was sent is committed first. Idempotent. Not cancelled half way.
        """
        self._check_home()
        if self._closed:
            # Whoever releases waits for the listeners; one of those would wait for itself.
            if not self._listeners.is_calling():
                await outlast(self._left.wait)
            return
        self._closed = True
        try:
            await self._member.leave()
        finally:
            try:
                await self._listeners.finish()
            finally:
                self._writer.subscribers.pop(self, None)
                self._left.set()


def _check_key(key: Any) -> None:
    try:
        hash(key)
    except TypeError:
        raise ArgumentError(
            f"The key of a listener is hashable, such as a string, not {shown(key)}."
        ) from None


class _Connecting:
    """What ``connect`` returns: await it, or enter it, to open the connection."""

    def __init__(self, config: Config, env: Env, limits: Limits, create: bool) -> None:
        self._config = config
        self._env = env
        self._limits = limits
        self._create = create
        self._begun = False
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return "<a connection to be opened: await it, or enter it by async with>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            hint = "await it first: conn = await connect(…), or async with connect(…) as conn"
            raise attribute_error(self, "What connect returns", name, hint)

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._open().__await__()

    async def _open(self) -> Connection:
        if self._begun:
            raise RuntimeError("this connection was opened already; call connect again")
        self._begun = True
        if self._create:
            return await self._created()
        return await self._joined(self._config)

    async def _joined(self, config: Config) -> Connection:
        member = await join(Opening(config, self._env, self._wrap, self._limits))
        return Connection(member, self._env)

    async def _created(self) -> Connection:
        config = self._config
        # Without an id no memory store is found again: it is a new one each time.
        if config.store["backend"] != "memory" or config.store.get("id") is not None:
            with suppress(DatabaseNotFound):
                return await self._joined(config)
        with suppress(DatabaseExists):  # others were faster; contradictions show as always
            config = await creating.create(config, self._env)
        return await self._joined(config)

    def _wrap(self, transactor: Transactor) -> Wrap:
        def wrap(snapshot: Snapshot) -> Database:
            return Database(View(snapshot), config=transactor.config, env=self._env)

        return wrap

    async def __aenter__(self) -> Connection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        await self._connection.release()


def connect(
    config: Any = None,
    *,
    create: bool = False,
    env: Env = SYSTEM,
    limits: Limits | None = None,
    **options: Any,
) -> _Connecting:
    """Open a database: ``await connect(config)``, or ``async with connect(config) as conn``.

    ``config`` is a dict, EDN text, a Config, or None for keyword arguments alone. Any task of the
    event loop may open, use and release a connection; see :class:`Connection`.

    With ``read_only=True`` (an option of the config) nothing is written or made, not even a lock,
    and ``transact`` raises WriterError ``:writer/read-only``; so it is where this process may not
    write.

    With ``create`` a database that is not there is created as the config says, ``:initial-tx``
    included. Of several processes that start at once one creates it, and the others wait for that.

    On opening raises DatabaseNotFound, ConfigError where it contradicts the database
    (``:config-does-not-match-stored-db``), CorruptData, UnsupportedFormat, StorageError.
    """
    if type(create) is not bool:
        raise ArgumentError(f"create is True or False, not {shown(create)}.")
    return _Connecting(Config.of(config, **options), env, limits or Limits(), create)


# -- for whoever is given a connection ----------------------------------------------------------


def require_connection(conn: Any) -> Connection:
    """Return a connection. Raises ArgumentError for anything else, saying what to do."""
    if isinstance(conn, Connection):
        return conn
    hint = ""
    if isinstance(conn, Database):
        hint = " A database value never changes; transact on the connection it came from."
    elif isinstance(conn, _Connecting):
        hint = " Open it first: conn = await connect(config)."
    raise ArgumentError(
        f"A connection is expected, not {shown(conn)}.{hint}", error=":datahike/conn-expected"
    )


def writer_of(conn: Any) -> Transactor:
    """Return what a connection shares with others to its branch, for who may use it here."""
    opened: Connection = require_connection(conn)
    opened._check_open()
    opened._check_home()
    return opened._transactor


async def transact_on(
    conn: Connection,
    parents: tuple[UUID, ...],
    tx_data: Any,
    tx_meta: Mapping[Any, Any] | None = None,
    expected_basis: Database | None = None,
    *,
    key: str | None = None,
    tempids: Mapping[Any, int] | None = None,
) -> TxReport:
    """Run a transaction whose commit has other commits as parents, too; see ``merge_db``.

    It may state ids of entities that other branches have made, and be one made again: ``key`` and
    ``tempids`` are those that were kept with it.
    """
    opened = require_connection(conn)
    return await opened._transact(
        tx_data, tx_meta, expected_basis, key, parents=parents, foreign=True, tempids=tempids
    )
