"""What a simulated database has to say: commits as plain sets of facts, and what must be there.

A fact is (key, attribute, value): entities are named by their unique key, never by an id, and a
reference is the key of what it leads to. The model learns of a commit when somebody is told that it
is there; one of which nobody was told is known by the number of its intent, which it carries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

__all__ = ["Branch", "Commit", "Facts", "Intent", "Model", "Wrong", "added", "merged", "without"]

Facts = frozenset[tuple[int, str, int]]
ONE = frozenset({"v", "r"})


class Wrong(AssertionError):
    """Something was promised and is not so."""


def added(facts: Facts, key: int, attribute: str, value: int) -> Facts:
    """Return facts with one more; of an attribute with one value it is instead of that."""
    made = {(key, "k", key), (key, attribute, value)}
    if attribute == "r":
        made.add((value, "k", value))
    if attribute in ONE:
        facts = frozenset(f for f in facts if f[:2] != (key, attribute))
    return facts | made


def without(facts: Facts, key: int) -> Facts:
    """Return facts without an entity, and without references to it."""
    return frozenset(f for f in facts if f[0] != key and not (f[1] == "r" and f[2] == key))


def merged(base: Facts, ours: Facts, theirs: Facts, settle: str) -> tuple[Facts, bool, bool]:
    """Return what a merge comes to, whether values conflict, and whether an entity is gone.

    Where one is, conflicts of other kinds may be found as well.
    """
    new, gone = theirs - base, base - theirs
    result = set(ours)
    conflict = False
    single = {f[:2] for f in new | gone if f[1] in ONE}
    for key in single:
        was = {f for f in base if f[:2] == key}
        mine = {f for f in ours if f[:2] == key}
        its = {f for f in theirs if f[:2] == key}
        if mine in (was, its):
            result = (result - mine) | its
        else:
            conflict = True
            if settle == "theirs":
                result = (result - mine) | its
    result |= {f for f in new if f[1] not in ONE}
    result -= {f for f in gone if f[1] not in ONE}
    entities = {f for f in base if f[1] == "k"}
    return frozenset(result), conflict, not entities <= (ours & theirs)


@dataclass(eq=False)
class Commit:
    """A commit that is known: what it says, and where it comes from."""

    id: UUID
    parents: tuple[UUID, ...]
    facts: Facts
    tx: int
    begins: bool = False
    """Whether its branch keeps nothing that was before it: it purges, or a branch was forced."""
    alone: bool = False
    """Whether nothing is known of its past."""


@dataclass(eq=False)
class Intent:
    """What somebody wanted to commit: what it makes of facts, and what came of it."""

    number: int
    what: str
    branch: str
    make: Callable[[Facts], Facts] | None = None
    source: UUID | None = None
    settle: str = "abort"
    status: str = "sent"
    purges: bool = False
    times: int = 0
    tx: int | None = None
    over: bool = False
    moves: int = 0
    others: frozenset[int] = frozenset()
    """Keys of entities that it makes or takes away; it leaves others that have them by then."""

    def fits(self, before: Facts, after: Facts) -> bool:
        """Say whether it may have made facts of those before."""
        wrong = () if self.make is None else self.make(before) ^ after
        return all(k in self.others or (name == "r" and v in self.others) for k, name, v in wrong)

    @property
    def may_land(self) -> bool:
        """Whether it may be on its branch, or come to be, without anybody knowing of it."""
        return self.status != "no" and not self.times and self.moves < 2


@dataclass(eq=False)
class Branch:
    """A branch: the newest commit of it that somebody was told of, and which of its lives it is."""

    tip: UUID | None = None
    start: UUID | None = None
    """The first that is known of it, where it was made of another: what was before may be gone."""
    line: int = 0
    there: bool | None = True
    busy: int = 0
    doubt: Callable[[], bool] = lambda: False
    """Whether something of what was done to it as a whole, and failed, may still land."""

    @property
    def unsettled(self) -> bool:
        return bool(self.busy) or self.doubt()


@dataclass(eq=False)
class Model:
    """All that is known."""

    commits: dict[UUID, Commit] = field(default_factory=dict)
    intents: dict[int, Intent] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    tags: dict[str, UUID] = field(default_factory=dict)
    retained: int = 10**6
    counted: int = 0
    order: list[UUID] = field(default_factory=list)

    def add(self, commit: Commit) -> Commit:
        known = self.commits.setdefault(commit.id, commit)
        if known is commit:
            self.order.append(commit.id)
        elif known.facts != commit.facts:
            raise Wrong(f"commit {short(commit.id)} is two states")
        return known

    def descends(self, commit: UUID, of: UUID) -> bool | None:
        """Say whether a commit is another one or comes after it; None where nobody knows."""
        floor = self.commits[of].tx
        waiting, met, unknown = [commit], {commit}, False
        while waiting:
            one = waiting.pop()
            if one == of:
                return True
            known = self.commits.get(one)
            if known is None or known.alone:
                unknown = True
                continue
            if known.tx <= floor:
                continue
            for parent in known.parents:
                if parent not in met:
                    met.add(parent)
                    waiting.append(parent)
        return None if unknown else False

    def moved(self, name: str, line: int, before: UUID | None, commit: UUID) -> None:
        """Take in that a branch was seen to be a commit, after it was known to be ``before``."""
        branch = self.branches.setdefault(name, Branch())
        if branch.line != line or branch.unsettled:
            return
        if before is not None and self.descends(commit, before) is False:
            raise Wrong(
                f"branch {name} is {short(commit)}, which has lost {short(before)}, that was "
                "acknowledged before"
            )
        if branch.tip is None:
            branch.start = commit
        if branch.tip is None or self.commits[commit].tx > self.commits[branch.tip].tx:
            branch.tip = commit
            for intent in self.intents.values():
                if intent.branch == name and intent.over:
                    intent.moves += 1  # it was sent over a head that is past

    def line(self, commit: UUID | None) -> Iterator[Commit]:
        """Iterate over a commit and those before it on its branch, as far as they are known."""
        while commit is not None and (known := self.commits.get(commit)) is not None:
            yield known
            if known.alone or not known.parents:
                return
            commit = known.parents[0]

    def must(self) -> set[UUID]:
        """Return the commits that have to be readable."""
        return {commit for _, commit in self._kept()}

    def keepers(self, commit: UUID) -> set[str]:
        """Return what it is for which a commit has to be readable."""
        return {name for name, one in self._kept() if one == commit}

    def _kept(self) -> Iterator[tuple[str, UUID]]:
        for name, commit in self.tags.items():
            yield f"tag {name}", commit
        # The head may be that much further than anybody was told.
        ahead = Counter(i.branch for i in self.intents.values() if i.may_land)
        for name, branch in self.branches.items():
            if branch.there and not branch.unsettled and not self._may_be_purged(name, branch.tip):
                for n, commit in enumerate(self.line(branch.tip)):
                    if n >= self.retained - ahead[name]:
                        break
                    yield f"branch {name} {branch.line}", commit.id
                    if commit.begins or commit.id == branch.start:
                        break

    def _may_be_purged(self, name: str, tip: UUID | None) -> bool:
        """Whether the past of a branch may be gone by a purge that its tip does not have yet."""
        newest = 0 if tip is None else self.commits[tip].tx
        return any(
            i.may_land or (i.tx is not None and i.tx > newest)
            for i in self.intents.values()
            if i.purges and i.branch == name and i.status != "no"
        )

    def base(self, a: UUID, b: UUID) -> Commit | None:
        """Return the commit in which two lines part, where there is one and it is known."""
        mine, its = self._past(a), self._past(b)
        if mine is None or its is None:
            return None
        common = mine & its
        heads = {
            one for one in common if not any(one in self.commits[other].parents for other in common)
        }
        return self.commits[heads.pop()] if len(heads) == 1 else None

    def _past(self, of: UUID) -> set[UUID] | None:
        met: set[UUID] = set()
        waiting = [of]
        while waiting:
            one = waiting.pop()
            known = self.commits.get(one)
            if known is None or known.alone:
                return None
            if one not in met:
                met.add(one)
                waiting += known.parents
        return met


def short(commit: UUID | None) -> str:
    return "none" if commit is None else f"{commit.int >> 96 & 0xFFFF:x}-{commit.hex[-4:]}"


def said(facts: Any) -> str:
    return " ".join(f"{k}{a}{v}" for k, a, v in sorted(facts))
