"""What a query did, clause by clause: recorded while it runs, when somebody asks for it."""

from __future__ import annotations

from typing import Any

from datahike_async.query.language.ast import Clause
from datahike_async.query.language.text import clause_text

__all__ = ["Ran"]

_TYPES = {
    "Pattern": "lookup",
    "Predicate": "predicate",
    "Function": "function",
    "Not": "not",
    "Or": "or",
    "RuleCall": "rule",
}


class Ran:
    """One clause as it was carried out.

    ``estimated`` and ``rows`` are rows after it (``estimated`` None where there was nothing to
    plan), ``seconds`` includes what is nested in it (which has a greater ``depth``), ``nodes`` were
    fetched in ``waves``.
    """

    __slots__ = (
        "bound",
        "clause",
        "depth",
        "estimated",
        "nodes",
        "operator",
        "relations",
        "rows",
        "seconds",
        "waves",
    )

    def __init__(self, clause: Clause, depth: int, estimated: float | None) -> None:
        self.clause = clause
        self.depth = depth
        self.estimated = estimated
        self.operator = ""
        self.bound: list[str] = []
        self.rows = 0
        self.relations: list[int] = []
        self.seconds = 0.0
        self.nodes = 0
        self.waves = 0

    def add(self, other: Ran) -> None:
        """Count in what the clause did another time, of other rows."""
        self.rows += other.rows
        self.relations += other.relations
        self.seconds += other.seconds
        self.nodes += other.nodes
        self.waves += other.waves

    def data(self) -> dict[str, Any]:
        """Return the record under the names of Datahike's query statistics, and some of ours."""
        return {
            ":clause": clause_text(self.clause),
            ":type": ":" + _TYPES[type(self.clause).__name__],
            ":operator": self.operator,
            ":depth": self.depth,
            ":bound": self.bound,
            ":estimated-rows": None if self.estimated is None else round(self.estimated),
            ":rows": self.rows,
            ":rels": self.relations,
            ":t": self.seconds * 1000,
            ":nodes": self.nodes,
            ":waves": self.waves,
        }
