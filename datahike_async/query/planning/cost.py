"""The cost model: what a clause gives by itself, and what joining it with what is known costs.

Costs are microseconds and estimates rows, both rough: what matters is which of two orders is the
better one by far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import Clause
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.reading.fetch import bisects, few, sought

__all__ = [
    "COMPARED",
    "MADE",
    "MIXED",
    "READ",
    "SEEK",
    "STEP",
    "Estimates",
    "Given",
    "Known",
    "extended",
]

# Microseconds of any step, of one seek, and of a row that is read, read among values of all types,
# compared, aligned by entity, bisected for, joined by value, and made.
STEP: Final = 8.0
SEEK: Final = 2.5
READ: Final = 0.02
MIXED: Final = 0.3
COMPARED: Final = 0.001
ALIGNED: Final = 0.006
BISECTED: Final = 0.2
JOINED: Final = 0.02
MADE: Final = 0.01

# Where estimates of rows end: products along a chain of hundreds of clauses would go to infinity.
_MOST: Final = 1e18

Known = tuple[float, dict[Symbol, float]]
"""One relation: its rows, and about how many different values each variable has."""


@dataclass(slots=True)  # not frozen: made in every query, at a third of the cost
class Given:
    """What a pattern, an ``or`` or a rule call gives when nothing else is known."""

    rows: float
    values: dict[Symbol, float]
    # Microseconds to make all of it, and to have its columns at hand.
    scan: float
    load: float
    operator: str
    # The entity variable where a known entity is looked up; whether values are, one by one.
    entity: Symbol | None = None
    value: Symbol | None = None
    single: bool = False
    # Datoms of the attribute, and whether its columns are not at hand.
    size: float = 0.0
    absent: bool = False
    # How many attributes it reads.
    attributes: int = 1
    # Whether what is known flows in, and bounds what is looked for.
    seeded: bool = False


def extended(known: list[Known], source: Given) -> tuple[float, float, list[Known], str]:
    """Return cost, rows, and what is known once a source has been joined; and how."""
    near: list[Known] = []
    far: list[Known] = []
    for relation in known:
        (far if relation[1].keys().isdisjoint(source.values) else near).append(relation)
    if not near:
        rows = source.rows
        return STEP + source.scan, rows, [*known, (rows, source.values)], source.operator
    rows, values = source.rows, dict(source.values)
    there = 1.0
    for count, others in near:
        there = min(there * count, _MOST)
        rows = min(rows * count, _MOST)
        for variable, distinct in others.items():
            mine = values.get(variable)
            if mine is None:
                values[variable] = distinct
            else:
                rows /= max(mine, distinct, 1.0)
                values[variable] = min(mine, distinct)
    for variable, distinct in values.items():
        if distinct > rows:
            values[variable] = max(rows, 1.0)
    entity, value = source.entity, source.value
    count = there if len(near) == 1 else sum(c for c, _ in near)
    if entity is not None and any(entity in others for _, others in near):
        operator = f"{source.operator}, joined on {entity}"
        if source.absent and sought(int(count), source.size):
            operator, cost = "EAVT seeks", count * SEEK
        elif source.single:
            cost = source.load + count * ALIGNED
        elif source.attributes == 1 and bisects(count, source.size):
            cost = source.load + count * BISECTED
        else:
            cost = source.load + count * ALIGNED + source.rows * JOINED
    elif (
        value is not None
        and any(value in others for _, others in near)
        and few(int(count), source.rows)
    ):
        operator, cost = "AVET seeks", count * SEEK * source.attributes + rows * READ
    else:
        shared = [v.text for v in source.values if any(v in others for _, others in near)]
        operator = f"{source.operator}, joined on {' '.join(shared)}"
        cost = source.scan + (source.rows + count) * JOINED
        if source.seeded:
            distinct = max(source.values[v] for v in source.values if v.text in shared)
            cost = cost * min(1.0, count / max(distinct, 1.0)) + count * JOINED
    return STEP + cost + rows * MADE, rows, [*far, (rows, values)], operator


class Estimates(Protocol):
    """What whoever orders clauses asks the planner."""

    @property
    def rules(self) -> RuleSet:
        """The rules that clauses may call."""

    @property
    def is_builtin(self) -> Callable[[Any], bool]:
        """Whether a symbol means a built-in function."""

    def generated(
        self, clause: Clause, consts: Mapping[Symbol, Any], others: Sequence[Clause]
    ) -> Given:
        """Return what a pattern, an ``or`` or a rule call gives by itself."""
