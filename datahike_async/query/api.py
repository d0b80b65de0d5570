"""Queries from outside: parse (cached), bind the inputs, run, and shape the result."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.aggregates import Groups, aggregate
from datahike_async.query.ast import (
    Aggregate,
    BindIgnore,
    BindScalar,
    Pull,
    Query,
    is_var,
)
from datahike_async.query.execute import Engine, State
from datahike_async.query.functions import bind_values
from datahike_async.query.parse import seconds_of
from datahike_async.query.prepare import NO_RULES, Prepared, prepare, rules_of
from datahike_async.query.pull_execute import pull_many
from datahike_async.query.relation import Relation, distinct, group_codes, plain_value
from datahike_async.query.result import QueryResult
from datahike_async.snapshot.views import View

__all__ = ["q"]

Pause = Callable[[], Awaitable[None]]

_ARGUMENTS: Final = ("query", "args", "limit", "offset", "order-by", "timeout")


async def q(
    query: Any,
    *inputs: Any,
    limit: int | None = None,
    offset: int | None = None,
    timeout: float | None = None,
    pause: Pause | None = None,
) -> Any:
    """Run a Datalog query.

    ``query`` is EDN text, a list or a map; ``inputs`` are what its ``:in`` names, in order. Or
    ``query`` is an argument map ``{":query": …, ":args": […]}``. ``timeout`` is in milliseconds.
    Returns a :class:`QueryResult` for a relation find (a list where it is ordered, grouped or has
    ``:with``), a list for ``[?x ...]``, a tuple or None for ``[?a ?b]``, a value or None for
    ``?x .``. Raises QueryError, and EdnError for text that is no EDN.
    """
    if isinstance(query, Mapping):
        names = {str(getattr(k, "text", k)).removeprefix(":"): k for k in query}
        if "query" in names:
            unknown = [k for k in names if k not in _ARGUMENTS]
            if unknown:
                raise QueryError(
                    f"Unknown key :{unknown[0]} in a query's argument map; known: "
                    + ", ".join(":" + name for name in _ARGUMENTS),
                    error=":parser/query",
                )
            get = {name: query[key] for name, key in names.items()}
            inputs = (*_arguments(get.get("args")), *inputs)
            limit = get.get("limit", limit)
            offset = get.get("offset", offset)
            timeout = get.get("timeout", timeout)
            query = get["query"]
        elif "args" in names:
            inputs = (*_arguments(query[names["args"]]), *inputs)
            query = {k: v for k, v in query.items() if k != names["args"]}
    prepared = prepare(query)
    point = prepared.point
    if (
        point is not None
        and len(inputs) == point.inputs + 1
        and limit is None
        and offset is None
        and timeout is None
    ):
        view = getattr(inputs[0], "__datahike_view__", None)
        if view is not None:
            try:
                rows = point.run(view, inputs[1:])
            except NodeMiss as miss:
                rows = await resolve(miss, point.run, view, inputs[1:])
            except RecursionError:
                raise _too_deep() from None
            if rows is not None:
                return _shaped_rows(prepared, rows)
    parsed = prepared.query
    if limit is not None and (type(limit) is not int or limit < 0):
        raise QueryError(
            f":limit should be a non-negative int, not {shown(limit)}.", error=":parser/limit"
        )
    if offset is not None and type(offset) is not int:
        raise QueryError(
            f":offset should be a non-negative int, not {shown(offset)}.", error=":parser/offset"
        )
    seconds = parsed.timeout if timeout is None else seconds_of(timeout)
    try:
        engine, state = _bind(parsed, inputs, _deadline(seconds, pause))
    except RecursionError:
        raise _too_deep() from None
    prepared.check(engine.rules.known, state.variables())
    state = await engine.run(parsed.where, state, prepared.wanted)
    return await _shaped(
        prepared,
        engine,
        state,
        parsed.limit if limit is None else limit,
        parsed.offset if offset is None else max(offset, 0),
    )


def _too_deep() -> QueryError:
    return QueryError("An input is nested too deeply, or contains itself.", error=":query/binding")


def _arguments(given: Any) -> Iterable[Any]:
    if given is None:
        return ()
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise QueryError(
            f":args should be a list of inputs, not {shown(given)}.", error=":query/binding"
        )
    return given


def _deadline(seconds: float | None, pause: Pause | None) -> Pause | None:
    """Return a pause that also stops the query when its time is over."""
    if seconds is None:
        return pause
    end = time.monotonic() + seconds

    async def check() -> None:
        if time.monotonic() > end:
            raise QueryError(
                f"The query was stopped after its timeout of {seconds * 1000:g} ms.",
                error=":query/canceled",
            )
        if pause is not None:
            await pause()

    return check


# -- inputs ------------------------------------------------------------------------------------


def _bind(parsed: Query, inputs: Sequence[Any], pause: Pause | None) -> tuple[Engine, State]:
    if len(inputs) > len(parsed.ins):
        raise QueryError(
            f"The query takes {len(parsed.ins)} inputs (:in), {len(inputs)} were given.",
            error=":query/binding",
        )
    sources: dict[Symbol, Any] = {}
    views: dict[Symbol, View] = {}
    functions: dict[Symbol, Any] = {}
    consts: dict[Symbol, Any] = {}
    relations: list[Relation] = []
    rules = NO_RULES
    for binding, value in zip(parsed.ins, inputs, strict=False):
        if isinstance(binding, BindIgnore):
            continue
        if isinstance(binding, BindScalar):
            name = binding.name
            first = name.text[0]
            if first == "$":
                sources[name] = value
                view = getattr(value, "__datahike_view__", None)
                if view is not None:
                    views[name] = view
                elif hasattr(value, "transact"):
                    raise QueryError(
                        f"The input for {shown(name)} is a connection; pass its database value, "
                        "conn.db().",
                        error=":datahike/db-expected",
                    )
            elif first == "%":
                rules = NO_RULES if value is None else rules_of(value)
            elif is_var(name):
                if value is None:
                    raise QueryError(
                        f"nil cannot be bound to {shown(name)}.", error=":query/binding"
                    )
                consts[name] = plain_value(value)
                if callable(value):
                    functions[name] = value
            else:
                functions[name] = value
            continue
        found = bind_values(binding, [_iterable(value)], Relation({}, 1))
        relations.append(distinct(found))
    engine = Engine(sources, views, rules, functions, pause)
    return engine, State(consts, relations)


def _iterable(value: Any) -> Any:
    """Let any iterable (a generator, a NumPy array) stand for a collection."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__next__"):
        return list(value)
    return value


