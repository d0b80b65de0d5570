"""Data patterns on plain collections of tuples, which queries take as sources beside databases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column
from datahike_async.looks import walked
from datahike_async.query.language.ast import BLANK, Pattern, is_var
from datahike_async.query.relations.relation import Relation, column_of, constant_mask, equal_mask

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["match_tuples"]


def match_tuples(source: Any, clause: Pattern, state: State) -> Relation:
    """Match a pattern against a plain collection of tuples."""
    if isinstance(source, (str, bytes, bytearray, memoryview)) or not isinstance(source, Iterable):
        raise QueryError(
            f"The source {shown(clause.source)} is neither a database nor a collection of tuples: "
            f"{shown(source)}.",
            error=":query/where",
        )
    try:
        return _matched([_row(row, clause) for row in walked(source)], clause, state)
    except RecursionError:
        raise QueryError(
            f"The source {clause.source!r} holds a value that is nested too deeply.",
            error=":query/where",
        ) from None


def _matched(rows: list[tuple[Any, ...]], clause: Pattern, state: State) -> Relation:
    terms = [state.consts.get(t, t) if is_var(t) else t for t in clause.terms]
    width = max((i + 1 for i, t in enumerate(terms) if t is not BLANK), default=0)
    rows = [row for row in walked(rows, each=4) if len(row) >= width]
    columns: dict[Symbol, Column] = {}
    mask = np.ones(len(rows), np.bool_)
    for i, term in enumerate(terms[:width]):
        if term is BLANK:
            continue
        column = column_of([row[i] for row in walked(rows, each=4)])
        if not is_var(term):
            mask &= constant_mask(column, _plain(term))
        elif term in columns:
            mask &= equal_mask(columns[term], column)
        else:
            columns[term] = column
    if not columns:
        return Relation({}, 1 if mask.any() else 0)
    return Relation(columns, len(rows)).take(mask).project_distinct()


def _row(row: Any, clause: Pattern) -> tuple[Any, ...]:
    try:
        return tuple(row)
    except TypeError:
        raise QueryError(
            f"The source {clause.source!r} is a collection of tuples; {shown(row)} is none.",
            error=":query/where",
        ) from None


def _plain(value: Any) -> Any:
    return tuple(value) if type(value) is list else value
