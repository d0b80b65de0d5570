"""Laws of turns: writers of one key queue, and whoever has the turn is left alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

from datahike_async.konserve.blob import ABSENT, UNCHANGED, Turn
from datahike_async.konserve.errors import OutOfTurn
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws, latest
from datahike_async.konserve.testing.promises import TURNS, promised

__all__ = ["TurnLaws"]

_SOON = 5
"""Seconds within which a turn comes that nobody else has; far less than stores wait for one."""


class TurnLaws(Laws):
    """Two handles of a store are two writers."""

    @promised(TURNS)
    async def test_two_who_queue_have_turns_one_after_the_other(
        self, store: Store, other: Store
    ) -> None:
        turns: list[int] = []
        inside = 0

        async def writer(number: int, store: Store) -> None:
            nonlocal inside
            for _ in range(6):
                async with store.turn("k") as turn:
                    assert turn.held
                    inside += 1
                    assert inside == 1
                    turns.append(number)
                    # Long enough for the other to queue up.
                    await anyio.sleep(0.02)
                    inside -= 1

        with anyio.fail_after(2 * _SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(writer, 0, store)
                group.start_soon(writer, 1, other)
        # Whoever has had a turn is behind the one that waits.
        twice = sum(a == b for a, b in pairwise(turns[1:11]))
        assert twice <= 1, turns

    @promised(TURNS)
    async def test_who_waited_for_a_turn_is_told_so(self, store: Store, other: Store) -> None:
        waited: list[bool] = []

        async def second() -> None:
            async with other.turn("k") as turn:
                waited.append(turn.waited)

        async with anyio.create_task_group() as group, store.turn("k") as turn:
            assert not turn.waited
            group.start_soon(second)
            await anyio.sleep(0.05)
            assert not waited
        assert waited == [True]

    @promised(TURNS)
    async def test_conditional_writes_to_a_key_whose_turn_another_has_are_refused(
        self, store: Store, other: Store
    ) -> None:
        first = await store.assoc("k", 1)
        beside = await store.assoc("beside", 1)
        async with store.turn("k"):
            with pytest.raises(OutOfTurn):
                await other.assoc("k", 2, expected_revision=first)
            with pytest.raises(OutOfTurn):
                await other.dissoc("k", expected_revision=first)
            assert await latest(other, "k") == 1
            # All else goes on, and so does the one who has the turn.
            await other.assoc("beside", 2, expected_revision=beside)
            second = await store.assoc("k", 3, expected_revision=first)
        await other.assoc("k", 4, expected_revision=second)
        assert await latest(store, "k") == 4

    @promised(TURNS)
    async def test_a_turn_ends_with_its_block_however_that_ends(
        self, store: Store, other: Store
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.turn("k"):
                raise ZeroDivisionError
        with anyio.move_on_after(0.02):
            async with store.turn("k"):
                await anyio.sleep_forever()
        with anyio.fail_after(_SOON):
            async with other.turn("k") as turn:
                assert turn.held

    @promised(TURNS)
    async def test_news_that_come_with_a_turn_are_those_of_its_beginning(
        self, store: Store, other: Store
    ) -> None:
        first = await store.assoc("k", 1)

        async def read(turn: Turn, since: str) -> Any:
            if other.capabilities.journal:
                return await other.journal("k", since=since, news=turn.news)
            return await other.get("k", with_revision=True, unless=since, news=turn.news)

        async def second() -> None:
            async with other.turn("k", since=first) as turn:
                found = await read(turn, first)
                assert (found[0], found[-1]) == (2, revision)

        async with anyio.create_task_group() as group, store.turn("k"):
            group.start_soon(second)
            await anyio.sleep(0.05)
            revision = await store.assoc("k", 2, expected_revision=first)
        async with other.turn("k", since=revision) as turn:
            assert await read(turn, revision) in (UNCHANGED, (UNCHANGED, revision))
        await store.dissoc("k")
        async with other.turn("k", since=revision) as turn:
            assert await read(turn, revision) in (None, (None, ABSENT))

    @promised(TURNS)
    async def test_who_gives_up_waiting_for_a_turn_holds_up_nobody(
        self, store: Store, other: Store
    ) -> None:
        async with store.turn("k"):
            with anyio.move_on_after(0.02) as scope:
                async with other.turn("k"):
                    raise AssertionError("two have the turn")
            assert scope.cancelled_caught
        with anyio.fail_after(_SOON):
            for again in (store, other, store):
                async with again.turn("k") as turn:
                    assert turn.held
