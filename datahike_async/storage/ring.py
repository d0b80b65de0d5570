"""Ring: the writers that compete for a branch, in a head, and whose turn is next.

Where a store has no turns of its own, the head tells each writer when the others had theirs. Next
is who has waited longest: since its last publication, or, for one that is not in the ring, since it
began to wait. Whoever publishes leaves out those who were ahead of it and did not come.

It is advice: what happens is decided by compare-and-set alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

__all__ = ["EMPTY", "Ring"]

_MEMBERS: Final = 16
_OLDEST: Final = 256
"""Who has not published for so many generations is no longer in it."""


class Ring(NamedTuple):
    """Writers, each with the generation that it published last, the oldest first."""

    members: tuple[tuple[UUID, int], ...] = ()

    def __contains__(self, writer: object) -> bool:
        return any(writer == member for member, _ in self.members)

    def ahead(self, writer: UUID, since: int) -> list[UUID]:
        """Return who is before a writer that has waited since a generation, if not for longer."""
        since = min(since, dict(self.members).get(writer, since))
        return [other for other, last in self.members if last < since and other != writer]

    def after(self, writer: UUID, generation: int, gone: Collection[UUID]) -> Ring:
        """Return the ring once a writer has published, without those who did not come."""
        kept = [
            (other, last)
            for other, last in self.members
            if other != writer and other not in gone and last > generation - _OLDEST
        ]
        return Ring((*kept[-_MEMBERS + 1 :], (writer, generation)))

    def to_data(self) -> list[list[Any]]:
        """Return it as plain data."""
        return [[writer, last] for writer, last in self.members]

    @classmethod
    def from_data(cls, data: Sequence[Sequence[Any]]) -> Ring:
        """Return it from plain data. Raises what that is not."""
        return cls(tuple((UUID(int=writer.int), int(last)) for writer, last in data))


EMPTY: Final = Ring()
