"""``:having``: the rows that stay, after they were grouped; ``language.having`` says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.columns import EMPTY_I64, I64, INT, Column
from datahike_async.query.language.ast import (
    Aggregate,
    Predicate,
    Pull,
)
from datahike_async.query.language.text import term_text
from datahike_async.query.relations.relation import Relation

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State
    from datahike_async.query.running.engine import Engine

__all__ = ["kept"]

_ROW: Final = Symbol("?__row")
_FEW: Final = 16


async def kept(
    clauses: Sequence[Predicate],
    found: Sequence[tuple[Any, Column]],
    count: int,
    engine: Engine,
    state: State,
) -> I64:
    """Return the positions of the rows for which all predicates hold.

    ``found`` has the elements of :find and the aggregates of :having, each with its column of
    ``count`` values.
    """
    columns: dict[Symbol, Column] = {_ROW: Column(INT, np.arange(count))}
    names: dict[str, Symbol] = {}
    for i, (element, column) in enumerate(found):
        if isinstance(element, Aggregate):
            name = names[term_text(element)] = Symbol(f"?__having{i}")
            columns[name] = column
        else:
            columns[element.variable if isinstance(element, Pull) else element] = column
    left = state.inner(state.consts, [Relation(columns, count)])
    for clause in clauses:
        if left.empty:
            return EMPTY_I64
        args = tuple(_named(term, names) for term in clause.args)
        await engine.functions.predicate(replace(clause, args=args), left)
        if len(clauses) > _FEW:
            await engine.pause()
    return EMPTY_I64 if left.empty else left.take([_ROW]).columns[_ROW].data


def _named(term: Any, names: Mapping[str, Symbol]) -> Any:
    return names[term_text(term)] if isinstance(term, Aggregate) else term
