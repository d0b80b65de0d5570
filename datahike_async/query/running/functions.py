"""Predicate and function clauses: arguments, the call, and what becomes of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.index.columns import Column
from datahike_async.query.builtins.calls import call_rows, check_arity, is_async, named_function
from datahike_async.query.builtins.columns import column_of_call, mask_of_call
from datahike_async.query.builtins.matching import pattern_mask
from datahike_async.query.builtins.supply import CHANCE, Supply
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.language.ast import (
    BindScalar,
    Clause,
    Function,
    Predicate,
    is_var,
)
from datahike_async.query.reading.lookups import DATABASE, check_lookup, read_database
from datahike_async.query.relations.joins import product_where
from datahike_async.query.relations.relation import (
    Relation,
    constant_mask,
)
from datahike_async.query.relations.unify import bind_values, unified, where_kept
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State
    from datahike_async.query.running.run import Run

__all__ = ["Functions"]

# Products of more pairs are compared piece by piece.
_FUSED: Final = 1 << 16


class Functions:
    """Calls of one run. ``given`` are the functions and values that ``:in`` named."""

    def __init__(self, run: Run, given: Mapping[Symbol, Any]) -> None:
        self.run = run
        self.given = given
        self.random = CHANCE
        self._supplies: dict[int, tuple[Clause, Supply]] = {}

    async def predicate(self, clause: Predicate, state: State) -> str:
        """Keep the rows for which the predicate holds; return how it was found out."""
        heavy = self.run.heavy
        name = self._builtin(clause.function)
        if len(state.relations) < 2:
            relation, args = self._arguments(clause, state)
        else:
            if name is not None and await heavy(0, self._compared, name, clause, state):
                return "predicate on pairs"
            relation, args = await heavy(0, self._arguments, clause, state)
        count = relation.count
        mask = None if name is None else await heavy(count, mask_of_call, name, args, count)
        how = "predicate on columns"
        if mask is None and name is not None:
            mask = await self._matched(clause, name, relation, args, state)
        if mask is None:
            how = "predicate by row"
            values = await self._call(clause, relation, args, state, predicate=True)
            mask = np.array(values, np.bool_)
        if not relation.columns:
            state.relations.append(Relation({}, 1 if mask.all() and len(mask) else 0))
            return how
        if not mask.all():
            relation = await heavy(count, relation.take, mask)
        state.relations.append(relation)
        return how

    async def function(self, clause: Function, state: State) -> str:
        """Bind the results of a function; variables that have a value already unify."""
        heavy = self.run.heavy
        if len(state.relations) < 2:
            relation, args = self._arguments(clause, state)
        else:
            relation, args = await heavy(0, self._arguments, clause, state)
        bound = [v for v in clause.gives if state.bound(v)]
        column: Column | None = None
        name = self._builtin(clause.function)
        if name is not None and isinstance(clause.binding, BindScalar):
            column = await heavy(relation.count, column_of_call, name, args, relation.count)
        if column is not None and isinstance(clause.binding, BindScalar):
            how = "function on columns"
            extended = await heavy(relation.count, unified, relation, clause.binding.name, column)
        else:
            how = "function by row"
            values = await self._call(clause, relation, args, state, predicate=False)
            extended = await heavy(0, bind_values, clause.binding, values, relation)
        for variable in bound:
            if variable in state.consts and variable in extended.columns:
                keep = constant_mask(extended.columns[variable], state.consts[variable])
                columns = {v: c for v, c in extended.columns.items() if v is not variable}
                extended = where_kept(Relation(columns, extended.count), keep)
        if state.relations:
            await heavy(0, state.add, extended)
        else:
            state.add(extended)  # there is nothing to join
        return how

    def check(self, clause: Predicate | Function, consts: Mapping[Symbol, Any]) -> None:
        """Raise QueryError where there is no such function, or none of so many arguments."""
        name: Any = clause.function
        found = consts.get(name) if is_var(name) else self.given.get(name, name)
        if found is None:
            return  # what each row has is called
        if isinstance(found, Symbol):
            if found.text in DATABASE:
                check_lookup(found.text, len(clause.args))
                return
            if found.text == "q":
                return
            found = named_function(found)
        if not callable(found):
            raise _no_function(name, found)
        check_arity(found, name, len(clause.args))

    def is_builtin(self, function: Any) -> bool:
        """Whether a symbol means a built-in function here."""
        return self._builtin(function) in BUILTINS

    def _builtin(self, function: Any) -> str | None:
        """Return the text of a symbol that means a built-in function here."""
        if type(function) is not Symbol or function in self.given:
            return None
        return None if lookup_function(function) is not None else function.text

    # -- arguments -----------------------------------------------------------------------------

    def _arguments(self, clause: Predicate | Function, state: State) -> tuple[Relation, list[Any]]:
        columns = [t for t in clause.args if is_var(t) and t not in state.consts]
        consts = state.consts
        function = clause.function
        if is_var(function) and function not in consts:
            columns.append(function)
        elif len(state.relations) > 1 and (alone := state.alone(columns)):
            consts = {**consts, **alone}
            columns = [v for v in columns if v not in alone]
        relation = state.take(columns)
        args: list[Any] = []
        for term in clause.args:
            if is_var(term):
                args.append(consts[term] if term in consts else relation.columns[term])
            elif type(term) is Symbol and term.text[0] == "$":
                args.append(self.run.source(term))
            elif type(term) is Symbol and term in self.given:
                args.append(self.given[term])
            else:
                args.append(term)
        return relation, args

    def _compared(self, name: str, clause: Predicate, state: State) -> bool:
        """Compare the rows of two relations pair by pair, where their product is large.

        Only the pairs that are kept are made. False where this is not the way to do it.
        """
        variables = [t for t in clause.args if is_var(t) and t not in state.consts]
        consts = {**state.consts, **state.alone(variables)}
        variables = [v for v in variables if v not in consts]
        two, others = state.parted(variables)
        if len(two) != 2 or two[0].count * two[1].count < _FUSED:
            return False
        left, right = two

        def test(pairs: Relation) -> Any:
            args = [consts.get(t, pairs.columns.get(t, t)) if is_var(t) else t for t in clause.args]
            return mask_of_call(name, args, pairs.count)

        kept = product_where(left, right, variables, test, state.meter)
        if kept is None:
            return False
        state.relations = [*others, kept]
        return True

    async def _matched(
        self, clause: Predicate, name: str, relation: Relation, args: list[Any], state: State
    ) -> npt.NDArray[np.bool_] | None:
        """Return where a column matches a pattern; long texts are matched row by row."""
        supply = self._supply(clause, relation.count)
        found = await self.run.heavy(relation.count, pattern_mask, name, args, supply)
        if found is None:
            return None
        mask, rest = found
        if len(rest):
            some = [a.take(rest) if isinstance(a, Column) else a for a in args]
            few = relation.take(rest)
            mask[rest] = await self._call(clause, few, some, state, predicate=True)
        return mask

    async def _call(
        self,
        clause: Predicate | Function,
        relation: Relation,
        args: list[Any],
        state: State,
        *,
        predicate: bool,
    ) -> list[Any]:
        function = clause.function
        if is_var(function):
            found = state.consts.get(function)
            if found is None:
                return await self._each_function(clause, relation, args, predicate=predicate)
            return await self._rows(clause, found, relation, args, predicate=predicate)
        if function in self.given:
            return await self._rows(
                clause, self.given[function], relation, args, predicate=predicate
            )
        if function.text in DATABASE:
            return await read_database(function.text, args, relation.count)
        if function.text == "q":
            return await self._query(relation, args)
        found = named_function(function)
        if found is BUILTINS["complement"]:
            args = [named_function(a) if type(a) is Symbol else a for a in args]
        return await self._rows(clause, found, relation, args, predicate=predicate)

    async def _rows(
        self,
        clause: Predicate | Function,
        function: Any,
        relation: Relation,
        args: list[Any],
        *,
        predicate: bool,
    ) -> list[Any]:
        if isinstance(function, Symbol):
            function = named_function(function)
        if not callable(function):
            raise _no_function(clause.function, function)
        given = [self._given_source(arg) for arg in args]
        return await self._called(clause, function, given, relation, predicate=predicate)

    async def _called(
        self,
        clause: Predicate | Function,
        function: Callable[..., Any],
        args: list[Any],
        relation: Relation,
        *,
        predicate: bool,
    ) -> list[Any]:
        return await call_rows(
            function,
            clause.function,
            args,
            relation.count,
            predicate=predicate,
            pause=self.run.pause,
            supply=self._supply(clause, relation.count),
            meter=self.run.meter,
            watch=self.run.watch,
        )

    def _supply(self, clause: Clause, rows: int) -> Supply:
        """Return what a clause has for all its rows, also where a rule carries it out often."""
        known = self._supplies.get(id(clause))
        if known is None:
            run = self.run
            turns = run.host is not None
            supply = Supply(self.random, turns=turns, meter=run.meter)
            known = self._supplies[id(clause)] = (clause, supply)
        known[1].more(rows)
        return known[1]

    def _given_source(self, arg: Any) -> Any:
        """Return the database value that the user gave, where the argument is its view."""
        if isinstance(arg, View):
            for name, view in self.run.views.items():
                if view is arg:
                    return self.run.sources[name]
        return arg

    async def _each_function(
        self, clause: Predicate | Function, relation: Relation, args: list[Any], *, predicate: bool
    ) -> list[Any]:
        def call(function: Any, *rest: Any) -> Any:
            if not callable(function):
                raise _no_function(clause.function, function)
            return function(*rest)

        async def awaited(function: Any, *rest: Any) -> Any:
            result = call(function, *rest)
            return await result if is_async(function) else result

        column = relation.columns[clause.function]
        waits = any(is_async(x) for x in column.tolist() if callable(x))
        one = awaited if waits else call
        return await self._called(clause, one, [column, *args], relation, predicate=predicate)

    async def _query(self, relation: Relation, args: list[Any]) -> list[Any]:
        if not args:
            raise QueryError(
                '(q …) takes a query and its inputs, as in (q "[:find …]" $).',
                error=":query/where",
            )
        columns = [
            a.tolist() if isinstance(a, Column) else [self._given_source(a)] * relation.count
            for a in args
        ]
        out = []
        for row in zip(*columns, strict=True):
            budget = self.run.meter.left()
            made = self.run.nested(*row, host=self.run.host, budget=budget, rng=self.random)
            out.append(await made)
        return out


def _no_function(name: Any, value: Any) -> QueryError:
    return QueryError(
        f"{name} is {shown(value)}, no function; give a callable, or a symbol that names one.",
        error=":query/where",
    )
