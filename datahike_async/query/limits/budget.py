"""What one query may use: rows, bytes, seconds and rounds of recursion, and who keeps count.

A budget is checked where work is about to be done, not after it: a join knows how many rows it
will give before it makes them. Whatever goes over raises one error that names the budget and the
clause, and leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from datahike_async.errors import QueryCanceled, QueryError, shown
from datahike_async.query.language.ast import Clause
from datahike_async.query.language.text import clause_text

__all__ = ["MAX_BYTES", "MAX_ROWS", "Budget", "Meter", "budget_of"]

MAX_ROWS: Final = 50_000_000
MAX_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class Budget:
    """What a query may use at most; None is no limit.

    ``rows`` and ``bytes`` bound each relation that a clause leaves, and bytes what the functions of
    a query make as well: 8 a row and column, some 40 an element of a collection, one a character.
    They are 50 million and 1 GiB unless said otherwise, since what is beyond them ends a process
    rather than a query. Where memory is limited (``:memory-limit``, or the container's), a query's
    share of it bounds the columns that a clause leaves too, and ``data[":budget"]`` is "memory".
    ``seconds`` is the time from the call to the last row: parsing, planning and pulling count.
    ``recursion`` bounds the rounds of a recursion that is no plain closure. ::

        try:
            await d.q("[:find ?a ?b :where [?a] [?b]]", db, budget=d.Budget(rows=10))
        except d.QueryCanceled as error:
            assert error.data[":budget"] == "rows"
    """

    rows: int | None = MAX_ROWS
    bytes: int | None = MAX_BYTES
    seconds: float | None = None
    recursion: int | None = None

    def __post_init__(self) -> None:
        for name, kinds in (
            ("rows", (int,)),
            ("bytes", (int,)),
            ("seconds", (int, float)),
            ("recursion", (int,)),
        ):
            value = getattr(self, name)
            if value is not None and (type(value) not in kinds or not value > 0):
                raise QueryError(
                    f"The budget {name} should be a positive number or None, not {shown(value)}.",
                    error=":query/budget",
                )


def budget_of(given: Any) -> Budget:
    """Return a budget given as one, as a mapping of its fields, or as None for the default."""
    if given is None:
        return _DEFAULT
    if isinstance(given, Budget):
        return given
    known = [field.name for field in fields(Budget)]
    if not isinstance(given, Mapping):
        raise QueryError(
            f"A budget is a Budget or a mapping of {', '.join(known)}; got {shown(given)}.",
            error=":query/budget",
        )
    named = {str(getattr(k, "text", k)).removeprefix(":"): v for k, v in given.items()}
    unknown = [name for name in named if name not in known]
    if unknown:
        raise QueryError(
            f"Unknown budget {shown(unknown[0])}; known: {', '.join(known)}.",
            error=":query/budget",
        )
    return Budget(**named)


_DEFAULT: Final = Budget()
_NO_LIMIT: Final = 2**62


class Meter:
    """Keeps count for one query. ``clause`` is what is being carried out."""

    __slots__ = (
        "_budget",
        "_bytes",
        "_made",
        "_memory",
        "_recursion",
        "_rows",
        "_start",
        "clause",
        "ends",
        "seconds",
    )

    def __init__(self, budget: Budget = _DEFAULT, seconds: float | None = None) -> None:
        self._budget = budget
        self._rows = _NO_LIMIT if budget.rows is None else budget.rows
        self._bytes = _NO_LIMIT if budget.bytes is None else budget.bytes
        self._recursion = _NO_LIMIT if budget.recursion is None else budget.recursion
        self._memory = _NO_LIMIT
        self.seconds: float | None = None
        self.ends: float | None = None
        self._start = time.monotonic()
        self._made = 0
        if budget.seconds is not None or seconds is not None:
            self.within(budget.seconds)
            self.within(seconds)
        self.clause: Clause | None = None

    def within(self, seconds: float | None) -> None:
        """Allow so many seconds from the start at most, where that is less than so far."""
        if seconds is not None and (self.seconds is None or seconds < self.seconds):
            self.seconds, self.ends = seconds, self._start + seconds

    def share(self, size: int | None) -> None:
        """Allow so many bytes of memory at most, where that is less than so far."""
        if size is not None and size < self._memory:
            self._memory = size
            self._bytes = min(self._bytes, size)

    @property
    def limited(self) -> bool:
        """Whether memory is limited, beside what the budget says."""
        return self._memory < _NO_LIMIT

    def holds(self, size: int) -> None:
        """Raise QueryCanceled where columns of so many bytes are more than memory allows."""
        if size > self._memory:
            raise self._over("bytes", self._memory, f"{size} bytes")

    def exhausted(self) -> QueryCanceled:
        """Return the error for a query for which there was no memory in the end."""
        return self._over("memory", self._memory, "more memory than there is")

    def rows(self, count: int, width: int = 1) -> None:
        """Raise QueryCanceled where ``count`` rows of ``width`` columns are more than allowed."""
        if count > self._rows:
            raise self._over("rows", self._rows, f"{count} rows")
        if count * width * 8 > self._bytes:
            raise self._over("bytes", self._bytes, f"{count * width * 8} bytes")

    def made(self, size: int) -> None:
        """Count bytes that a function made; raise QueryError where they are more than allowed."""
        self._made += size
        if self._made > self._bytes:
            raise self._over("bytes", self._bytes, f"{self._made} bytes for what functions make")

    def round(self, number: int) -> None:
        """Raise QueryCanceled where a recursion has gone on for more rounds than allowed."""
        if number > self._recursion:
            raise self._over("recursion", self._recursion, f"{number} rounds")

    def time(self) -> None:
        """Raise QueryCanceled where the time is over."""
        if self.ends is not None and time.monotonic() > self.ends:
            assert self.seconds is not None
            raise self._over("seconds", self.seconds, "more time")

    def left(self) -> Budget | None:
        """Return the budget of a query inside this one; None where it is the default."""
        if self.ends is None:
            return None if self._budget is _DEFAULT else self._budget
        return replace(self._budget, seconds=max(self.ends - time.monotonic(), 1e-6))

    def _over(self, name: str, limit: float, needed: str) -> QueryCanceled:
        where = "" if self.clause is None else f" at {clause_text(self.clause)}"
        if name == "bytes" and limit >= self._memory:
            name = "memory"
        if name == "seconds":
            text = f"The query was stopped{where} after its timeout of {limit * 1000:g} ms."
        elif name == "memory":
            left = f" leaves a query {limit:,} bytes" if self.limited else " is the machine's"
            text = (
                f"The query was stopped{where}: it needs {needed}, and the memory limit{left}. "
                "Add clauses that select more, or set a larger :memory-limit."
            )
        else:
            text = (
                f"The query was stopped{where}: it needs {needed}, and its budget of {name} is "
                f"{limit:,}. Add clauses that select more, or pass a larger budget."
            )
        clause = None if self.clause is None else clause_text(self.clause)
        return QueryCanceled(text, budget=name, limit=limit, clause=clause)
