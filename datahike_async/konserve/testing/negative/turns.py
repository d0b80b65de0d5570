"""Stores whose turns keep nobody out, are never given up, or come in no order."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.blob import (
    Capabilities,
    ConditionalDomain,
    Expected,
    Revision,
    Turn,
)
from datahike_async.konserve.testing.negative.planting import found_by
from datahike_async.konserve.testing.sound import Queueing

__all__ = [
    "ForgetsToLeave",
    "KeepsItsTurn",
    "LetsOthersWrite",
    "LocksEverything",
    "PretendsTurns",
    "SaysNothingOfWaiting",
    "StaysInTheQueue",
    "TellsOldNews",
]


@found_by("test_two_who_queue_have_turns_one_after_the_other")
class PretendsTurns(MemoryBlobStore):
    """Whoever asks has a turn at once."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise too much."""
        return Capabilities(conditional=ConditionalDomain.PROCESS, atomic_multi=True, turns=True)

    @asynccontextmanager
    async def turn(self, name: str, since: Revision | None = None) -> AsyncIterator[Turn]:
        """Keep nobody out."""
        yield Turn(True, False)


@found_by("test_conditional_writes_to_a_key_whose_turn_another_has_are_refused")
class LetsOthersWrite(Queueing):
    """Its turns are heeded by those who queue, and by nobody else."""

    def _check(self, name: str, expected: Expected) -> None:
        MemoryBlobStore._check(self, name, expected)


@found_by("test_conditional_writes_to_a_key_whose_turn_another_has_are_refused")
class LocksEverything(Queueing):
    """A turn is a turn of every key."""

    def _check(self, name: str, expected: Expected) -> None:
        for taken in self._line().holders:
            super()._check(taken, expected)
        super()._check(name, expected)


@found_by("test_a_turn_ends_with_its_block_however_that_ends")
class ForgetsToLeave(Queueing):
    """A block that raises keeps its turn."""

    @asynccontextmanager
    async def turn(self, name: str, since: Revision | None = None) -> AsyncIterator[Turn]:
        """Leave at the end alone."""
        yield Turn(True, await self._wait(name))
        self._leave(name)


@found_by("test_two_who_queue_have_turns_one_after_the_other")
class KeepsItsTurn(Queueing):
    """Who has just had a turn is before all who wait."""

    async def _wait(self, name: str) -> bool:
        line = self._line()
        waited = False
        while name in line.holders:
            waited = True
            # As often as its pauses are longer than those of others it comes too late.
            await anyio.sleep(0.01 if line.last is self else 0.03)
        line.holders[name] = line.last = self
        return waited


@found_by("test_who_waited_for_a_turn_is_told_so")
class SaysNothingOfWaiting(Queueing):
    """Nobody learns whether there are others."""

    async def _wait(self, name: str) -> bool:
        await super()._wait(name)
        return False


@found_by("test_news_that_come_with_a_turn_are_those_of_its_beginning")
class TellsOldNews(Queueing):
    """What is new is read before the turn has come."""

    @asynccontextmanager
    async def turn(self, name: str, since: Revision | None = None) -> AsyncIterator[Turn]:
        """Look, and then wait."""
        news = None if since is None else self._news(name, since)
        async with super().turn(name) as turn:
            yield turn._replace(news=news)


@found_by("test_who_gives_up_waiting_for_a_turn_holds_up_nobody")
class StaysInTheQueue(Queueing):
    """Who was cancelled while it waited gets the turn when it comes, for ever."""

    async def _wait(self, name: str) -> bool:
        line = self._line()
        waited = name in line.holders
        if waited:
            mine = anyio.Event()
            line.waiting.setdefault(name, deque()).append(mine)
            await mine.wait()
        line.holders[name] = line.last = self
        return waited
