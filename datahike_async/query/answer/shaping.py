"""From the relation that ``:where`` leaves to what the find spec asks for.

Aggregates, order, paging, pulls and the shape of the answer. Nothing here looks at clauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import numpy as np

from datahike_async.collector import set_aside
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.arrays import between, order_of, ordered_bits, taken
from datahike_async.index.columns import Column
from datahike_async.looks import SMALL, walked
from datahike_async.query.answer.folding import Folding
from datahike_async.query.answer.having import kept
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.builtins.aggregates import Groups, Pending, aggregate, function_of
from datahike_async.query.language.ast import Aggregate, Pull, is_var
from datahike_async.query.language.having import aggregates_of
from datahike_async.query.pulling.execute import pull_many
from datahike_async.query.relations.relation import Relation, group_codes
from datahike_async.query.relations.state import State
from datahike_async.query.running.engine import Engine
from datahike_async.query.running.prepared import Prepared
from datahike_async.snapshot.views import View

__all__ = ["folding_of", "shaped", "shaped_rows"]

# What an entry of a map in the answer counts for, in looks at the clock.
_ENTRY: Final = 8
# What an aggregate of few rows counts for.
_AGGREGATE: Final = 512


def shaped_rows(prepared: Prepared, rows: list[tuple[Any, ...]]) -> Any:
    """Return the answer whose distinct tuples were found already, as the find spec asks."""
    kind = prepared.query.find.kind
    if kind == "relation":
        return QueryResult.of_rows(prepared.names, rows)
    if kind == "collection":
        return [row[0] for row in rows]
    if not rows:
        return None
    return rows[0][0] if kind == "scalar" else rows[0]


def folding_of(prepared: Prepared, engine: Engine, state: State) -> Folding | None:
    """Return what makes the aggregates of a query part by part; None where something else does."""
    if not engine.limited:
        return None
    parsed = prepared.query
    compared = (*parsed.find.elements, *aggregates_of(parsed.having))
    given = {**engine.functions.given, **state.consts}
    return Folding.of(compared, prepared.wanted, given, engine.meter)


async def shaped(
    prepared: Prepared,
    engine: Engine,
    state: State,
    limit: int | None,
    offset: int,
    folding: Folding | None = None,
) -> Any:
    """Return the answer that the find spec asks for, of the rows that ``:where`` left.

    Where the rows came in parts, ``folding`` has their groups.

    Groups and aggregates come first, then ``:having``, the order, ``offset`` and ``limit``, and
    pulls last.
    Raises QueryError.
    """
    parsed = prepared.query
    elements = parsed.find.elements
    wanted = prepared.wanted
    most = state.rows() if len(state.relations) == 1 else max(state.rows(), SMALL + 1)
    relation = await engine.heavy(most, state.whole, wanted)
    compared = (*elements, *aggregates_of(parsed.having))
    aggregates = any(isinstance(e, Aggregate) for e in compared)
    if folding is not None and folding.used:
        columns, count = await engine.heavy(0, folding.columns)
    elif aggregates:
        found, count = await engine.heavy(
            relation.count * len(compared), _grouped, compared, engine, state, relation
        )
        columns = [c if isinstance(c, Column) else await c.made(engine.pause) for c in found]
    else:
        columns = [relation.columns[e.variable if isinstance(e, Pull) else e] for e in elements]
        count = relation.count
    if parsed.having:
        named = list(zip(compared, columns, strict=True))
        positions = await kept(parsed.having, named, count, engine, state)
        columns = [c.take(positions) for c in columns[: len(elements)]]
        count = len(positions)
    if limit is not None and limit < 0:
        limit = None  # as in Datahike: -1 is no limit
    stop = count if limit is None else min(offset + limit, count)
    start = min(offset, stop)
    if parsed.order_by:
        columns = await engine.heavy(count, _ordered, columns, parsed.order_by, start, stop)
    elif stop - start < count:
        columns = [c.slice(start, stop) for c in columns]
    count = stop - start
    pulls = [i for i, e in enumerate(elements) if isinstance(e, Pull)]
    kind = parsed.find.kind
    if not pulls and kind == "relation" and parsed.keys is None:
        ordered = aggregates or parsed.with_ or parsed.order_by
        return (QueryList if ordered else QueryResult)(prepared.names, columns, count)
    if kind in ("scalar", "tuple"):
        columns = [c.slice(0, 1) for c in columns]
        count = min(count, 1)
    cells = count * len(columns)
    lists: list[list[Any]] = await engine.heavy(cells, _lists, columns)
    if len(pulls) == 1:
        lists[pulls[0]] = await _pulled(elements[pulls[0]], engine, state, lists[pulls[0]])
    elif pulls:
        with ExitStack() as spared:
            for i in pulls:
                lists[i] = await _pulled(elements[i], engine, state, lists[i])
                # The collector need not look into what the pulls before have made.
                spared.enter_context(set_aside())
                await engine.pause()
    if kind == "scalar":
        return lists[0][0] if count else None
    if kind == "collection":
        return lists[0]
    if kind == "relation" and parsed.keys is not None:
        return await engine.heavy(cells, _maps, parsed.keys, lists)
    rows = await engine.heavy(cells, _rows, lists)
    if kind == "tuple":
        if parsed.keys is not None:
            return dict(zip(parsed.keys, rows[0], strict=True)) if rows else None
        return rows[0] if rows else None
    return QueryList.of_rows(prepared.names, rows)


def _lists(columns: list[Column]) -> list[list[Any]]:
    return [c.tolist() for c in walked(columns, each=len(columns[0]))]


def _rows(lists: list[list[Any]]) -> list[tuple[Any, ...]]:
    return list(walked(zip(*lists, strict=True), each=len(lists), count=len(lists[0])))


def _maps(keys: Sequence[Any], lists: list[list[Any]]) -> list[dict[Any, Any]]:
    rows = walked(zip(*lists, strict=True), each=_ENTRY * len(lists), count=len(lists[0]))
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _ordered(
    columns: list[Column], order_by: Sequence[tuple[int, bool]], start: int, stop: int
) -> list[Column]:
    """Return the rows [start, stop) of the order; only those around them are sorted."""
    keys = [_sort_key(columns[i], descending) for i, descending in order_by]
    first = keys[0]
    if first.dtype.kind == "f":
        first = ordered_bits(first)
    positions, before = between(first, start, stop)
    order = np.arange(len(positions))
    for key in reversed(keys):
        order = order[order_of(taken(key, positions)[order])]
    wanted = positions[order[start - before : stop - before]]
    return [c.take(wanted) for c in columns]


def _sort_key(column: Column, descending: bool) -> Any:
    ranks = column.ranks()
    if not descending:
        return ranks
    if ranks.dtype.kind == "f":
        # By number, for NaN has no opposite: it follows every number, and comes first here.
        ranks = np.unique(ranks, return_inverse=True)[1]
    return ~ranks.astype(np.int64)


async def _pulled(element: Pull, engine: Engine, state: State, eids: list[Any]) -> list[Any]:
    source = engine.source(element.source)
    if not isinstance(source, View):
        raise QueryError(
            f"(pull {element.source} …) needs a database as its source.", error=":parser/find"
        )
    pattern = element.pattern
    if isinstance(pattern, Symbol):
        name = pattern
        if name in engine.functions.given:
            pattern = engine.functions.given[name]
        elif name in state.consts:
            pattern = state.consts[name]
    found = await pull_many(source, pattern, eids, watch=engine.watch)
    return list(found)


def _grouped(
    elements: Sequence[Any], engine: Engine, state: State, relation: Relation
) -> tuple[list[Column | Pending], int]:
    given = {**engine.functions.given, **state.consts}
    for element in elements:
        if isinstance(element, Aggregate):
            _check_aggregate(element, given)
    if not relation.count:
        empty = Column.of([])
        return [empty for _ in elements], 0
    by = [
        relation.columns[e.variable if isinstance(e, Pull) else e]
        for e in elements
        if not isinstance(e, Aggregate)
    ]
    groups = Groups(*group_codes(by, relation.count))
    out: list[Column | Pending] = []
    for element in walked(elements, each=_AGGREGATE):
        if isinstance(element, Aggregate):
            *args, variable = element.args
            args = [given.get(a, a) if isinstance(a, Symbol) else a for a in args]
            name = given.get(element.function, element.function)
            column = relation.columns[variable]
            out.append(aggregate(name, args, column, groups, engine.functions.random))
        else:
            source = relation.columns[element.variable if isinstance(element, Pull) else element]
            out.append(source.take(groups.first))
    return out, groups.count


def _check_aggregate(element: Aggregate, given: Mapping[Any, Any]) -> None:
    """Raise QueryError for an aggregate that is not there, even if there is nothing to gather."""
    name = given.get(element.function, element.function)
    if is_var(element.function) and name is element.function:
        raise QueryError(
            f"The aggregate {shown(element.function)} is not bound by :in.", error=":query/where"
        )
    args = [given.get(a, a) if isinstance(a, Symbol) else a for a in element.args[:-1]]
    function_of(name, args)
