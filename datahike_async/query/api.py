"""Queries from outside: parse (cached), bind the inputs, run; ``shaping`` makes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from random import Random
from time import perf_counter
from typing import Any, Final

from datahike_async.collector import set_aside
from datahike_async.errors import QueryError
from datahike_async.events import SLOW_QUERY
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.looks import looking
from datahike_async.query.answer.explain import Explained, explained
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.answer.shape import shape
from datahike_async.query.answer.shaping import folding_of, shaped, shaped_rows
from datahike_async.query.inputs import Request, amount, bind, gathered, request_of, too_deep
from datahike_async.query.language.ast import Clause, Query
from datahike_async.query.language.parse import order_by_of, seconds_of
from datahike_async.query.limits.budget import Meter, budget_of
from datahike_async.query.limits.host import Host
from datahike_async.query.limits.watch import Watch
from datahike_async.query.prepare import NO_RULES, SHORT, is_short, prepare
from datahike_async.query.relations.state import State
from datahike_async.query.running.bound import Bound
from datahike_async.query.running.engine import Engine
from datahike_async.query.running.prepared import Prepared
from datahike_async.query.running.references import are_none, resolved
from datahike_async.query.running.trace import Ran
from datahike_async.values.value_set import ValueSet

__all__ = ["SLOW", "QueryStats", "explain", "q", "query_stats"]

SLOW: Final = 1.0
"""Seconds from which a query is told in the log, where no database says otherwise."""

# What these hold takes as long as there is of it.
_LONG: Final = frozenset({list, tuple, set, frozenset, dict})


async def q(
    query: Any,
    *inputs: Any,
    limit: int | None = None,
    offset: int | None = None,
    order_by: Any = None,
    timeout: float | None = None,
    budget: Any = None,
    stats: bool = False,
    rng: Random | None = None,
    host: Host | None = None,
    slow: float = SLOW,
) -> Any:
    """Run a Datalog query; see ``datahike_async.q``.

    Without a ``host`` nothing pauses and no thread is used. What takes ``slow`` seconds or more is
    told in the log.
    """
    began = perf_counter()
    request: Request | None = None
    try:
        watch: Watch | None = None
        if (
            type(query) is str
            and len(query) <= SHORT
            and limit is None
            and offset is None
            and order_by is None
            and timeout is None
            and budget is None
            and rng is None
            and not stats
        ):
            # The query alone says everything, and is parsed in no time.
            plain = True
            prepared = prepare(query)
        else:
            request = request_of(
                query,
                inputs,
                limit=limit,
                offset=offset,
                order_by=order_by,
                timeout=timeout,
                budget=budget,
                stats=stats,
                rng=rng,
            )
            if request.stats:
                return await _measured(request, host)
            inputs, plain = request.inputs, request.plain
            if is_short(request.query):
                prepared = prepare(request.query)
            else:
                watch = _watch(request, host)
                prepared = await _prepared(request, watch)
        point = prepared.point
        if point is not None and plain and len(inputs) == point.inputs + 1:
            view = getattr(inputs[0], "__datahike_view__", None)
            if view is not None:
                try:
                    rows = point.run(view, inputs[1:])
                except NodeMiss as miss:
                    rows = await resolve(miss, point.run, view, inputs[1:])
                except RecursionError:
                    raise too_deep() from None
                if rows is not None:
                    return shaped_rows(prepared, rows)
        if request is None:
            request = Request(query, inputs)
        return await _run(prepared, request, watch or _watch(request, host), None)
    finally:
        took = perf_counter() - began
        if took >= slow and SLOW_QUERY.wanted:
            asked = query if request is None else request.query
            SLOW_QUERY(seconds=round(took, 6), query=shape(asked))


async def _nested(query: Any, *inputs: Any, **options: Any) -> Any:
    """Answer a query in a query: with values, as what it finds is bound to variables."""
    found = await q(query, *inputs, **options)
    if isinstance(found, QueryResult):
        return ValueSet(found)
    return [list(row) for row in found] if isinstance(found, QueryList) else found


def _watch(request: Request, host: Host | None) -> Watch:
    seconds = None if request.timeout is None else seconds_of(request.timeout)
    return Watch(Meter(budget_of(request.budget), seconds), host)


async def _prepared(request: Request, watch: Watch) -> Prepared:
    """Return the parsed query; a long one is parsed elsewhere, and on the query's time."""
    with watch:
        return await watch.run(0, prepare, request.query)


async def _run(prepared: Prepared, request: Request, watch: Watch, trace: list[Ran] | None) -> Any:
    token = looking.set(watch.look)
    try:
        return await _answer(prepared, request, watch, trace)
    except RecursionError:
        raise _too_nested() from None
    except MemoryError:
        raise watch.meter.exhausted() from None
    finally:
        looking.reset(token)


