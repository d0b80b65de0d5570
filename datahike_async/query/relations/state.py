"""State: what one conjunction knows so far, as relations over disjoint variables and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import ascending
from datahike_async.index.columns import INT, Column
from datahike_async.query.relations.joins import join, parts_of
from datahike_async.query.relations.relation import Relation, plain_column, unit

if TYPE_CHECKING:
    from datahike_async.query.limits.budget import Meter

__all__ = ["State"]


class State:
    """What is known so far in one conjunction."""

    __slots__ = ("consts", "meter", "relations")

    def __init__(
        self,
        consts: Mapping[Symbol, Any],
        relations: Sequence[Relation] = (),
        meter: Meter | None = None,
    ) -> None:
        self.consts = consts
        self.relations: list[Relation] = list(relations)
        self.meter = meter

    def inner(self, consts: Mapping[Symbol, Any], relations: Sequence[Relation] = ()) -> State:
        """Return the state of a scope inside this one, on the same budget."""
        return State(consts, relations, self.meter)

    def bound(self, variable: Symbol) -> bool:
        """Whether a variable has a value."""
        return variable in self.consts or any(variable in r.columns for r in self.relations)

    def variables(self) -> set[Symbol]:
        """Return all variables that have a value."""
        return {*self.consts, *(v for relation in self.relations for v in relation.columns)}

    def column_of(self, variable: Symbol) -> Column | None:
        """Return the column of a variable that is no constant."""
        for relation in self.relations:
            found = relation.columns.get(variable)
            if found is not None:
                return found
        return None

    def alone(self, variables: AbstractSet[Symbol] | Sequence[Symbol]) -> dict[Symbol, Any]:
        """Return the values of variables that have one value, where others of them have more.

        As a constant a value need not be repeated beside each row of the others.
        """
        homes = self.parted(variables)[0]
        if len(homes) < 2:
            return {}
        single = [relation for relation in homes if relation.count == 1]
        if len(single) == len(homes):
            return {}
        return {
            v: relation.columns[v].tolist()[0]
            for relation in single
            for v in relation.columns
            if v in variables
        }

    def take(self, variables: Sequence[Symbol]) -> Relation:
        """Remove the relations that hold any of ``variables`` and return their product."""
        wanted, others = self.parted(variables)
        out = wanted[0] if wanted else unit()
        for relation in wanted[1:]:
            out = join(out, relation, self.meter)
        self.relations = others
        return out

    def parted(
        self, variables: AbstractSet[Symbol] | Sequence[Symbol]
    ) -> tuple[list[Relation], list[Relation]]:
        """Return the relations that hold any of ``variables``, and the others."""
        wanted: list[Relation] = []
        others: list[Relation] = []
        for relation in self.relations:
            (others if relation.columns.keys().isdisjoint(variables) else wanted).append(relation)
        return wanted, others

    def add(self, relation: Relation, only: Relation | None = None) -> None:
        """Join a relation with those that share its variables.

        ``only`` are two columns that a clause to come will join, one of either side.
        """
        if relation.columns:
            # One after the other: the product of two that only this one connects is never made.
            wanted, others = self.parted(relation.columns.keys())
            for known in sorted(wanted, key=len):
                closes = only is not None and parts_of(only, known, relation)
                relation = join(known, relation, self.meter, only if closes else None)
            self.relations = [*others, relation]
        elif not relation.count:
            self.relations.append(relation)

    def rows(self) -> int:
        """Return the rows of the largest relation."""
        return max((r.count for r in self.relations), default=1)

    def width(self) -> int:
        """Return the columns of the widest relation."""
        return max((len(r.columns) for r in self.relations), default=0)

    def keep(self, wanted: Iterable[Symbol], uses: Mapping[Symbol, int], at: int) -> None:
        """Forget the columns of variables that are neither wanted nor used from step ``at`` on.

        ``uses`` says of each which step is the last to use it.
        """
        relations, wanted = list(self.relations), frozenset(wanted)
        for i, relation in enumerate(relations):
            kept = [v for v in relation.columns if v in wanted or uses.get(v, -1) >= at]
            if len(kept) < len(relation.columns):
                relations[i] = relation.project(kept)
        self.relations = relations

    def spare(self, wanted: Iterable[Symbol], uses: Mapping[Symbol, int], at: int) -> None:
        """Forget such columns where a glance tells that no two rows differ in them alone."""
        relations, wanted = list(self.relations), frozenset(wanted)
        for i, relation in enumerate(relations):
            kept = {
                v: c for v, c in relation.columns.items() if v in wanted or uses.get(v, -1) >= at
            }
            if len(kept) < len(relation.columns) and any(
                c.kind == INT and ascending(c.data) for c in kept.values()
            ):
                relations[i] = Relation(kept, relation.count)
        self.relations = relations

    @property
    def empty(self) -> bool:
        """Whether no row can come of it any more."""
        return any(not r.count for r in self.relations)

    def whole(self, variables: Sequence[Symbol]) -> Relation:
        """Return the distinct rows over ``variables``, constants included."""
        if self.empty:
            none = {v: Column.of([]) for v in variables}
            return Relation(none, 0)
        out = unit()
        columns = [v for v in variables if v not in self.consts]
        for relation in self.relations:
            out = join(out, relation.project(columns), self.meter)
        for variable in variables:
            if variable in self.consts:
                constant = plain_column([self.consts[variable]])
                out = out.with_column(variable, constant.take(np.zeros(out.count, np.int64)))
        return out
