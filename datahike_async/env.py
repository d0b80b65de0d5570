"""Sources of nondeterminism, injected: clock, ids, randomness. A seeded Env replays a run.

Nothing else of ours asks the system for the time or for random bytes.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

__all__ = ["SYSTEM", "Env"]


def _now() -> datetime:
    # Datahike's instants have milliseconds; finer ones would not survive an export to it.
    instant = datetime.now(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class Env:
    """``now`` gives aware UTC instants, ``monotonic`` seconds, ``new_uuid`` fresh random ids."""

    now: Callable[[], datetime] = _now
    monotonic: Callable[[], float] = time.monotonic
    new_uuid: Callable[[], uuid.UUID] = uuid.uuid4
    random: Callable[[], float] = field(default=random.random)

    @classmethod
    def seeded(cls, seed: int, start: datetime | None = None) -> Env:
        """Return an Env that repeats itself: the clock ticks a millisecond a look."""
        rng = random.Random(seed)
        ticks = [start or datetime(2026, 1, 1, tzinfo=UTC)]
        seconds = [0.0]

        def now() -> datetime:
            ticks[0] += timedelta(milliseconds=1)
            return ticks[0]

        def monotonic() -> float:
            seconds[0] += 0.001
            return seconds[0]

        def new_uuid() -> uuid.UUID:
            return uuid.UUID(int=rng.getrandbits(128), version=4)

        return cls(now, monotonic, new_uuid, rng.random)


SYSTEM = Env()
