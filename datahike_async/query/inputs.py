"""What a query is given: the arguments of a call as a :class:`Request`, and its bound inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from random import Random
from typing import Any, Final

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.looks import PIECE, SMALL, pieces
from datahike_async.query.language.ast import BindIgnore, BindScalar, Query, is_var
from datahike_async.query.language.parse import DEFAULT_IN
from datahike_async.query.language.text import binding_text
from datahike_async.query.limits.watch import Watch
from datahike_async.query.prepare import NO_RULES, rules_of
from datahike_async.query.relations.relation import Relation, distinct, plain_value
from datahike_async.query.relations.unify import bind_values
from datahike_async.query.running.bound import Bound
from datahike_async.snapshot.views import View

__all__ = ["Request", "amount", "bind", "gathered", "request_of", "too_deep"]

_NONE: Final = Symbol("_")
_SIZED: Final = (list, tuple, set, frozenset, dict)
_ARGUMENTS: Final = (
    "query",
    "args",
    "limit",
    "offset",
    "order-by",
    "timeout",
    "budget",
    "stats?",
)


@dataclass(slots=True)  # not frozen: made in every query, at a third of the cost
class Request:
    """A query with its inputs, and what the call says beside the query's own sections."""

    query: Any
    inputs: tuple[Any, ...]
    limit: int | None = None
    offset: int | None = None
    timeout: float | None = None
    order_by: Any = None
    budget: Any = None
    stats: bool = False
    rng: Random | None = None

    @property
    def plain(self) -> bool:
        """Whether the query alone says everything."""
        return (
            self.limit is None
            and self.offset is None
            and self.timeout is None
            and self.order_by is None
            and self.budget is None
            and not self.stats
        )


def request_of(query: Any, inputs: tuple[Any, ...], **options: Any) -> Request:
    """Return the request of a call; ``query`` may be an argument map ``{":query": …}``.

    Raises QueryError ``:parser/query``, ``:parser/limit``, ``:parser/offset``, ``:query/binding``.
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
            given = {name: query[key] for name, key in names.items()}
            inputs = (*_arguments(given.pop("args", None)), *inputs)
            query = given.pop("query")
            for name, value in given.items():
                options[name.replace("-", "_").removesuffix("?")] = value
        elif "args" in names:
            inputs = (*_arguments(query[names["args"]]), *inputs)
            query = {k: v for k, v in query.items() if k != names["args"]}
    out = Request(query, inputs, **options)
    for name, value in (("limit", out.limit), ("offset", out.offset)):
        if value is not None and type(value) is not int:
            raise QueryError(
                f":{name} should be an int, not {shown(value)}.", error=f":parser/{name}"
            )
    if out.rng is not None and not isinstance(out.rng, Random):
        raise QueryError(
            f"rng should be a random.Random, not {shown(out.rng)}.", error=":query/binding"
        )
    return out


def _arguments(given: Any) -> Iterable[Any]:
    if given is None:
        return ()
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise QueryError(
            f":args should be a list of inputs, not {shown(given)}.", error=":query/binding"
        )
    return given


def too_deep() -> QueryError:
    """Return the error for an input that Python cannot walk."""
    return QueryError("An input is nested too deeply, or contains itself.", error=":query/binding")


def bind(parsed: Query, inputs: Sequence[Any]) -> Bound:
    """Bind inputs to what ``:in`` names.

    Raises QueryError ``:query/inputs`` where there are more or fewer of them: with a filter that
    was forgotten a query would answer more than it was asked. Else ``:query/binding``.
    """
    # A query without :in may do without a database.
    none = not inputs and parsed.ins is DEFAULT_IN
    if len(inputs) != len(parsed.ins) and not none:
        raise _not_as_many(parsed, len(inputs))
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
                        f"nil cannot be bound to {shown(name)}; no value of a database is nil.",
                        error=":query/binding",
                    )
                consts[name] = plain_value(value)
                if callable(value):
                    functions[name] = value
            else:
                functions[name] = value
            continue
        found = bind_values(binding, [value], Relation({}, 1))
        relations.append(distinct(found))
    return Bound(sources, views, rules, functions, consts, relations)


async def gathered(parsed: Query, inputs: Sequence[Any], watch: Watch) -> list[Any]:
    """Return inputs of which iterators, for collections, are lists: what can be gone over again.

    An iterator may belong to its thread, as a cursor of a database does. It is gone over here.
    """
    out = list(inputs)
    for i, (binding, value) in enumerate(zip(parsed.ins, inputs, strict=False)):
        source = getattr(binding, "name", _NONE).text[0] == "$"
        collection = not isinstance(binding, (BindIgnore, BindScalar))
        if hasattr(type(value), "__next__") and (collection or source):
            out[i] = await _taken(value, watch)
        elif collection and hasattr(value, "tolist"):
            out[i] = await _listed(value, watch)
    return out


async def _listed(array: Any, watch: Watch) -> Any:
    """Return the values of an array of NumPy, or what is like one; of one without length, its."""
    count = len(array) if getattr(array, "ndim", 1) else 0
    if count <= PIECE:
        return array.tolist()
    parts = (array[start:stop].tolist() for start, stop in pieces(count))
    return await _taken(chain.from_iterable(parts), watch)


async def _taken(values: Iterator[Any], watch: Watch) -> list[Any]:
    out: list[Any] = []
    while part := list(islice(values, SMALL)):
        out += part
        await watch.pause()
    return out


def amount(inputs: Sequence[Any]) -> int:
    """Return how many numbers binding the inputs counts for, as far as they tell."""
    return sum(4 * len(value) for value in inputs if isinstance(value, _SIZED))


def _not_as_many(parsed: Query, given: int) -> QueryError:
    names = [binding_text(binding) for binding in parsed.ins]
    missing = names[given:]
    return QueryError(
        f"The query takes {len(names)} {'input' if len(names) == 1 else 'inputs'} "
        f"(:in {' '.join(names)}), {given} {'was' if given == 1 else 'were'} given"
        + (f"; nothing for {' '.join(missing)}." if missing else "."),
        error=":query/inputs",
    )
