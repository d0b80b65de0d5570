"""Order: when this writer may publish, where others write to the same branch.

Alone, it publishes at once and pays for nothing. Once it was overtaken it waits for its turn each
time, until it has found nobody else there for a while: it takes over what others have published,
and only then applies anything, so that little is done twice.

Where the store has turns it queues there. Elsewhere the head says whose turn it is (``Ring``): a
writer looks at it now and then, and goes ahead of those whose turn it is and who do not come.

A turn is a matter of order alone: that nothing is lost is the compare-and-set's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

import anyio
from anyio.lowlevel import checkpoint

from datahike_async.events import CONFLICT, NO_TURN
from datahike_async.transactor.branch import Branch

__all__ = ["Order"]

_CALM: Final = 8
"""After so many turns that were free at once, with nothing new to read, it waits no more."""
_PATIENCE: Final = 6
"""How many publications' time the one whose turn it is gets, before others go ahead."""
_LEAST_PATIENCE: Final = 0.05
_MOST_PATIENCE: Final = 0.8
_LONGEST_PAUSE: Final = 0.25
_GIVEN_WAY: Final = 0.1
_SPREAD: Final = 0.4
_FIRST_STREAK: Final = 4
_LONGEST_STREAK: Final = 32
_TICKS: Final = 3
"""Of the event loop, within which a caller that commits in a loop sends its next transaction."""
_HELD_UP: Final = 0.02
"""Seconds, after which these ticks have not come because callers hold the loop up."""
_WARY: Final = 16
"""For so many turns after that each is passed on with its first publication."""
_GAP: Final = 1.5
"""After a streak of publications a lone writer leaves a gap of so many publications' time.

Whoever else wants to write must read the head and write it, and so comes too late each time for one
who writes it again at once. Each streak is twice as long as the one before. The head says when the
gap comes.
"""


