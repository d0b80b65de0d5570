"""Laws of calls that are given up: a write happens whole or not at all, and others go on.

Each call is cancelled after so many turns of the event loop: before it began, somewhere in it, and
perhaps after it was done. One that returned has happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel

from datahike_async.konserve.store import Assoc, Store
from datahike_async.konserve.testing.laws.common import Laws, latest
from datahike_async.konserve.testing.promises import COMPARE_AND_SET, JOURNAL, promised

__all__ = ["CancellationLaws"]

TURNS: Final = (0, 1, 2, 3, 5, 8, 13, 21)
PATIENCE: Final = 30
"""Seconds after which a call counts as stuck."""


async def _given_up(call: Callable[[], Awaitable[object]], turns: int) -> bool:
    """Make a call, cancel it after so many turns of the loop, and say whether it returned."""
    returned = False

    async def run() -> None:
        nonlocal returned
        await call()
        returned = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return returned


def _long(n: int) -> bytes:
    return bytes([n]) * 50_000


class CancellationLaws(Laws):
    """Nobody is harmed by who gives up."""

    async def test_a_write_that_was_cancelled_happened_whole_or_not_at_all(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            key = ("write", turns)
            await store.bassoc(key, _long(1))
            returned = await _given_up(partial(store.bassoc, key, _long(2)), turns)
            found = await store.bget(key)
            assert found == _long(2) if returned else found in (_long(1), _long(2))
            await self._is_usable(store)

    async def test_a_creation_that_was_cancelled_happened_whole_or_not_at_all(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            key = ("create", turns)
            returned = await _given_up(partial(store.bassoc, key, _long(2)), turns)
            found = await store.bget(key)
            assert found == _long(2) if returned else found in (None, _long(2))
            await self._is_usable(store)

    async def test_a_delete_that_was_cancelled_happened_or_did_not(self, store: Store) -> None:
        for turns in TURNS:
            key = ("delete", turns)
            await store.bassoc(key, _long(1))
            returned = await _given_up(partial(store.dissoc, key), turns)
            found = await store.bget(key)
            assert found is None if returned else found in (None, _long(1))
            await self._is_usable(store)

    @promised(COMPARE_AND_SET)
    async def test_a_conditional_write_that_was_cancelled_moved_the_revision_or_did_not(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            key = ("compare-and-set", turns)
            before = await store.assoc(key, 1)
            await _given_up(partial(store.assoc, key, 2, expected_revision=before), turns)
            value, revision = await store.get(key, with_revision=True)
            assert value == (1 if revision == before else 2)
            await self._is_usable(store)

    async def test_a_write_of_many_that_was_cancelled_left_a_prefix(self, store: Store) -> None:
        """Which is all or nothing where that is promised."""
        for turns in TURNS:
            keys = [("many", turns, n) for n in range(5)]
            items = [Assoc(key, _long(n), binary=True) for n, key in enumerate(keys)]
            returned = await _given_up(partial(store.multi_assoc, items), turns)
            there = []
            for n, key in enumerate(keys):
                found = await store.bget(key)
                assert found in (None, _long(n))
                if found is not None:
                    there.append(key)
            assert there == keys[: len(there)]
            if returned or (store.capabilities.atomic_multi and there):
                assert there == keys
            await self._is_usable(store)

    async def test_an_update_that_was_cancelled_leaves_the_key_to_others(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            key = ("update", turns)
            await store.assoc(key, 0)
            returned = await _given_up(partial(store.update, key, lambda n: n + 1), turns)
            with anyio.fail_after(PATIENCE):
                before, after = await store.update(key, lambda n: n + 10)
            assert before == 1 if returned else before in (0, 1)
            assert await store.get(key) == after == before + 10

    async def test_an_append_that_was_cancelled_happened_once_or_not_at_all(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            log = ("log", turns)
            await store.append(log, 0)
            returned = await _given_up(partial(store.append, log, 1), turns)
            with anyio.fail_after(PATIENCE):
                await store.append(log, 2)
            found = await store.log(log)
            assert found == [0, 1, 2] if returned else found in ([0, 2], [0, 1, 2])

    @promised(JOURNAL)
    async def test_a_record_whose_append_was_cancelled_is_there_whole_or_not_at_all(
        self, store: Store
    ) -> None:
        for turns in TURNS:
            key = ("journal", turns)
            before = await store.assoc(key, 0)
            returned = await _given_up(
                partial(store.journal_append, key, _long(1), expected_revision=before),
                turns,
            )
            found: Any = await store.journal(key)
            _, records, revision = found
            assert records in ([], [_long(1)])
            assert (revision == before) == (records == [])
            assert records or not returned
            last = await store.journal_append(key, b"2", expected_revision=revision)
            assert await store.journal(key) == (0, [*records, b"2"], last)

    async def test_a_read_that_was_cancelled_harms_nobody(self, store: Store) -> None:
        await store.bassoc("k", _long(1))
        for turns in TURNS:
            found: list[object] = []

            async def beside(found: list[object] = found) -> None:
                found.append(await store.bget("k"))
                found.append(await latest(store, "k"))

            async with anyio.create_task_group() as group:
                gone = anyio.CancelScope()

                async def leave(gone: anyio.CancelScope = gone) -> None:
                    with gone:
                        await store.bget("k")
                        await latest(store, "k")

                group.start_soon(leave)
                # Let it be the first, whom others may follow.
                await anyio.lowlevel.checkpoint()
                group.start_soon(beside)
                group.start_soon(beside)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                gone.cancel()
            assert found == [_long(1)] * 4
            await self._is_usable(store)

    async def _is_usable(self, store: Store) -> None:
        with anyio.fail_after(PATIENCE):
            revision = await store.assoc("usable", 1)
            assert await store.get("usable", with_revision=True) == (1, revision)
