"""The graph of commits: which commit was made on which, and where two lines of them part.

A commit's transaction is newer than those of all that it was made on, so whoever goes from the
newest back meets a commit after all that were made on it. One alone may be older than its parents:
that of a branch which was made to be a value. Of each flush the log is read once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from heapq import heappop, heappush
from typing import Final, NamedTuple
from uuid import UUID

from datahike_async.pausing import pause
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.log.records import tx_of_commit

__all__ = ["Graph", "Parting"]

_BETWEEN: Final = 256
_LEFT: Final = 1
_RIGHT: Final = 2
_OLD: Final = 4
_LINES: Final = (8, 16)


class Parting(NamedTuple):
    """Where two commits part: their newest common ancestors, the newest first.

    ``shared`` is the newest transaction that is the same one on both branches, 0 where that is not
    known: it takes an ancestor that neither side has by a merge.
    """

    bases: tuple[UUID, ...]
    shared: int


class Graph:
    """The parents of commits, as far as they were asked for.

    ``find`` returns where a commit is in the past of some branch; where that is nowhere the graph
    ends.
    """

    def __init__(self, find: Callable[[UUID], Awaitable[Place | None]]) -> None:
        self.find = find
        self._parents: dict[UUID, tuple[UUID, ...]] = {}
        # Commits that need not hold what their parents do.
        self._forced: set[UUID] = set()

    def learn(self, place: Place) -> None:
        """Take over what is said of the commits at a place."""
        before = place.base.commit.id
        self._parents[before] = place.base.commit.parents
        if not place.base.back and place.base.commit.parents:
            self._forced.add(before)
        for record in place.records:
            more = record.parents
            for commit in record.commits:
                self._parents[commit] = (before, *more)
                before, more = commit, ()

    async def parents(self, commit: UUID) -> tuple[UUID, ...]:
        """Return the commits that one was made on; the first is the one before it on its branch."""
        found = self._parents.get(commit)
        if found is None:
            place = await self.find(commit)
            if place is not None:
                self.learn(place)
            found = self._parents.setdefault(commit, ())
        return found

    async def parting(self, left: UUID, right: UUID) -> Parting:
        """Return where two commits part.

        Reads no commit that is older than the oldest of their newest common ancestors, but for what
        shares a flush with it.
        """
        marks: dict[UUID, int] = {}
        queued: set[UUID] = set()
        waiting: list[tuple[int, int, UUID]] = []
        fresh = 0

        def mark(commit: UUID, flags: int) -> None:
            nonlocal fresh
            before = marks.get(commit, 0)
            after = marks[commit] = before | flags
            if commit in queued:
                fresh -= bool(after & _OLD) - bool(before & _OLD)
            elif after != before:
                queued.add(commit)
                heappush(waiting, (-tx_of_commit(commit), commit.int, commit))
                fresh += not after & _OLD

        mark(left, _LEFT | _LINES[0])
        mark(right, _RIGHT | _LINES[1])
        bases: dict[UUID, None] = {}
        met = 0
        while fresh or (len(bases) > 1 and waiting and -waiting[0][0] >= _oldest(bases)):
            met += 1
            if not met % _BETWEEN:
                await pause()
            *_, commit = heappop(waiting)
            queued.discard(commit)
            flags = marks[commit]
            fresh -= not flags & _OLD
            if flags & _LEFT and flags & _RIGHT:
                if not flags & _OLD:
                    bases[commit] = None
                flags |= _OLD
            parents = await self.parents(commit)
            first = commit not in self._forced
            for parent in parents:
                mark(parent, flags if first else flags & ~sum(_LINES))
                first = False
        # One that is in the past of another was met before it: only where a branch was forced.
        newest = [one for one in bases if not marks[one] & _OLD]
        alone = len(newest) == 1 and all(marks[newest[0]] & line for line in _LINES)
        return Parting(tuple(newest), tx_of_commit(newest[0]) if alone else 0)

    async def lacking(self, left: UUID, right: UUID) -> list[UUID]:
        """Return the commits of a branch, which ``left`` is the newest of, that ``right`` lacks.

        They come newest first; what came in by merges is not among them.
        """
        past, waiting = {right}, [(-tx_of_commit(right), right)]
        out: list[UUID] = []
        while True:
            while waiting and -waiting[0][0] >= tx_of_commit(left):
                _, commit = heappop(waiting)
                for parent in await self.parents(commit):
                    if parent not in past:
                        past.add(parent)
                        heappush(waiting, (-tx_of_commit(parent), parent))
                if not len(past) % _BETWEEN:
                    await pause()
            if left in past:
                return out
            out.append(left)
            parents = await self.parents(left)
            if not parents:
                return out
            left = parents[0]


def _oldest(commits: Iterable[UUID]) -> int:
    """Return the transaction of the oldest of commits."""
    return min(map(tx_of_commit, commits))
