"""``load``: the rows of a table as transactions of many rows each, and where it was left off."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final, NamedTuple

import anyio
import numpy as np

from datahike_async.connection import Connection, require_connection
from datahike_async.edn.types import Keyword
from datahike_async.edn.writer import write
from datahike_async.errors import ArgumentError, DatahikeError, TransactionError, shown
from datahike_async.index.columns import I64
from datahike_async.konserve.threads import in_thread
from datahike_async.loading.cells import BadCell, cells
from datahike_async.loading.sources import Batch, Source, open_source
from datahike_async.tx.answers import first_answer
from datahike_async.tx.forms import unknown_attribute
from datahike_async.tx.table import Cells, Table
from datahike_async.values.report import TxReport
from datahike_async.values.schema import Attr, Schema
from datahike_async.values.types import ANY

__all__ = ["LoadReport", "load"]

BATCH: Final = 1 << 16
"""Rows of a transaction."""

_MOST_ROWS: Final = 1 << 20
_LONGEST_NAME: Final = 400
# What a batch of a named load answers beside tempids: the rows that are in, and a mark of the last.
_ROWS: Final = "rows"
_MARK: Final = "mark"
_MARKED: Final = 64
_SEPARATORS: Final = (";", "\t", "|")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How far a load has come.

    ``rows`` of the table are in, of which ``resumed`` were in before this call; ``total`` is how
    many it has, None while that is not known. ``transactions`` and ``datoms`` are those of this
    call, ``seconds`` how long it has taken.
    """

    rows: int
    total: int | None
    resumed: int
    transactions: int
    datoms: int
    seconds: float


async def load(
    conn: Connection,
    table: Any,
    *,
    prefix: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    identity: str | None = None,
    refs: Mapping[str, str] | None = None,
    name: str | None = None,
    batch: int = BATCH,
    progress: Callable[[LoadReport], Awaitable[Any] | None] | None = None,
) -> LoadReport:
    """Load a table: each row is an entity, each cell a value of the attribute of its column.

    ``table`` is an Arrow table, a polars or pandas frame, a mapping of column names to lists or
    arrays, or the path of a CSV (``.csv``, ``.tsv``), JSON lines (``.jsonl``, ``.ndjson``) or
    Parquet file.

    Column ``email`` is attribute ``:person/email`` with ``prefix="person"``. ``columns`` names the
    attribute of a column, or None to leave the column out; without a prefix it names all that are
    loaded. Without both, columns are named as attributes are. Cells without a value are skipped;
    cells of an attribute with many values may be lists. Text is read where the attribute has
    another type: numbers, booleans, ISO 8601 instants, UUIDs.

    ``identity`` is the column that says which entity a row is about; its attribute is a
    ``:db.unique/identity``, and a row whose value is there already adds to that entity. ``refs``
    maps columns of references to the unique attribute whose values they hold, such as
    ``{"city": ":city/name"}``; otherwise they hold entity ids.

    Rows are committed ``batch`` at a time, each durable when ``progress``, a function or coroutine
    function, is told. With a ``name`` a load that was interrupted goes on where it was left off
    when it is called again with the same name and table: each row is loaded exactly once, whoever
    calls, and once complete it does nothing. A table whose rows are not those that were loaded last
    is refused; one that has grown goes on with its new rows.

    Schema, uniqueness and predicates hold as in ``transact``. Raises TransactionError for a row
    that is refused, and for a value that its attribute cannot hold exactly; it names row (counted
    from 0), column and what to do, and how many rows are in: those of the batches before.
    ArgumentError for what is no table or no such column. ::

        people = {"email": ["eve@example.org", "fay@example.org"], "name": ["Eve", "Fay"]}
        report = await d.load(conn, people, prefix="person", identity="email", name="people")
        assert report.rows == 2
    """
    require_connection(conn)
    _check(name, batch, progress)
    names = _Names(prefix, columns, identity, refs)
    source = await in_thread(open_source, table)
    return await _Load(conn, source, names, name, batch).run(progress)


