"""Laws of races: of many who try one wins, nothing is lost, and nobody sees half a value."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from datahike_async.konserve.blob import ABSENT, Revision
from datahike_async.konserve.store import Assoc, Store
from datahike_async.konserve.testing.laws.common import Laws, latest, race, together
from datahike_async.konserve.testing.promises import COMPARE_AND_SET, JOURNAL, promised

__all__ = ["ConcurrencyLaws"]

RACERS: Final = 16
ROUNDS: Final = 3
NAME: Final = "ab" * 16


def _pattern(n: int) -> bytes:
    """Return bytes that tell their number and length: half of one is no other."""
    return bytes([n]) * (1 + (n * 7919) % 20_000)


class ConcurrencyLaws(Laws):
    """Calls at once, on one handle and on two.

    The reach of compare-and-set is at least the process, so two handles of one process share it.
    """

    @promised(COMPARE_AND_SET)
    async def test_of_sixteen_who_create_one_wins(self, handles: list[Store]) -> None:
        for key in range(ROUNDS):
            calls = [
                partial(handles[n % len(handles)].assoc, key, n, expected_revision=ABSENT)
                for n in range(RACERS)
            ]
            winner, revision = await race(calls)
            for store in handles:
                assert await store.get(key, with_revision=True) == (winner, revision)

    @promised(COMPARE_AND_SET)
    async def test_of_sixteen_who_replace_one_revision_one_wins(self, handles: list[Store]) -> None:
        revision = await handles[0].assoc("k", "first")
        for _ in range(ROUNDS):
            calls = [
                partial(handles[n % len(handles)].assoc, "k", n, expected_revision=revision)
                for n in range(RACERS)
            ]
            winner, revision = await race(calls)
            for store in handles:
                assert await store.get("k", with_revision=True) == (winner, revision)

    @promised(COMPARE_AND_SET)
    async def test_of_deletes_and_writes_at_one_revision_one_wins(
        self, handles: list[Store]
    ) -> None:
        for key in range(ROUNDS):
            revision = await handles[0].assoc(key, "first")

            def call(n: int, key: int = key, seen: Revision = revision) -> Awaitable[object]:
                store = handles[n % len(handles)]
                if n % 4 < 2:
                    return store.dissoc(key, expected_revision=seen)
                return store.assoc(key, n, expected_revision=seen)

            winner, _ = await race([partial(call, n) for n in range(RACERS)])
            left = None if winner % 4 < 2 else winner
            for store in handles:
                assert await latest(store, key) == left

    @promised(COMPARE_AND_SET)
    async def test_of_sixteen_multi_writes_under_one_condition_one_wins(
        self, handles: list[Store]
    ) -> None:
        revision = await handles[0].assoc("head", "first")
        calls = [
            partial(
                handles[n % len(handles)].multi_assoc,
                [("node", n), Assoc("head", n, expected_revision=revision), ("tail", n)],
            )
            for n in range(RACERS)
        ]
        winner, _ = await race(calls)
        for store in handles:
            assert await latest(store, "head") == winner
            assert await latest(store, "tail") == winner

    @promised(COMPARE_AND_SET)
    async def test_no_update_is_lost(self, handles: list[Store]) -> None:
        await self._count_to_forty(handles)

    async def test_no_update_is_lost_within_one_handle(self, store: Store) -> None:
        """Which needs no compare-and-set: a handle has locks."""
        await self._count_to_forty([store])

    async def _count_to_forty(self, handles: list[Store]) -> None:
        async def add(store: Store) -> None:
            for _ in range(5):
                await store.update_in(["n", "count"], lambda x: (x or 0) + 1)

        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(add, handles[n % len(handles)])
        for store in handles:
            assert await latest(store, "n") == {"count": 40}

    @promised(COMPARE_AND_SET)
    async def test_no_element_of_a_log_is_lost(self, handles: list[Store]) -> None:
        await together([partial(handles[n % len(handles)].append, "l", n) for n in range(12)])
        for store in handles:
            assert sorted(await store.log("l")) == list(range(12))

    async def test_no_element_of_a_log_is_lost_within_one_handle(self, store: Store) -> None:
        await together([partial(store.append, "l", n) for n in range(12)])
        assert sorted(await store.log("l")) == list(range(12))

    @promised(JOURNAL)
    async def test_of_sixteen_who_append_at_one_revision_one_wins(
        self, handles: list[Store]
    ) -> None:
        revision = await handles[0].assoc("h", 0)
        records: list[bytes] = []
        for _ in range(ROUNDS):
            calls = [
                partial(
                    handles[n % len(handles)].journal_append,
                    "h",
                    _pattern(n + 1),
                    expected_revision=revision,
                )
                for n in range(RACERS)
            ]
            winner, revision = await race(calls)
            records.append(_pattern(winner + 1))
            for store in handles:
                assert await store.journal("h") == (0, records, revision)

    async def test_a_reader_beside_a_writer_never_sees_a_torn_value(
        self, handles: list[Store]
    ) -> None:
        """And the revision it is told is that of the bytes it gets."""
        writer, reader = handles[0].blobs, handles[-1].blobs
        written = {await writer.write(NAME, _pattern(0)): 0}
        seen: list[tuple[Revision, bytes]] = []
        ranges: list[bytes] = []
        done = False

        async def read() -> None:
            while not done:
                for found in (
                    await reader.read(NAME),
                    await reader.read_latest(NAME),
                    (await reader.read_many([NAME, "cd" * 16]))[NAME],
                ):
                    assert isinstance(found, tuple)
                    seen.append((found.revision, found.data))
                part = await reader.read(NAME, 0, 10_000)
                assert part is not None
                ranges.append(part.data)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(read)
            # Each takes long on a store behind a network, and is read more often meanwhile.
            for n in range(1, 9 if handles[0].capabilities.remote else 25):
                written[await writer.write(NAME, _pattern(n))] = n
                await anyio.lowlevel.checkpoint()
            done = True
        assert seen
        for revision, data in seen:
            assert data == _pattern(written[revision])
        assert {bytes(part) for part in ranges} <= {_pattern(n)[:10_000] for n in range(25)}