# -- results -----------------------------------------------------------------------------------


def _shaped_rows(prepared: Prepared, rows: list[tuple[Any, ...]]) -> Any:
    kind = prepared.query.find.kind
    if kind == "relation":
        return QueryResult.of_rows(prepared.names, rows)
    if kind == "collection":
        return [row[0] for row in rows]
    if not rows:
        return None
    return rows[0][0] if kind == "scalar" else rows[0]


async def _shaped(
    prepared: Prepared, engine: Engine, state: State, limit: int | None, offset: int
) -> Any:
    parsed = prepared.query
    elements = parsed.find.elements
    wanted = prepared.wanted
    free = [v for v in wanted if not state.bound(v)]
    if free and not state.empty:
        raise QueryError(
            f"Insufficient bindings: {', '.join(map(repr, free))} of :find has no value; fewer "
            "inputs were given than :in names.",
            error=":query/where",
        )
    relation = state.whole(list(wanted))
    aggregates = any(isinstance(e, Aggregate) for e in elements)
    if aggregates:
        columns, count = _grouped(parsed, engine, state, relation)
    else:
        columns = [relation.columns[e.variable if isinstance(e, Pull) else e] for e in elements]
        count = relation.count
    if parsed.order_by:
        keys = [_sort_key(columns[i], descending) for i, descending in parsed.order_by]
        order = np.lexsort(keys[::-1])
        columns = [c.take(order) for c in columns]
    if offset or limit is not None:
        stop = count if limit is None else min(offset + limit, count)
        start = min(offset, stop)
        columns = [c.slice(start, stop) for c in columns]
        count = stop - start
    pulls = [i for i, e in enumerate(elements) if isinstance(e, Pull)]
    kind = parsed.find.kind
    if not pulls and kind == "relation" and parsed.keys is None:
        result = QueryResult(prepared.names, columns, count)
        if not (aggregates or parsed.with_ or parsed.order_by):
            return result
        listed: list[tuple[Any, ...]] = []
        for chunk in result.chunks():
            listed += chunk
            if engine.pause is not None:
                await engine.pause()
        return listed
    if kind in ("scalar", "tuple"):
        columns = [c.slice(0, 1) for c in columns]
        count = min(count, 1)
    lists: list[list[Any]] = [c.tolist() for c in columns]
    for i in pulls:
        lists[i] = await _pulled(elements[i], engine, state, lists[i])
    if kind == "scalar":
        return lists[0][0] if count else None
    if kind == "collection":
        return lists[0]
    rows = list(zip(*lists, strict=True))
    if kind == "tuple":
        if parsed.keys is not None:
            return dict(zip(parsed.keys, rows[0], strict=True)) if rows else None
        return rows[0] if rows else None
    if parsed.keys is not None:
        return [dict(zip(parsed.keys, row, strict=True)) for row in rows]
    return rows


def _sort_key(column: Column, descending: bool) -> Any:
    ranks = column.ranks()
    if not descending:
        return ranks
    return -ranks.astype(np.float64) if ranks.dtype.kind == "f" else ~ranks.astype(np.int64)


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
    found = await pull_many(source, pattern, eids)
    return list(found)


def _grouped(
    parsed: Query, engine: Engine, state: State, relation: Relation
) -> tuple[list[Column], int]:
    elements = parsed.find.elements
    if not relation.count:
        empty = Column.of([])
        return [empty for _ in elements], 0
    by = [
        relation.columns[e.variable if isinstance(e, Pull) else e]
        for e in elements
        if not isinstance(e, Aggregate)
    ]
    groups = Groups(*group_codes(by, relation.count))
    given = {**engine.functions.given, **state.consts}
    out: list[Column] = []
    for element in elements:
        if isinstance(element, Aggregate):
            *args, variable = element.args
            args = [given.get(a, a) if isinstance(a, Symbol) else a for a in args]
            name = given.get(element.function, element.function)
            if is_var(element.function) and name is element.function:
                raise QueryError(
                    f"The aggregate {shown(element.function)} is not bound by :in.",
                    error=":query/where",
                )
            out.append(aggregate(name, args, relation.columns[variable], groups))
        else:
            source = relation.columns[element.variable if isinstance(element, Pull) else element]
            out.append(source.take(groups.first))
    return out, groups.count
