"""Collection of garbage: what no branch, no pin and nothing retained needs is removed from a store.

Writers and readers go on meanwhile, in any process. See docs/how-to/collect-garbage.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import anyio

from datahike_async.config.collecting import Retention, retention
from datahike_async.connection import Connection, require_connection, writer_of
from datahike_async.database import Database
from datahike_async.errors import ArgumentError, SnapshotExpired, shown
from datahike_async.events import PIN_LOST
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.loops import Every
from datahike_async.storage.branches.branching import neither
from datahike_async.storage.branches.pins import Pins, change_pins, write_pin
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.collecting import Collected, KeptBranch
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.collecting import collect
from datahike_async.transactor.transactor import Transactor
from datahike_async.versions import database_at, origin_of

__all__ = ["Collected", "KeptBranch", "compact", "gc_storage", "pin"]

_ATTEMPTS: Final = 10
_REMOVE_SECONDS: Final = 5.0


async def gc_storage(
    conn: Connection,
    remove_before: datetime | int | None = None,
    *,
    retain: Any = None,
    dry_run: bool = False,
) -> Collected:
    """Remove what nothing needs any more, and say what was done. From any process, at any time.

    ``remove_before``, an instant or the id of a transaction, lets go of the commits before it;
    ``retain``, such as ``{"commits": 100, "seconds": 600}``, keeps the last so many of each branch
    and all that are not older. What either keeps is kept, and always the newest. Without both all
    commits are kept where the database keeps history, else the last 100 and those of the last ten
    minutes. Views of the past by ``as_of`` need no commits, and stay as they are. With ``dry_run``
    nothing is written: it tells what could be freed.

    Reading a database value that needs what was removed raises SnapshotExpired; :func:`pin` keeps
    one. Raises ConfigError, ArgumentError; WriterError ``:writer/read-only``; StorageError. ::

        await conn.transact([{":person/name": "Ada"}])
        done = await d.gc_storage(conn, retain={"commits": 1})
        assert done.branches[d.kw("db")].checkpoints == 1
        assert (await d.gc_storage(conn, dry_run=True)).freed == 0
    """
    writer = writer_of(conn)
    keep = _kept(remove_before, retain)
    if not dry_run:
        writer.require_writable()
    with konserve_errors():
        if not dry_run:
            await writer.branch.probe.check()
        return await collect(writer, keep, dry_run=dry_run)


async def compact(conn: Connection) -> None:
    """Flush what is new, and merge all sorted runs of a branch into its indexes.

    Flushes gather changes in runs over the indexes, and merge these once there is much of it; so
    nobody has to call this. Reads that go through whole attributes are a little faster afterwards,
    until the next flush. Other tasks go on meanwhile. ``info`` says how many runs there are. Raises
    WriterError where the writer is closed or read-only; StorageError. ::

        await d.compact(conn)
        assert (await d.info(conn)).branches[0].runs == 0
    """
    writer = writer_of(conn)
    writer.require_writable()
    with konserve_errors():
        await writer.compact()


def _kept(remove_before: datetime | int | None, retain: Any) -> Retention | None:
    if remove_before is None:
        return None if retain is None else retention(retain, keep_history=True)
    if isinstance(remove_before, datetime):
        if remove_before.tzinfo is None:
            raise ArgumentError(
                f"{shown(remove_before)} has no time zone; give an aware datetime, or the id of a "
                "transaction."
            )
    elif type(remove_before) is not int:
        raise ArgumentError(
            "remove_before is an aware datetime or the id of a transaction, not "
            f"{shown(remove_before)}."
        )
    said = Retention() if retain is None else retention(retain, keep_history=True)
    if retain is not None and said.everything:
        return said
    return Retention(said.commits, said.seconds, remove_before)


@asynccontextmanager
async def pin(
    conn: Connection, commit: Any = None, ttl: float = 60.0
) -> AsyncGenerator[Database, None]:
    """Keep a commit from being collected inside a block, which gets it as a database value.

    ``commit`` is the id of a commit, a database value, a connection, or the name of a branch or a
    tag; without it, the present one. Whatever becomes of its branch, it can be read until the block
    ends. The pin is renewed meanwhile; where the process dies, it lapses ``ttl`` seconds later, or
    a few minutes.

    Raises SnapshotExpired where it is gone already, DatabaseNotFound where there is none;
    WriterError ``:writer/read-only``. ::

        async with d.pin(conn) as db:
            await conn.transact([{":person/name": "Ada"}])
            await d.gc_storage(conn, retain={"commits": 1})
            assert await d.commit_as_db(conn, d.commit_id(db)) == db
    """
    conn = require_connection(conn)
    writer = writer_of(conn)
    writer.require_writable()
    if type(ttl) not in (int, float) or not 0.1 <= ttl <= 1e7:
        raise ArgumentError(f"The time to live of a pin is seconds, from 0.1, not {shown(ttl)}.")
    wanted = conn if commit is None else commit
    with konserve_errors():
        await writer.branch.probe.check()
        db, id_ = await _pinned(conn, writer, wanted, float(ttl))
    renewing = Every(float(ttl) / 4, _renewal(writer, id_), "the renewal of a pin")
    try:
        yield db
    finally:
        with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
            await renewing.stop()
            await _unpin(writer, id_)


async def _pinned(
    conn: Connection, writer: Transactor, wanted: Any, ttl: float
) -> tuple[Database, UUID]:
    for _ in range(_ATTEMPTS):
        registry = await read_registry(writer.branch.store)
        origin = await origin_of(conn, wanted, registry)
        if origin is None:
            raise neither(wanted)
        id_ = await write_pin(writer.branch.store, origin.place, ttl, writer.branch.env)
        # A collection that began before the pin was there has not seen it.
        if (await read_registry(writer.branch.store)).epoch == registry.epoch:
            return await database_at(conn, origin.place), id_
        await _unpin(writer, id_)
    raise SnapshotExpired(
        "Collections kept beginning while a pin was made; try again.", error=":snapshot/expired"
    )


async def _unpin(writer: Transactor, id_: UUID) -> None:
    try:
        await change_pins(
            writer.branch.store, lambda pins: {i: p for i, p in pins.items() if i != id_}
        )
    except KonserveError:
        return  # it lapses by itself


def _renewal(writer: Transactor, id_: UUID) -> Callable[[], Awaitable[bool]]:
    """Return what renews a pin; False from it says that there is none any more."""

    def renewed(pins: Pins) -> Pins:
        pin = pins.get(id_)
        if pin is None:
            return pins
        return {**pins, id_: pin._replace(renewals=pin.renewals + 1, at=writer.branch.env.now())}

    async def renew() -> bool:
        try:
            pins = await change_pins(writer.branch.store, renewed)
        except Exception as error:
            PIN_LOST(pin=id_, error=error)
            return True
        if id_ not in pins:
            PIN_LOST(pin=id_, error="it was not renewed in time")
        return id_ in pins

    return renew