class Order:
    """The place of one writer among those of a branch.

    ``waits`` says that it waits for turns, ``has_turn`` that it has one at the store, which ends
    with its next publication once ``last`` is called, and with ``leave``. ``leaves_gaps`` says that
    it calls ``leave_gap`` before it publishes without a turn.

    ``conflicts`` and ``reruns`` count, for whoever measures: publications that somebody else was
    faster than, and transactions that were applied again.
    """

    def __init__(self, branch: Branch) -> None:
        self.waits = False
        self.leaves_gaps = branch.store.capabilities.remote
        self.conflicts = 0
        self.reruns = 0
        self._branch = branch
        self.has_turn = False
        self.last: Callable[[], None] = lambda: None
        self._turn = AsyncExitStack()
        # Where the store has turns, nobody asks when the head changed and how long anything took.
        self._notes = self.leaves_gaps or not branch.store.capabilities.turns
        self._wary = 0
        self._calm = 0
        self._since: int | None = None
        # When the head was last seen to change, and last looked at; and what a publication takes.
        self._changed = self._looked = branch.env.monotonic()
        self._front: UUID | None = None
        self._front_since = 0.0
        self._pace = 0.0
        self._published = 0
        self._streak = 0
        self._until_gap = _FIRST_STREAK
        self._share = 0.0
        # What was known of the head when it was last looked at, or published.
        self._seen = branch.committer.revision

    @property
    def share(self) -> float:
        """At which share of its usual size a flush begins here.

        Among several writers each has its own, or all would begin the same flush at once.
        """
        if not self.waits:
            return 1.0
        if not self._share:
            self._share = 1.0 - _SPREAD * self._branch.env.random()
        return self._share

    async def leave_gap(self) -> None:
        """Let a newcomer in between many publications in a row, at stores that have no turns."""
        if self._branch.env.monotonic() - self._looked > self._pace:
            self._streak, self._until_gap = 0, _FIRST_STREAK
        self._streak += 1
        if self._streak > self._until_gap:
            self._streak, self._until_gap = 0, min(2 * self._until_gap, _LONGEST_STREAK)
            await anyio.sleep(_GAP * self._pace)
        self._branch.committer.gap = self._until_gap - self._streak

    def overtaken(self, transactions: int, retries: int) -> None:
        """Note that a group has to be applied again, so many transactions, and what is left."""
        self.conflicts += 1
        self.reruns += transactions
        CONFLICT(branch=self._branch.name, transactions=transactions, retries=retries)

    def published(self, seconds: float) -> None:
        """Note that a group was published, which took so long."""
        if not self._notes:
            return
        self._note_head()
        # The first one may have tried out, too, whether the store keeps its promises.
        self._pace += (seconds - self._pace) * (0.2 if self._published > 1 else 1.0)
        self._published += 1
        self._since = self._front = None

    async def wait(self, *, refresh: bool = True) -> None:
        """Wait for a turn, which ``leave`` ends, and take over what others have published by then.

        Raises nothing but a cancellation: what is wrong with the store shows when it is written to.
        """
        branch = self._branch
        if self.has_turn or not branch.committer.conditional:
            return
        self.waits = True
        before = branch.committer.revision
        try:
            if branch.store.capabilities.turns:
                turn = branch.turn(looking=refresh)
                found = await self._turn.enter_async_context(turn)
                self.has_turn, self.last = True, found.last
                waited = found.waited or not found.held
                if refresh:
                    await branch.refresh(found.news)
            else:
                waited = refresh and await self._wait_in_ring()
        except Exception as error:
            NO_TURN(branch=branch.name, error=error)
            return
        alone = not waited and branch.committer.revision == before
        self._calm = self._calm + 1 if alone else 0
        if self._calm >= _CALM:
            self.waits = branch.committer.in_ring = False
            self._calm = 0
            # Whoever was passed by comes as a newcomer does.
            self._streak, self._until_gap = 0, _FIRST_STREAK

    def takes_two(self) -> bool:
        """Say whether the turn may be used twice; else the next publication is its last.

        Passing a turn on takes about as long as publishing does, so each is worth two groups.
        """
        if not self._wary:
            return True
        self._wary -= 1
        self.last()
        return False

    async def comes_more(self, queue: Sequence[object]) -> bool:
        """Say whether there is more to publish: what callers send at once when they are answered.

        The next in the queue of writers need not wait until everyone here is.
        """
        began = self._branch.env.monotonic()
        for _ in range(_TICKS):
            if queue:
                break
            await checkpoint()
        if self._branch.env.monotonic() - began > _HELD_UP:
            # Whoever is next has waited for all that a caller did with its answer.
            self._wary = _WARY
        return len(queue) > 0

    async def give_way(self) -> None:
        """Wait a little for whoever has the turn, where none can be had here."""
        if not self.has_turn:
            await anyio.sleep(_GIVEN_WAY * self._branch.env.random())

    async def leave(self) -> None:
        """Have no turn any more; does nothing where there is none."""
        self.has_turn = False
        await self._turn.aclose()

    async def _wait_in_ring(self) -> bool:
        """Wait until nobody is ahead who still comes; say whether anybody was."""
        committer, env = self._branch.committer, self._branch.env
        committer.in_ring, committer.gone = True, ()
        if committer.revision != self._seen:
            # It was read just now, by whoever found out that it had moved.
            self._note_head()
        elif env.monotonic() - self._looked > self._pace:
            await self._look()
        if self._since is None:
            self._since = committer.generation
        waited = await self._wait_for_gap()
        while ahead := committer.ring.ahead(committer.writer, self._since):
            waited = True
            if ahead[0] != self._front:
                # Since then it could have come.
                self._front, self._front_since = ahead[0], self._changed
            late = self._front_since + len(ahead) * self._each() - env.monotonic()
            if late <= 0 and self._looked > self._front_since:
                committer.gone = ahead
                break
            # Those who are further ahead take their time, too. The rest is jitter.
            pause = self._pace * max(len(ahead) - 1, 0.5) * (0.5 + env.random())
            await anyio.sleep(max(min(pause, late, _LONGEST_PAUSE), 0))
            await self._look()
        return waited

    def _each(self) -> float:
        return min(max(_PATIENCE * self._pace, _LEAST_PATIENCE), _MOST_PATIENCE)

    async def _wait_for_gap(self) -> bool:
        """Wait, where one writer publishes without a pause, for the gap that it leaves; say so."""
        committer = self._branch.committer
        waited, most, still = False, 1, 0
        while still < 2 and (left := committer.ring.gap(committer.writer, committer.generation)):
            waited = True
            before, pause = committer.revision, min(left - 1, most)
            await anyio.sleep(min(pause * self._pace, _LONGEST_PAUSE))
            await self._look()
            if committer.revision == before:
                # It may pause anyway: surely so, if it might have published twice.
                still += 2 if pause else 1
            else:
                most, still = 2 * most, 0
        return waited

    async def _look(self) -> None:
        began = self._branch.env.monotonic()
        await self._branch.refresh()
        self._looked = self._branch.env.monotonic()
        # Until something was published here: that takes about as long.
        self._pace = self._pace or self._looked - began
        if self._branch.committer.revision != self._seen:
            self._note_head()

    def _note_head(self) -> None:
        """Note that the head has changed since it was last seen, and that this is known by now."""
        self._changed = self._looked = self._branch.env.monotonic()
        self._seen = self._branch.committer.revision
