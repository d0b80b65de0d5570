"""Datahike's verbs on connections, as functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from datahike_async.changes import EVERY, Reset
from datahike_async.connection import Connection, require_connection
from datahike_async.database import Database
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError
from datahike_async.log import LogEntry, Point
from datahike_async.values.report import TxReport

__all__ = [
    "changes",
    "db",
    "listen",
    "release",
    "sync",
    "transact",
    "transact_many",
    "tx_range",
    "unlisten",
]


def db(conn: Connection) -> Database:
    """Return the database of a connection as it is now."""
    return require_connection(conn).db()


async def transact(
    conn: Connection,
    tx_data: Any,
    tx_meta: Mapping[Any, Any] | None = None,
    *,
    expected_basis: Database | int | None = None,
    idempotency_key: str | None = None,
) -> TxReport:
    """Run a transaction; see :meth:`Connection.transact`."""
    return await require_connection(conn).transact(
        tx_data, tx_meta, expected_basis=expected_basis, idempotency_key=idempotency_key
    )


async def transact_many(
    conn: Connection,
    transactions: Iterable[Any],
    *,
    expected_basis: Database | int | None = None,
) -> list[TxReport]:
    """Run several transactions, all or none; see :meth:`Connection.transact_many`."""
    return await require_connection(conn).transact_many(transactions, expected_basis=expected_basis)


async def release(conn: Connection) -> None:
    """Close a connection; see :meth:`Connection.release`."""
    await require_connection(conn).release()


def listen(conn: Connection, *arguments: Any) -> Any:
    """Listen to commits, ``listen(conn, f)`` or ``listen(conn, key, f)``; return the key."""
    if len(arguments) == 1:
        return require_connection(conn).listen(arguments[0])
    if len(arguments) == 2:
        return require_connection(conn).listen(arguments[1], arguments[0])
    raise ArgumentError("listen takes a connection, perhaps a key, and a function.")


def unlisten(conn: Connection, key: Any) -> None:
    """Stop listening; see :meth:`Connection.unlisten`."""
    require_connection(conn).unlisten(key)


def tx_range(conn: Connection, from_: Point = None, to: Point = None) -> AsyncIterator[LogEntry]:
    """Iterate over what transactions did, oldest first; see :meth:`Connection.tx_range`."""
    return require_connection(conn).tx_range(from_, to)


async def sync(conn: Connection, basis: Database | int | None = None) -> Database:
    """Look for what others have committed, or wait for a basis; see :meth:`Connection.sync`."""
    return await require_connection(conn).sync(basis)


def changes(
    conn: Connection,
    since: Point | LogEntry = None,
    *,
    attributes: Iterable[Keyword | str] | None = None,
    every: float = EVERY,
) -> AsyncIterator[LogEntry | Reset]:
    """Follow a branch from a point of the past on; see :meth:`Connection.changes`."""
    return require_connection(conn).changes(since, attributes=attributes, every=every)
