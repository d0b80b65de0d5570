"""Order: when this writer may publish, where others write to the same branch.

Alone, it publishes at once and pays for nothing. Once it was overtaken it queues, until it has
found nobody else there for a while: it waits for its turn first, takes over what others have
published, and only then applies anything, so that little is done twice.

Turns are a matter of order alone: that nothing is lost is the compare-and-set's.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from datahike_async.events import CONFLICT, NO_TURN
from datahike_async.transactor.branch import Branch

__all__ = ["Order"]

_CALM: Final = 8
"""After so many turns that were free at once, with nothing new to read, it queues no more."""


class Order:
    """The place of one writer among those of a branch. ``queues`` says that it waits for turns.

    ``conflicts`` and ``reruns`` count, for whoever measures: publications that somebody else was
    faster than, and transactions that were applied again.
    """

    def __init__(self, branch: Branch) -> None:
        self.queues = False
        self.conflicts = 0
        self.reruns = 0
        self._branch = branch
        self._has_turn = False
        self._calm = 0

    def overtaken(self, transactions: int, retries: int) -> None:
        """Note that a group has to be applied again, so many transactions, and what is left."""
        self.conflicts += 1
        self.reruns += transactions
        CONFLICT(branch=self._branch.name, transactions=transactions, retries=retries)

    async def queue(self, turn: AsyncExitStack, *, refresh: bool = True) -> None:
        """Wait for a turn, which ``turn`` ends, and take over what others have published by then.

        Raises nothing but a cancellation: what is wrong with the store shows when it is written to.
        """
        branch = self._branch
        if self._has_turn or not branch.store.capabilities.turns:
            return
        self.queues = True
        before = branch.committer.revision
        try:
            found = await turn.enter_async_context(branch.turn())
            turn.callback(self._leave)
            self._has_turn = True
            if refresh:
                await branch.refresh()
        except Exception as error:
            NO_TURN(branch=branch.name, error=error)
            return
        alone = found.held and not found.waited and branch.committer.revision == before
        self._calm = self._calm + 1 if alone else 0
        if self._calm >= _CALM:
            self.queues = False
            self._calm = 0

    def _leave(self) -> None:
        self._has_turn = False
