"""Names that applications make up: tempids of entities to come, and UUIDs that sort by time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Keyword
from datahike_async.env import SYSTEM
from datahike_async.errors import ArgumentError, shown

__all__ = ["resolve_tempid", "squuid", "squuid_time_millis", "tempid"]

_CURRENT_TX: Final = Keyword("db/current-tx")
_TX_PART: Final = Keyword("db.part/tx")
_numbers: Final = count(-1_000_000, -1)
_SECONDS: Final = 2**32


def tempid(part: Any = ":db.part/user", x: int | None = None) -> Any:
    """Return a tempid: a negative number that no call has returned before, or ``x``.

    ``part`` is there for data written for Datomic; of ``:db.part/tx`` it is the transaction. A
    tempid may as well be any negative number or text of your own. ::

        eve = d.tempid()
        report = await conn.transact([[":db/add", eve, ":person/name", "Eve"]])
        assert (await report.db_after.entity(report.tempids[eve]))[":person/name"] == "Eve"
    """
    if isinstance(part, (str, Keyword)) and Keyword(part) is _TX_PART:
        return _CURRENT_TX
    if x is None:
        return next(_numbers)
    if type(x) is not int or x >= 0:
        raise ArgumentError(f"A tempid is a negative number, not {shown(x)}.")
    return x


def resolve_tempid(db: Any, tempids: Mapping[Any, int], tempid: Any) -> int | None:
    """Return the id that a transaction has given a tempid, or None: ``tempids`` are its report's.

    ``db`` is not looked at: it is there because Datomic's function has it.
    """
    return tempids.get(tempid)


def squuid(msec: int | None = None) -> UUID:
    """Return a random UUID that begins with the time, in seconds: newer ones mostly sort later.

    ``msec`` are milliseconds since 1970 to take in place of now. Raises ArgumentError for a time
    before 1970 or after 2106. ::

        assert d.squuid_time_millis(d.squuid(1_600_000_000_123)) == 1_600_000_000_000
    """
    if msec is None:
        msec = int(SYSTEM.now().timestamp() * 1000)
    if type(msec) is not int or not 0 <= msec < _SECONDS * 1000:
        last = datetime.fromtimestamp(_SECONDS - 1, UTC).date().isoformat()
        raise ArgumentError(f"{shown(msec)} are no milliseconds between 1970 and {last}.")
    random = SYSTEM.new_uuid().int
    return UUID(int=msec // 1000 << 96 | random & (1 << 96) - 1)


def squuid_time_millis(uuid: UUID) -> int:
    """Return the time that a UUID of :func:`squuid` begins with, in milliseconds since 1970."""
    if not isinstance(uuid, UUID):
        raise ArgumentError(f"squuid_time_millis takes a UUID, not {shown(uuid)}.")
    return (uuid.int >> 96) * 1000