def _check(name: Any, batch: Any, progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress is a function of a LoadReport, not {shown(progress)}.")
    if type(batch) is not int or not 0 < batch <= _MOST_ROWS:
        raise ArgumentError(f"batch is a number of rows up to {_MOST_ROWS}, not {shown(batch)}.")
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
        raise ArgumentError(
            f"The name of a load is a string of 1 to {_LONGEST_NAME} characters, not {shown(name)}."
        )


class _Made(NamedTuple):
    """Rows of a table as transaction data: how many, and which of them are in it."""

    rows: int
    table: Table
    kept: I64


class _Load:
    """A load under way. While a batch is committed the next one is read."""

    def __init__(
        self, conn: Connection, source: Source, names: _Names, name: str | None, batch: int
    ) -> None:
        self._conn = conn
        self._source = source
        self._names = names
        self._name = name
        self._batch = batch
        # Rows that are in.
        self._done = 0
        self._batches: Generator[Batch] | None = None

    async def run(
        self, progress: Callable[[LoadReport], Awaitable[Any] | None] | None
    ) -> LoadReport:
        """Load what is left of the table, and return how far it came."""
        monotonic = self._conn._env.monotonic
        began = monotonic()
        transactions = datoms = 0
        try:
            made = await self._go_on()
            resumed = self._done

            def report(total: int | None) -> LoadReport:
                taken = monotonic() - began
                return LoadReport(self._done, total, resumed, transactions, datoms, taken)

            while made is not None:
                sent, ahead = await self._commit(made)
                if sent is not None and sent.repeated:
                    # Somebody else loads the same: go on behind their batch.
                    made = await self._go_on()
                    continue
                if sent is not None:
                    transactions += 1
                    datoms += len(sent.tx_data)
                self._done += made.rows
                if progress is not None and made.rows:
                    told = progress(report(self._source.total))
                    if isawaitable(told):
                        await told
                if isinstance(ahead, Exception):
                    raise ahead
                made = ahead
        except DatahikeError as error:
            _say_how_many(error, self._done, self._name)
            raise
        finally:
            self._close()
        return report(self._done)

    async def _go_on(self) -> _Made | None:
        """Begin, or begin again, behind the rows that are in; return the next ones."""
        self._close()
        if self._name is not None:
            await self._find_done(self._name)
        self._batches = self._source.batches(self._done, self._batch)
        return await self._read(self._batches, self._done)

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    async def _find_done(self, name: str) -> None:
        """Find how many rows are in: the transactions of a load are a chain.

        Raises ArgumentError where the last of them are not those of the table.
        """
        state = (await self._conn.sync()).snapshot
        before, mark = 0, None
        while (answer := await first_answer(state, _key(name, self._done))) is not None:
            before, self._done = self._done, answer.tempids[_ROWS]
            mark = answer.tempids.get(_MARK)
        if not self._done:
            return
        first = max(before, self._done - _MARKED)
        batches = self._source.batches(first, self._done - first)
        try:
            made = await self._read(batches, first)
        finally:
            batches.close()
        if made is None or made.rows != self._done - first or mark != _mark(made, first):
            raise ArgumentError(
                f"Rows {first} to {self._done - 1} of the table are not those that the load "
                f"{name!r} put in, so this is another table, or its columns are named otherwise. "
                "Load it under a name of its own; a table that is longer now may go on under its "
                "old one."
            )

    async def _read(self, batches: Generator[Batch], first: int) -> _Made | None:
        """Return the next batch, whose first row has the number ``first``."""
        schema = self._conn.db().snapshot.schema
        try:
            return await in_thread(_made, batches, self._names, schema, first)
        except TransactionError as error:
            await self._say_where(error)
            raise

    async def _say_where(self, error: TransactionError) -> None:
        """Say where in a file the row of an error stands, if it is one of a file."""
        row = error.data.get(":row")
        if row is None:
            return
        with suppress(ArgumentError):
            place = await in_thread(self._source.place, row)
            if place is not None:
                error.data[":line"] = place.line
                error.args = (error.args[0].replace(f"Row {row}", f"Row {row} ({place})", 1),)

    async def _commit(self, made: _Made) -> tuple[TxReport | None, _Made | Exception | None]:
        """Commit a batch, and read the next one meanwhile; return what came of both.

        What is wrong with the next one is returned: this one is in.
        """
        ahead: _Made | Exception | None = None
        refused: Exception | None = None
        sent: TxReport | None = None
        batches = self._batches
        assert batches is not None

        async def read() -> None:
            nonlocal ahead
            try:
                ahead = await self._read(batches, self._done + made.rows)
            except Exception as error:
                ahead = error

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            try:
                sent = await self._send(made)
            except Exception as error:
                # Kept bare: a task group would wrap it.
                refused = error
                group.cancel_scope.cancel()
        if refused is None:
            return sent, ahead
        try:
            if not isinstance(refused, TransactionError):
                raise refused
            told = await in_thread(_refused, refused, made.table, made.kept + self._done)
            await self._say_where(told)
            raise told from refused
        finally:
            del refused

    async def _send(self, made: _Made) -> TxReport | None:
        """Have a batch committed; return None where there is nothing to commit."""
        if self._name is None or not made.rows:
            return await self._conn.transact(made.table) if len(made.table) else None
        made.table.answer = {_ROWS: self._done + made.rows, _MARK: _mark(made, self._done)}
        key = _key(self._name, self._done)
        return await self._conn.transact(made.table, idempotency_key=key)


def _key(name: str, rows: int) -> str:
    return f"load {name} from row {rows}"


def _say_how_many(error: DatahikeError, done: int, name: str | None) -> None:
    error.data[":rows"] = done
    more = "" if name is None else f"; call load again with name={name!r} to go on from there"
    text = f"{error.args[0] if error.args else ''} {done} rows of the table are in{more}."
    error.args = (text.strip(), *error.args[1:])


# -- columns and attributes ------------------------------------------------------------------------


class _Names:
    """Which column is which attribute."""

    def __init__(
        self,
        prefix: Any,
        columns: Mapping[str, str | None] | None,
        identity: str | None,
        refs: Mapping[str, str] | None,
    ) -> None:
        if prefix is not None and not (isinstance(prefix, str) and prefix.strip(":/")):
            raise ArgumentError(f"prefix is a namespace such as 'person', not {shown(prefix)}.")
        for what, given in (("columns", columns), ("refs", refs)):
            if given is not None and not isinstance(given, Mapping):
                raise ArgumentError(f"{what} maps column names to attributes, not {shown(given)}.")
        self.prefix: str | None = None if prefix is None else prefix.strip(":/")
        self.columns = {} if columns is None else columns
        self.all = prefix is not None or columns is None
        self.identity = identity
        self.refs = {} if refs is None else refs

    def attribute(self, column: str) -> Keyword | None:
        """Return the attribute of a column, None where it is left out."""
        if column in self.columns:
            given = self.columns[column]
            return None if given is None else _keyword(given)
        if not self.all:
            return None
        if self.prefix is not None:
            return _keyword(f"{self.prefix}/{column}")
        return _keyword(column)

    def named(self) -> list[str]:
        """Return the columns that the caller named."""
        return [*self.columns, *self.refs, *([] if self.identity is None else [self.identity])]

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise ArgumentError where a column is named that the table does not have."""
        for one in self.named():
            if one not in found:
                hint = ""
                if str(one).startswith(":"):
                    hint = " Columns are named as in the table, not by their attributes."
                raise ArgumentError(
                    f"The table has no column {shown(one)}; it has {shown([*found])}.{hint}"
                )


def _keyword(text: Any) -> Keyword:
    if isinstance(text, Keyword):
        return text
    if not isinstance(text, str) or not text.strip(":"):
        raise ArgumentError(f"An attribute is a keyword such as ':person/name', not {shown(text)}.")
    return Keyword(text.removeprefix(":"))


def _attr(schema: Schema, name: Keyword, column: str) -> Attr | None:
    attr = schema.by_key.get(name)
    if attr is not None and schema.takes_data(attr):
        return attr
    if schema.flexibility == "read":
        return None
    error = unknown_attribute(name, schema)
    hint = ""
    if any(mark in column for mark in _SEPARATORS):
        hint = " Fields of a .csv are separated by commas, those of a .tsv by tabs."
    error.args = (
        f"Column {column!r}: {error.args[0]} "
        f"Or say which attribute it is: columns={{{column!r}: ':…'}}, or prefix= of all columns; "
        f"or leave it out: columns={{{column!r}: None}}.{hint}",
    )
    raise error


def _made(batches: Iterator[Batch], names: _Names, schema: Schema, first: int) -> _Made | None:
    """Return the next batch as transaction data; None where there is none."""
    part = next(batches, None)
    return None if part is None else _Made(part.rows, *_table(part, names, schema, first))


def _mark(made: _Made, first: int) -> int:
    """Return what tells the last rows of a batch from other rows."""
    start = max(made.rows - _MARKED, 0)
    said = []
    for name, rows, values, by in made.table.cells:
        rows = made.kept[rows]
        i = int(rows.searchsorted(start))
        said += [
            write([row, name, by, value])
            for row, value in zip(
                (rows[i:] + first).tolist(), values.slice(i, len(rows)).tolist(), strict=True
            )
        ]
    digest = hashlib.sha256("\n".join(sorted(said)).encode()).digest()
    return int.from_bytes(digest[:7])


def _table(part: Batch, names: _Names, schema: Schema, first: int) -> tuple[Table, I64]:
    """Return a batch as transaction data, and which of its rows are in it: those not empty.

    ``first`` is the number of its first row.
    """
    columns = part.columns
    if part.some:
        columns = dict.fromkeys(names.named(), [None] * part.rows) | columns
    names.check(columns)
    made: list[Cells] = []
    many = set()
    shown_as: dict[Keyword, str] = {}
    for column, data in columns.items():
        name = names.attribute(column)
        if name is None:
            continue
        if name in shown_as:
            raise ArgumentError(f"Columns {shown_as[name]!r} and {column!r} are both {name}.")
        shown_as[name] = column
        attr = _attr(schema, name, column)
        by = _by(schema, names, column, attr)
        valued = attr if by is None else by
        kind = ANY if valued is None else valued.value_type
        listed = attr is not None and attr.many
        try:
            rows, values = cells(data, kind, name if by is None else by.ident, many=listed)
        except BadCell as bad:
            hint = ""
            if kind.name == "ref":
                hint = (
                    " A column of references holds entity ids, or values of a unique attribute "
                    f"that refs names: refs={{{column!r}: ':…'}}."
                )
            raise _at(bad.error, first + bad.row, column, hint) from None
        if column == names.identity:
            _check_identity(attr, column, rows, part.rows, first)
        if len(rows):
            made.append(Cells(name, rows, values, None if by is None else by.ident))
            if listed:
                many.add(name)
    kept = np.arange(part.rows)
    if not any(len(one.rows) == part.rows and one.attribute not in many for one in made):
        there = np.zeros(part.rows, np.bool_)
        for one in made:
            there[one.rows] = True
        kept = np.flatnonzero(there)
        made = [one._replace(rows=kept.searchsorted(one.rows)) for one in made]
    return Table(len(kept), made, frozenset(many), shown_as), kept


def _by(schema: Schema, names: _Names, column: str, attr: Attr | None) -> Attr | None:
    """Return the unique attribute whose values a column of references holds."""
    given = names.refs.get(column)
    if given is None:
        return None
    if attr is None or not attr.is_ref:
        raise ArgumentError(f"refs names column {column!r}, whose attribute is no reference.")
    by = schema.by_key.get(_keyword(given))
    if by is None or by.unique is None:
        raise ArgumentError(
            f"refs says that column {column!r} holds values of {_keyword(given)}, which is no "
            "unique attribute of the schema."
        )
    return by


def _check_identity(attr: Attr | None, column: str, rows: I64, count: int, first: int) -> None:
    if attr is None or attr.unique != "identity":
        raise ArgumentError(
            f"identity is column {column!r}, whose attribute is no :db.unique/identity; without "
            "identity= each row is a new entity."
        )
    if len(np.unique(rows)) != count:
        row = first + int(np.flatnonzero(~np.isin(np.arange(count), rows))[0])
        error = TransactionError(
            f"Row {row} has no value in column {column!r}, which says which entity it is about; "
            "give it one, or leave the row out.",
            error=":transact/syntax",
            attribute=attr.ident,
        )
        raise _noted(error, row, column)


# -- what was refused ------------------------------------------------------------------------------


def _noted(error: TransactionError, row: int | None, column: str | None) -> TransactionError:
    error.data.update({":row": row, ":column": column})
    return error


def _at(
    error: TransactionError, row: int | None, column: str | None, hint: str
) -> TransactionError:
    """Return an error of a transaction that names where in the table it is."""
    where = [f"Row {row}"] if row is not None else []
    where += [f"column {column!r}"] if column is not None else []
    text = f"{', '.join(where)}: {error.args[0]}{hint}" if where else error.args[0]
    made = TransactionError(text)
    made.data.update(error.data)
    return _noted(made, row, column)


def _refused(error: TransactionError, table: Table, rows: I64) -> TransactionError:
    item = getattr(error, "item", None)
    at = None if item is None else next((i for i, x in enumerate(table) if x is item), None)
    attribute = error.data.get(":attribute")
    hint = ""
    missing = error.data.get(":entity-id")
    if error.data.get(":error") == ":entity-id/missing" and isinstance(missing, (list, tuple)):
        cell = [] if at is None else table[at].items()
        attribute = next((key for key, value in cell if missing in (value, *_listed(value))), None)
        hint = (
            " Load what is referred to first: what stands in later rows of the same table is not "
            "there yet, so load the columns of references in a second pass."
        )
    column = table.columns.get(attribute) if isinstance(attribute, Keyword) else None
    return _at(error, None if at is None else int(rows[at]), column, hint)


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else ()
