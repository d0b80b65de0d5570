"""What the built-in functions of one clause are handed: chance, and time for patterns.

A function that needs one of them is :class:`Supplied`. The engine hands it one :class:`Supply` for
all rows of a clause; called alone, it has a fresh one every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

from datahike_async.errors import QueryCanceled
from datahike_async.query.limits.budget import Meter

__all__ = ["CHANCE", "PATTERN_SECONDS", "Supplied", "Supply", "TooSlow"]

PATTERN_SECONDS: Final = 1.0
"""How long the patterns of one clause may take, over all rows together; 10 µs a row come on top."""

_TURN: Final = 0.01
"""Seconds that patterns may take on the event loop at a time; a worker thread does the rest."""

_ROW: Final = 1e-5

CHANCE: Final = Random()
"""Where random numbers come from, where a query is handed no generator of its own."""


class TooSlow(Exception):
    """The patterns have had their turn on the event loop."""


class Supply:
    """Chance, and what is left of the time for patterns."""

    __slots__ = ("_left", "_limit", "_meter", "_turn", "_turns", "random")

    def __init__(
        self,
        random: Random = CHANCE,
        *,
        seconds: float = PATTERN_SECONDS,
        turns: bool = False,
        meter: Meter | None = None,
    ) -> None:
        """Take what patterns may use; the time of a ``meter`` bounds it too.

        With ``turns`` patterns that take long raise TooSlow, to be tried ``elsewhere``."""
        self.random = random
        self._limit = self._left = seconds
        self._turns = turns
        self._meter = meter
        self._turn: float | None = None
        self.here()

    def more(self, rows: int) -> None:
        """Add the little that plain matching takes for each of more rows."""
        self._left += rows * _ROW

    def here(self) -> None:
        """Take a turn on the event loop, if this is for one."""
        self._turn = _TURN if self._turns else None

    def elsewhere(self) -> None:
        """Use all the time that is left: this is no longer the event loop."""
        self._turn = None

    def spent(self, seconds: float) -> None:
        """Count time that patterns took; raise QueryCanceled where more is gone than there was."""
        self._left -= seconds
        if self._left <= 0:
            raise self._over(None)

    def run(self, call: Callable[..., Any]) -> Any:
        """Return ``call(timeout=seconds, concurrent=…)``, and count the time that it took.

        Raises QueryCanceled where the time is over.
        """
        turn = self._turn
        left = self._left if turn is None else min(turn, self._left)
        if self._meter is not None and self._meter.ends is not None:
            self._meter.time()
            left = min(left, max(self._meter.ends - time.monotonic(), 1e-4))
        if left <= 0:
            raise self._over(turn)
        start = time.perf_counter()
        try:
            return call(timeout=left, concurrent=turn is None)
        except TimeoutError:
            self._left -= left
            if self._meter is not None:
                self._meter.time()
            raise self._over(turn) from None
        except MemoryError:
            raise ValueError("the pattern needs too much memory on this text") from None
        finally:
            took = time.perf_counter() - start
            if turn is None:
                self._left -= took
            else:
                self._turn = turn - took

    def _over(self, turn: float | None) -> Exception:
        if turn is not None and self._left > 0:
            return TooSlow()
        return QueryCanceled(
            f"The query was stopped: the patterns of one clause took longer than their budget of "
            f"{self._limit:g} s over all rows. Write a pattern that repeats nothing that is "
            "itself repeated.",
            budget="patterns",
            limit=self._limit,
        )


class Supplied:
    """A function that takes a Supply before its arguments."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function with a fresh supply."""
        return self._function(Supply(), *args)

    def handed(self, supply: Supply) -> Callable[..., Any]:
        """Return the function as it is with a supply."""
        return partial(self._function, supply)
