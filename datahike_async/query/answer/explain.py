"""The plan of a query for people and programs: as text, and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import DEFAULT_SOURCE, Clause, RuleCall, is_var
from datahike_async.query.language.text import clause_text
from datahike_async.query.language.where import variables_of
from datahike_async.query.planning.cost import Known
from datahike_async.query.running.trace import Ran

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State
    from datahike_async.query.running.engine import Engine
    from datahike_async.query.running.prepared import Prepared

__all__ = ["Explained", "explained"]

_COLUMNS = ("clause", "operator", "estimated", "rows", "ms", "nodes", "waves")


class Explained:
    """A query's plan, clause by clause in the order they run; nested ones follow, indented.

    ``str()`` is the text. :meth:`data` are dicts with ``clause``, ``operator``, ``depth``,
    ``estimated`` (rows after the clause, None where there was nothing to plan), and, for a query
    that was run, ``rows``, ``ms`` (with what is nested), ``nodes`` fetched in ``waves``.
    """

    def __init__(self, query: Any, steps: Sequence[Mapping[str, Any]], *, ran: bool) -> None:
        self._query = query
        self._steps = [dict(step) for step in steps]
        self._ran = ran

    @classmethod
    def of_run(cls, query: Any, trace: Sequence[Ran]) -> Explained:
        """Return the plan of a query that was run."""
        steps = [
            {
                "clause": clause_text(ran.clause),
                "operator": ran.operator,
                "depth": ran.depth,
                "estimated": None if ran.estimated is None else round(ran.estimated),
                "rows": ran.rows,
                "ms": round(ran.seconds * 1000, 3),
                "nodes": ran.nodes,
                "waves": ran.waves,
            }
            for ran in trace
        ]
        return cls(query, steps, ran=True)

    def data(self) -> list[dict[str, Any]]:
        """Return the steps as dicts, in the order of the text."""
        return [dict(step) for step in self._steps]

    def __str__(self) -> str:
        names = _COLUMNS if self._ran else _COLUMNS[:3]
        rows = [[_cell(step, name) for name in names] for step in self._steps]
        widths = [
            max(len(name), *(len(r[i]) for r in rows)) if rows else len(name)
            for i, name in enumerate(names)
        ]
        query = self._query if isinstance(self._query, str) else repr(self._query)
        lines: list[str] = [query, ""]
        for row in (list(names), *rows):
            cells = [
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _cell(step: Mapping[str, Any], name: str) -> str:
    value = step[name]
    if name == "clause":
        text: str = "  " * step["depth"] + str(value)
        return text if len(text) <= 72 else text[:71] + "…"
    if value is None:
        return ""
    if name == "ms":
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def explained(
    query: Any, prepared: Prepared, engine: Engine, where: Sequence[Clause], state: State
) -> Explained:
    """Return the plan of a query that is not run: of its clauses ``where``."""
    view = engine.views.get(DEFAULT_SOURCE)
    seeks = None
    if prepared.point is not None and view is not None:
        seeks = prepared.point.seeks(view.schema)
    if seeks is not None:
        steps = [_step(clause, how, 0, 1.0) for clause, how in seeks]
        return Explained(query, steps, ran=False)
    out: list[dict[str, Any]] = []
    known = [(float(r.count), dict.fromkeys(r.columns, float(r.count))) for r in state.relations]
    _Telling(engine, out).tell(where, state.consts, known, 0)
    return Explained(query, out, ran=False)


def _step(clause: Clause, operator: str, depth: int, rows: float | None) -> dict[str, Any]:
    return {
        "clause": clause_text(clause),
        "operator": operator,
        "depth": depth,
        "estimated": None if rows is None else round(rows),
    }


class _Telling:
    """Walks a plan into its nested scopes; each rule is told once."""

    def __init__(self, engine: Engine, out: list[dict[str, Any]]) -> None:
        self._engine = engine
        self._out = out
        self._told: set[Symbol] = set()

    def tell(
        self,
        clauses: Sequence[Clause],
        consts: Mapping[Symbol, Any],
        known: Sequence[Known],
        depth: int,
    ) -> None:
        bound = {v for _, values in known for v in values}
        for step in self._engine.planner.order(clauses, consts, known):
            clause = step.clause
            self._out.append(_step(clause, step.operator, depth, step.rows))
            inside = [(step.rows, dict.fromkeys(bound & variables_of([clause]), step.rows))]
            for inner in clause.children:
                self.tell(inner, consts, inside, depth + 1)
            if isinstance(clause, RuleCall) and clause.name not in self._told:
                self._told.add(clause.name)
                self._rule(clause, bound | consts.keys(), depth + 1)
            bound |= variables_of([clause])

    def _rule(self, clause: RuleCall, bound: set[Symbol], depth: int) -> None:
        rules = self._engine.rules
        for branch in rules.branches(clause):
            given = {
                v
                for v, arg in zip(branch.head, clause.args, strict=True)
                if not is_var(arg) or arg in bound
            }
            known: list[Known] = [(1.0, dict.fromkeys(given, 1.0))] if given else []
            self.tell(rules.known.body(branch, clause.source), {}, known, depth)
