"""Run: what all who carry out one query share: its sources, its budget, time and turns for others.

Knows no clause: the engine is one that does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.looks import SMALL
from datahike_async.query.limits.host import LARGE
from datahike_async.query.limits.watch import Elsewhere, Watch
from datahike_async.query.relations.relation import Relation
from datahike_async.query.relations.state import State
from datahike_async.query.running.bound import Bound

__all__ = ["Nested", "Run"]

T = TypeVar("T")

Nested = Callable[..., Awaitable[Any]]
"""Answers a query in a query: takes it and its inputs, ``host``, ``budget`` and ``rng``."""


class Run:
    """One run of one query."""

    def __init__(self, bound: Bound, watch: Watch, nested: Nested) -> None:
        self.sources = bound.sources
        self.views = bound.views
        self.watch = watch
        self.host = watch.host
        self.meter = watch.meter
        self.nested = nested

    def source(self, name: Symbol) -> Any:
        """Return the view, or the collection of tuples, that a source names."""
        found = self.views.get(name)
        if found is not None:
            return found
        if name in self.sources:
            return self.sources[name]
        raise QueryError(
            f"The source {name!r} is used in :where, and nothing was given for it. Pass a database "
            "value after the query, q(query, conn.db()), and name it in :in where there is one.",
            error=":query/where",
        )

    def state(self, consts: Mapping[Symbol, Any], relations: Sequence[Relation] = ()) -> State:
        """Return a state on this query's budget."""
        return State(consts, relations, self.meter)

    async def pause(self) -> None:
        """Give others a turn; raise where the time is over or the query was cancelled."""
        await self.watch.pause()

    async def heavy(self, rows: int, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``, made in a worker thread where it takes long.

        It takes as long as there are ``rows``; 0 is for what may make more of few.
        """
        watch = self.watch
        if 0 < rows <= SMALL and self.host is not None and not watch.inside:
            before = watch.begin()
            try:
                return call(*args)
            except Elsewhere:
                rows = LARGE  # few rows may hold large values
            finally:
                watch.movable = before
        return await watch.run(rows, call, *args)

    async def taken(self, state: State, variables: Sequence[Symbol]) -> Relation:
        """Return the product of the relations of a state that hold variables, and remove them."""
        if len(state.relations) < 2:
            return state.take(variables)
        return await self.heavy(0, state.take, variables)

    async def whole(self, state: State, variables: Sequence[Symbol]) -> Relation:
        """Return the distinct rows of a state over variables."""
        if len(state.relations) < 2 and state.rows() <= SMALL:
            return state.whole(variables)
        return await self.heavy(0, state.whole, variables)
