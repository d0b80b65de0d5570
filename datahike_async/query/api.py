"""Queries from outside: parse (cached), bind the inputs, run; ``shaping`` makes the answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.ast import BindIgnore, BindScalar, Query, is_var
from datahike_async.query.execute import Engine, State
from datahike_async.query.functions import bind_values
from datahike_async.query.parse import seconds_of
from datahike_async.query.prepare import NO_RULES, prepare, rules_of
from datahike_async.query.relation import Relation, distinct, plain_value
from datahike_async.query.shaping import shaped, shaped_rows
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
                return shaped_rows(prepared, rows)
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
    return await shaped(
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
