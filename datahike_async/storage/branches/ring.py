"""Ring: the writers that compete for a branch, in a head, and whose turn is next.

Where a store has no turns of its own, the head tells each writer when the others had theirs. Next
is who has waited longest: since its last publication, or, for one that is not in the ring, since it
began to wait. Whoever publishes leaves out those who were ahead of it and did not come.

A writer that knows of no other says in its place after which generation it leaves a gap, in which
newcomers may publish: before that they would come too late each time.

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
_COMING: Final = 32
"""Who has not published for so many generations no longer counts as another writer."""


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

    def alone(self, writer: UUID, generation: int, gap: int) -> Ring:
        """Return the ring once a writer has published that knows of no other.

        It says that there is a gap after so many further generations, unless others are there.
        """
        # Who has said so of a gap is a writer that nobody was beside.
        others = [last for other, last in self.members if other != writer]
        if any(generation - _COMING < last < generation for last in others):
            return self.after(writer, generation, ()) if writer in self else self
        return Ring(((writer, generation + gap),))

    def gap(self, writer: UUID, generation: int) -> int:
        """Return after how many generations the one writer beside this one leaves a gap, or 0."""
        if len(self.members) != 1 or writer in self:
            return 0
        return max(self.members[0][1] - generation, 0)

    def to_data(self) -> list[list[Any]]:
        """Return it as plain data."""
        return [[writer, last] for writer, last in self.members]

    @classmethod
    def from_data(cls, data: Sequence[Sequence[Any]]) -> Ring:
        """Return it from plain data. Raises what that is not."""
        return cls(tuple((UUID(int=writer.int), int(last)) for writer, last in data))


EMPTY: Final = Ring()