def _too_nested() -> QueryError:
    return QueryError(
        "The rules of the query call one another through too many levels, or a value is nested "
        "too deeply; write a chain of rules as one recursive rule, or as fewer of them.",
        error=":query/where",
    )


async def _answer(
    prepared: Prepared, request: Request, watch: Watch, trace: list[Ran] | None
) -> Any:
    engine, where, state = await _engine(prepared, request, watch, trace)
    parsed = prepared.query
    if request.order_by is not None:
        prepared = prepared.ordered(order_by_of(request.order_by, parsed.find))
    folding = folding_of(prepared, engine, state)
    state = await engine.run(where, state, prepared.wanted, folding)
    engine.meter.clause = None
    return await shaped(
        prepared,
        engine,
        state,
        parsed.limit if request.limit is None else request.limit,
        parsed.offset if request.offset is None else max(request.offset, 0),
        folding,
    )


def _are_long(inputs: Sequence[Any]) -> bool:
    """Whether binding one of the inputs takes as long as there is of it."""
    for value in inputs:
        kind = type(value)
        if kind in _LONG or (kind is str and len(value) > SHORT):
            return True
    return False


def _bound(parsed: Query, inputs: Sequence[Any], watch: Watch) -> Bound:
    """Bind inputs; of very many the collector would look into all that is made of them."""
    with set_aside() if watch.inside else nullcontext():
        return bind(parsed, inputs)


async def _engine(
    prepared: Prepared, request: Request, watch: Watch, trace: list[Ran] | None
) -> tuple[Engine, Sequence[Clause], State]:
    """Return the engine of one run, the clauses for it, and what the inputs bind."""
    parsed = prepared.query
    if request.timeout is None and parsed.timeout is not None:
        watch.meter.within(parsed.timeout)
    try:
        if prepared.scalars and not _are_long(request.inputs):
            bound = bind(parsed, request.inputs)
        else:
            inputs = await gathered(parsed, request.inputs, watch)
            bound = await watch.run(amount(inputs), _bound, parsed, inputs, watch)
    except RecursionError:
        raise too_deep() from None
    if prepared.builtin_rules:
        bound = replace(bound, rules=bound.rules.completed(prepared.builtin_rules))
    rules = bound.rules
    calls = prepared.calls(rules)
    if calls is None:
        if prepared.simple and rules is NO_RULES:
            calls = prepared.check(rules, bound.variables())
        else:
            calls = await watch.run(0, prepared.check, rules, bound.variables())
    where: Sequence[Clause] = parsed.where
    if not are_none(prepared, bound):
        where, bound = await resolved(prepared, bound, watch)
    engine = Engine(bound, prepared.plans, watch, _nested, trace)
    if request.rng is not None:
        engine.functions.random = request.rng
    if calls:
        engine.check(calls, bound.consts)
        prepared.found(rules)
    return engine, where, engine.state(bound.consts, bound.relations)


# -- looking inside ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueryStats:
    """A query's answer, and what each of its clauses did."""

    result: Any
    clauses: tuple[Ran, ...]

    def data(self) -> dict[str, Any]:
        """Return ``{":ret": …, ":query-stats": […]}``, one map a clause, nested ones after it."""
        return {":ret": self.result, ":query-stats": [ran.data() for ran in self.clauses]}


async def query_stats(
    query: Any, *inputs: Any, host: Host | None = None, **options: Any
) -> QueryStats:
    """Run a query and return its answer with statistics of every clause."""
    return await _measured(request_of(query, inputs, **options), host)


async def _measured(request: Request, host: Host | None) -> QueryStats:
    trace: list[Ran] = []
    watch = _watch(request, host)
    result = await _run(await _prepared(request, watch), request, watch, trace)
    return QueryStats(result, tuple(trace))


async def explain(
    query: Any, *inputs: Any, analyze: bool = False, host: Host | None = None, **options: Any
) -> Explained:
    """Return the plan of a query; with ``analyze`` it is run, and the plan says what happened.

    What is analyzed goes the long way, clause by clause, also where a few seeks would answer it.
    """
    request = request_of(query, inputs, **options)
    watch = _watch(request, host)
    prepared = await _prepared(request, watch)
    trace: list[Ran] = []
    if analyze:
        await _run(prepared, request, watch, trace)
        return Explained.of_run(request.query, trace)
    try:
        with watch:
            engine, where, state = await _engine(prepared, request, watch, None)
            return await watch.run(0, explained, request.query, prepared, engine, where, state)
    except RecursionError:
        raise _too_nested() from None
