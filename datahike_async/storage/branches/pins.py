"""Pins: commits that a reader keeps from being collected for a while, whatever becomes of branches.

A pin is what a head is, without a name: a checkpoint and the records on top of it. The list of pins
is one blob, changed by compare-and-set, since names of blobs tell no keys.

A clock decides only how long a reader is protected: a pin lapses when its count of renewals has
stood still for its time to live on the collector's own clock, or when it is older than that by the
wall, and five minutes for clocks that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async.env import Env
from datahike_async.errors import CorruptData
from datahike_async.index.codec import pack, unpack
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import PINS, pin_key
from datahike_async.storage.log.checkpoint import FORMAT, check_format, decode_checkpoint
from datahike_async.storage.log.reader import fetch_segments
from datahike_async.storage.log.records import Commit, decode_items, decode_record
from datahike_async.storage.log.tail import Tail

__all__ = [
    "Pin",
    "Pins",
    "Watch",
    "change_pins",
    "listed_pins",
    "pinned_items",
    "pinned_place",
    "read_pins",
    "write_pin",
]

_MAGIC: Final = "datahike-async/pins"
_ATTEMPTS: Final = 100
_DIFFERENCE: Final = timedelta(minutes=5)
"""How far the clocks of two machines may be apart."""


class Pin(NamedTuple):
    """Which commit is kept, for how many seconds after each renewal, how often and when renewed."""

    commit: UUID
    ttl: float
    renewals: int
    at: datetime


Pins = Mapping[UUID, Pin]


class Watch:
    """What one collector has seen of pins, on its own clock."""

    def __init__(self) -> None:
        self._seen: dict[UUID, tuple[int, float]] = {}

    def living(self, pins: Pins, now: datetime, monotonic: float) -> dict[UUID, Pin]:
        """Return the pins that have not lapsed."""
        seen, living = {}, {}
        for id_, pin in pins.items():
            renewals, since = self._seen.get(id_, (pin.renewals, monotonic))
            if renewals != pin.renewals:
                since = monotonic
            seen[id_] = (pin.renewals, since)
            late = now - pin.at > timedelta(seconds=pin.ttl) + _DIFFERENCE
            if not late and monotonic - since <= pin.ttl:
                living[id_] = pin
        self._seen = seen
        return living


async def read_pins(store: Store) -> Pins:
    """Return all pins. Raises CorruptData."""
    return (await _read(store))[0]


async def listed_pins(store: Store) -> Pins | None:
    """Return all pins, None where no list of them was ever written. Raises CorruptData."""
    pins, revision = await _read(store)
    return None if revision is ABSENT else pins


async def _read(store: Store) -> tuple[Pins, Expected]:
    data, revision = await store.get(PINS, with_revision=True)
    if data is None:
        return {}, ABSENT
    try:
        magic, version, fields = unpack(data)
        if magic != _MAGIC:
            raise ValueError("it begins otherwise")
        check_format(version, PINS)
        return {id_: Pin(*pin) for id_, pin in fields["pins"]}, revision
    except (TypeError, ValueError, KeyError, CorruptData) as error:
        raise CorruptData(f"{PINS} holds no pins: {error!r}.", place=PINS) from error


async def change_pins(store: Store, change: Callable[[Pins], Pins]) -> Pins:
    """Change the pins, of whatever they are by then."""
    for _ in range(_ATTEMPTS):
        now, revision = await _read(store)
        made = change(now)
        if made == now:
            return now
        data = pack([_MAGIC, FORMAT, {"pins": [[id_, list(pin)] for id_, pin in made.items()]}])
        try:
            await store.assoc(PINS, data, expected_revision=revision)
        except (RevisionMismatch, OutcomeUnknown):
            continue
        return made
    raise RevisionMismatch("Others kept changing the pins of this store; nothing was changed.")


async def write_pin(store: Store, place: Place, ttl: float, env: Env) -> UUID:
    """Pin what is at a place, and return the id of the pin; nothing is sure before the epoch is.

    Whoever pins reads the epoch before and after, and starts over where a collection began.
    """
    id_ = env.new_uuid()
    tail, segments = await Tail(place.encoded).bounded(env.new_uuid)
    commit = [place.commit.id, list(place.commit.parents)]
    fields = {"base": place.base.encoded, "tail": list(tail.stored()), "commit": commit}
    data = pack({"format": FORMAT, **fields})
    await write_blobs(store, [*segments, (pin_key(id_), data)])
    pin = Pin(place.commit.id, ttl, 0, env.now())
    await change_pins(store, lambda pins: {**pins, id_: pin})
    return id_


async def _pinned(store: Store, id_: UUID) -> dict[str, Any]:
    key = pin_key(id_)
    data = await store.bget(key)
    if data is None:
        raise CorruptData(f"{key} is not in the store.", error=":node-not-found", place=key)
    try:
        found: dict[str, Any] = unpack(data)
        check_format(found["format"], key)
    except (TypeError, KeyError) as error:
        raise CorruptData(f"{key} holds no pin: {error!r}.", place=key) from error
    return found


async def pinned_items(store: Store, id_: UUID) -> tuple[Any, list[Any]]:
    """Return the checkpoint that a pin keeps, and the records on top of it or where they lie."""
    found, key = await _pinned(store, id_), pin_key(id_)
    return decode_checkpoint(found["base"], key), decode_items(found["tail"])


async def pinned_place(store: Store, id_: UUID) -> Place:
    """Return where a pinned commit is. Raises CorruptData."""
    found, key = await _pinned(store, id_), pin_key(id_)
    tail = await fetch_segments(store, decode_items(found["tail"]), None, key)
    records = tuple(decode_record(data, key) for data in tail.records)
    id_, parents = found["commit"]
    base = decode_checkpoint(found["base"], key)
    return Place(base, tuple(tail.records), records, Commit(id_, tuple(parents)))
