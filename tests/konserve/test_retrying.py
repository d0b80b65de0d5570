"""Retrying stores: what is sent again, how often, and what never."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import pytest

from datahike_async.konserve import (
    ABSENT,
    Blob,
    OutcomeUnknown,
    RevisionMismatch,
    StoreFull,
    StoreUnavailable,
)
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.konserve.wrappers.retrying import Patience, RetryingBlobStore
from tests.konserve.watched import NAME, memory

pytestmark = pytest.mark.anyio


class Scripted(PassingBlobStore):
    """Fails as it is told, call by call; None lets a call through."""

    def __init__(self, *errors: Callable[[], Exception] | None) -> None:
        super().__init__(memory())
        self.errors = list(errors)
        self.calls = 0

    def _next(self) -> None:
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        self._next()
        return await super().read(name, start, end)

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        self._next()
        return await super().write(name, data, expected)

    async def delete(self, name: str, expected: Any = None) -> bool:
        self._next()
        return await super().delete(name, expected)

    async def names(self) -> AsyncIterator[Sequence[str]]:
        listed = [name async for page in super().names() for name in page]
        for name in listed:
            self._next()
            yield [name]


def away() -> Exception:
    return StoreUnavailable("planted: out of reach")


def unknown() -> Exception:
    return OutcomeUnknown("planted: no answer")


FAST = Patience(attempts=4, first_pause=0.001)


def patient(*errors: Callable[[], Exception] | None) -> tuple[RetryingBlobStore, Scripted]:
    inner = Scripted(*errors)
    return RetryingBlobStore(inner, FAST), inner


async def test_what_passes_is_waited_out() -> None:
    store, inner = patient(away, unknown, away, None, away, None)
    await store.write(NAME, b"1")
    assert inner.calls == 4
    assert (await store.read(NAME)).data == b"1"
    inner.errors = [unknown, None]
    assert await store.delete(NAME)


async def test_a_condition_is_sent_again_only_if_it_was_surely_not_taken() -> None:
    store, inner = patient(away, away, None)
    revision = await store.write(NAME, b"1", ABSENT)
    assert inner.calls == 3
    inner.errors, inner.calls = [unknown], 0
    with pytest.raises(OutcomeUnknown):
        await store.write(NAME, b"2", revision)
    assert inner.calls == 1
    with pytest.raises(RevisionMismatch):
        await store.write(NAME, b"2", "stale")
    inner.errors, inner.calls = [unknown], 0
    with pytest.raises(OutcomeUnknown):
        await store.delete(NAME, revision)
    assert inner.calls == 1


async def test_it_gives_up_and_says_after_how_much() -> None:
    store, inner = patient(*[away] * 10)
    with pytest.raises(StoreUnavailable, match="4 attempts"):
        await store.read(NAME)
    assert inner.calls == 4
    inner.errors, inner.calls = [lambda: StoreFull("planted")] * 3, 0
    with pytest.raises(StoreFull):
        await store.write(NAME, b"1")
    assert inner.calls == 1


async def test_the_deadline_ends_it() -> None:
    inner = Scripted(*[away] * 100)
    store = RetryingBlobStore(inner, Patience(1000, 0.05, 0.02), chance=lambda: 1.0)
    with anyio.fail_after(5), pytest.raises(StoreUnavailable, match="attempts"):
        await store.read(NAME)
    assert inner.calls < 10


async def test_cancelling_ends_it() -> None:
    inner = Scripted(*[away] * 100)
    store = RetryingBlobStore(inner, Patience(1000, 1000, 10), chance=lambda: 1.0)
    with anyio.move_on_after(0.05) as scope:
        await store.read(NAME)
    assert scope.cancelled_caught
    assert inner.calls == 1


async def test_a_listing_goes_on_where_it_broke() -> None:
    store, inner = patient()
    for i in range(6):
        await store.write(f"{i:032x}", b"x")
    inner.errors = [None, None, away, None, None, None, away]
    listed = [name async for page in store.names() for name in page]
    assert sorted(listed) == [f"{i:032x}" for i in range(6)]
