"""What a store may promise, and what one must do that does not: refuse.

A law that belongs to a promise is marked with :func:`promised`. On a store that does not make the
promise the law checks the refusal in its stead, so that nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, Final, NamedTuple

import pytest

from datahike_async.konserve.blob import ABSENT, Capabilities, ConditionalDomain
from datahike_async.konserve.errors import UnsupportedOperation
from datahike_async.konserve.store import Assoc, Store

__all__ = [
    "ATOMIC_MULTI",
    "COMPARE_AND_SET",
    "DURABLE",
    "IN_PLACE",
    "JOURNAL",
    "KEPT",
    "PROMISES",
    "RANGED_READS",
    "REFUSED",
    "TURNS",
    "Promise",
    "promised",
]

KEPT: Final = "kept"
REFUSED: Final = "refused"


class Promise(NamedTuple):
    """A promise that a store may make: its name, who makes it, and what the others must do.

    ``otherwise`` is None where those who do not make it are held to the same law all the same.
    """

    name: str
    made: Callable[[Capabilities], bool]
    otherwise: Callable[[Store], Awaitable[None]] | None = None


async def _conditions_are_refused(store: Store) -> None:
    revision = await store.assoc("unconditional", 1)
    for expected in (ABSENT, revision):
        for refused in (
            store.assoc("unconditional", 2, expected_revision=expected),
            store.bassoc("unconditional", b"2", expected_revision=expected),
            store.dissoc("unconditional", expected_revision=expected),
            store.multi_assoc([("new", 2), Assoc("unconditional", 2, expected_revision=expected)]),
        ):
            with pytest.raises(UnsupportedOperation):
                await refused
    assert await store.get("unconditional") == 1
    assert not await store.exists("new")


async def _journals_are_refused(store: Store) -> None:
    revision = await store.assoc("plain", 1)
    with pytest.raises(UnsupportedOperation):
        await store.journal_append("plain", b"x", expected_revision=revision)
    with pytest.raises(UnsupportedOperation):
        await store.journal("plain")
    assert await store.get("plain") == 1


async def _turns_are_refused(store: Store) -> None:
    with pytest.raises(UnsupportedOperation):
        async with store.turn("plain"):
            pass


async def _reads_in_place_are_refused(store: Store) -> None:
    await store.bassoc("plain", b"1")
    with pytest.raises(UnsupportedOperation):
        await store.multi_decode(["plain"], lambda key, data: bytes(data))


DURABLE: Final = Promise("durable", lambda c: c.durable)
COMPARE_AND_SET: Final = Promise(
    "compare-and-set",
    lambda c: c.conditional is not ConditionalDomain.NONE,
    _conditions_are_refused,
)
ATOMIC_MULTI: Final = Promise("atomic multi-key", lambda c: c.atomic_multi)
JOURNAL: Final = Promise("journal", lambda c: c.journal, _journals_are_refused)
TURNS: Final = Promise("turns", lambda c: c.turns, _turns_are_refused)
RANGED_READS: Final = Promise("ranged reads", lambda c: c.ranged_reads)
IN_PLACE: Final = Promise("reads in place", lambda c: c.in_place, _reads_in_place_are_refused)

PROMISES: Final = (DURABLE, COMPARE_AND_SET, ATOMIC_MULTI, JOURNAL, TURNS, RANGED_READS, IN_PLACE)
"""In the order of the support matrix."""


def promised(
    *promises: Promise,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Mark a law as one of stores that make these promises; others are seen to refuse.

    Such a law takes the fixture ``store`` or ``handles``. What came of it goes to the record that
    the support matrix is made of.
    """

    def mark(law: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @wraps(law)
        async def held(self: Any, **fixtures: Any) -> None:
            handles: Sequence[Store] = fixtures.get("handles") or [fixtures["store"]]
            store = handles[0]
            for promise in promises:
                if promise.otherwise and not promise.made(store.capabilities):
                    self.record("konserve.promise", (promise.name, REFUSED))
                    await promise.otherwise(store)
                    return
            for promise in promises:
                made = promise.made(store.capabilities)
                self.record("konserve.promise", (promise.name, KEPT if made else REFUSED))
            await law(self, **fixtures)

        return held

    return mark
