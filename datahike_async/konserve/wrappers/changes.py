"""Changes: whether what was read may still be kept, though others wrote while it was being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["Changes", "Reading"]


class Reading:
    """A read under way. ``fresh`` until someone writes the name."""

    __slots__ = ("fresh",)

    def __init__(self) -> None:
        self.fresh = True


class Changes:
    """The reads under way of each name. On one event loop, so nothing here needs a lock."""

    def __init__(self) -> None:
        self._readings: dict[str, set[Reading]] = {}

    @contextmanager
    def reading(self, name: str) -> Iterator[Reading]:
        """Enter before asking the store behind; keep the answer only while it is ``fresh``."""
        mine = Reading()
        self._readings.setdefault(name, set()).add(mine)
        try:
            yield mine
        finally:
            left = self._readings.get(name, set())
            left.discard(mine)
            if not left:
                self._readings.pop(name, None)

    @contextmanager
    def readings(self, names: Iterable[str]) -> Iterator[dict[str, Reading]]:
        """Enter for several names at once."""
        with ExitStack() as stack:
            yield {name: stack.enter_context(self.reading(name)) for name in names}

    def changed(self, names: Iterable[str]) -> None:
        """Say, before and after each write, that what is being read may be old."""
        for name in names:
            for reading in self._readings.get(name, ()):
                reading.fresh = False
