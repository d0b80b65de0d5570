"""Point queries: a few entities found by a unique value, read row by row without columns.

``[?e :user/email ?mail] [?e :user/name ?n]`` touches a handful of datoms; setting up columns for
them would cost several times the answer. A query of this shape is compiled to seeks once per
schema. Whatever does not fit, or finds more than a few rows, is left to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError, TransactionError
from datahike_async.query.language.ast import BLANK, BindScalar, Pattern, Query, is_var
from datahike_async.query.relations.relation import plain_value
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr, Schema
from datahike_async.values.types import typed_key

__all__ = ["PointPlan", "point_plan"]

_MOST: Final = 64
_SCHEMAS: Final = 8
# A constant, an input, what a step before has found, what this one finds, nothing.
_CONST, _INPUT, _SLOT, _NEW, _BLANK = range(5)
_SIMPLE: Final = frozenset({int, str, Keyword, Symbol})

# (lookup?, attribute, mode of the known end, its slot or constant, mode of the other, likewise)
_Step = tuple[bool, Attr, int, Any, int, Any]


class PointPlan:
    """How to answer one query by seeks. ``inputs`` is the number of scalars after the database."""

    __slots__ = ("_compiled", "_find", "_names", "_patterns", "inputs")

    def __init__(self, names: Sequence[Symbol], patterns: Sequence[Pattern], find: Any) -> None:
        self._names = tuple(names)
        self._patterns = tuple(patterns)
        self._find = tuple(find)
        self.inputs = len(self._names)
        # schema, steps, positions of what is found, terms that may name an entity otherwise than
        # by id, the patterns in their order
        self._compiled: dict[int, tuple[Schema, Any, Any, Any, Any]] = {}

    def run(self, view: View, inputs: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """Return the distinct rows of ``:find``, or None where the engine has to do it.

        Raises NodeMiss; it may be called again.
        """
        for value in inputs:
            kind = type(value)
            if kind is not str and kind is not int:
                if any(v is None for v in inputs):
                    return None
                inputs = [*map(plain_value, inputs)]
                break
        schema = view.snapshot.schema
        found = self._compiled.get(id(schema))
        if found is None:
            found = self._compile(schema)
        _, steps, out, naming, _ = found
        if steps is None:
            return None
        rows: list[tuple[Any, ...]] = [tuple(inputs)]
        for step in steps:
            more = _lookup(view, step, rows) if step[0] else _values(view, step, rows)
            if more is None or len(more) > _MOST:
                return None
            rows = more
            if not rows:
                # What names nothing is an error, also where no row has come to it.
                return None if naming and _names_another_way(naming, inputs) else []
        if len(out) == 1:
            i = out[0]
            answers = [(row[i],) for row in rows]
        else:
            answers = [tuple([row[i] for i in out]) for row in rows]
        if len(answers) > 1:
            answers = list({typed_key(row): row for row in answers}.values())
        return answers

    def seeks(self, schema: Schema) -> list[tuple[Pattern, str]] | None:
        """Return the patterns in the order of their seeks, with the index of each, or None."""
        found = self._compiled.get(id(schema)) or self._compile(schema)
        if found[4] is None:
            return None
        return [(pattern, "AVET seek" if lookup else "EAVT seek") for pattern, lookup in found[4]]

    def _compile(self, schema: Schema) -> tuple[Schema, Any, Any, Any, Any]:
        slots = {name: i for i, name in enumerate(self._names)}
        made = (schema, *self._steps(schema, slots))
        while len(self._compiled) >= _SCHEMAS:
            self._compiled.pop(next(iter(self._compiled)))
        # The schema is kept with what was made for it, so that its id stays its own.
        self._compiled[id(schema)] = made
        return made

    def _steps(self, schema: Schema, slots: dict[Symbol, int]) -> tuple[Any, Any, Any, Any]:
        todo = list(self._patterns)
        steps: list[_Step] = []
        order: list[tuple[Pattern, bool]] = []
        naming: list[tuple[int, Any]] = []
        while todo:
            best = None
            for i, pattern in enumerate(todo):
                e, a, v = pattern.terms[:3]
                attr = schema.by_key.get(a)
                if attr is None:
                    return None, None, None, None
                if _known(e, slots):
                    best = (i, False)
                    break
                if _known(v, slots) and attr.indexed and (attr.unique or steps) and best is None:
                    best = (i, True)
            if best is None:
                return None, None, None, None
            i, lookup = best
            order.append((todo[i], lookup))
            e, a, v = todo.pop(i).terms[:3]
            attr = schema.by_key[a]
            naming += [
                _mode(term, slots, self.inputs) for term in ((e, v) if attr.is_ref else (e,))
            ]
            known, other = (v, e) if lookup else (e, v)
            modes = _mode(known, slots, self.inputs), _mode(other, slots, self.inputs)
            steps.append((lookup, attr, *modes[0], *modes[1]))
            if is_var(other) and other not in slots:
                slots[other] = len(slots)
        naming = [
            (mode, term)
            for mode, term in naming
            if mode == _INPUT or (mode == _CONST and type(term) is not int)
        ]
        return steps, tuple(slots[v] for v in self._find), naming, order


def point_plan(query: Query) -> PointPlan | None:
    """Return the plan of a query that may be answered by seeks, else None."""
    names: list[Symbol] = []
    if not query.ins or query.ins[0] != BindScalar(Symbol("$")):
        return None
    for binding in query.ins[1:]:
        if not isinstance(binding, BindScalar) or not is_var(binding.name):
            return None
        names.append(binding.name)
    if query.with_ or query.having or not query.where or not all(map(is_var, query.find.elements)):
        return None
    patterns = []
    for clause in query.where:
        if not isinstance(clause, Pattern) or clause.source.text != "$":
            return None
        e, a, v, *rest = clause.terms
        if any(t is not BLANK for t in rest) or not isinstance(a, Keyword):
            return None
        # A variable in both places, or a constant that is no plain value: leave it to the engine.
        if e is v and e is not BLANK:
            return None
        if not (is_var(e) or type(e) in (int, list) or isinstance(e, Keyword)):
            return None
        if isinstance(v, (list, tuple, dict, set, frozenset)):
            return None
        patterns.append(clause)
    return PointPlan(names, patterns, query.find.elements)


def _known(term: Any, slots: dict[Symbol, int]) -> bool:
    return term is not BLANK and (not is_var(term) or term in slots)


def _mode(term: Any, slots: dict[Symbol, int], inputs: int) -> tuple[int, Any]:
    if term is BLANK:
        return _BLANK, None
    if not is_var(term):
        return _CONST, term
    slot = slots.get(term)
    if slot is None:
        return _NEW, None
    return (_INPUT if slot < inputs else _SLOT), slot


def _names_another_way(naming: Sequence[tuple[int, Any]], inputs: Sequence[Any]) -> bool:
    """Whether a term that stands for an entity is none by id."""
    return any(mode == _CONST or type(inputs[term]) is not int for mode, term in naming)


def _entity(view: View, ref: Any) -> int | None:
    """Return the entity that a constant or an input names; for None the engine says why."""
    try:
        return view.entid(ref)
    except QueryError:
        return None


def _lookup(view: View, step: _Step, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]] | None:
    _, attr, mode, known, other_mode, _ = step
    out = []
    for row in rows:
        value = known if mode == _CONST else row[known]
        if type(value) is not attr.exact:
            if value is None:
                continue
            if attr.is_ref and type(value) is not int:
                if mode == _SLOT:
                    continue  # what data bind names no entity
                value = _entity(view, value)
                if value is None:
                    return None
            else:
                try:
                    value = attr.coerce(value, attr.ident)
                except TransactionError:
                    continue  # a value of another type is nowhere to be found
        found = view.lookup(attr.id, value)
        if len(found) > _MOST:
            return None
        if other_mode == _NEW:
            out += [(*row, e) for e in found]
        elif found:
            out.append(row)
    return out


def _values(view: View, step: _Step, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]] | None:
    _, attr, mode, known, other_mode, other = step
    a = attr.id
    out: list[tuple[Any, ...]] = []
    for row in rows:
        e = known if mode == _CONST else row[known]
        if type(e) is not int:
            if mode == _SLOT:
                continue  # what data bind names no entity
            e = _entity(view, e)
            if e is None:
                return None
        values = view.values(e, a)
        if not values:
            continue
        if other_mode == _NEW:
            out += [(*row, v) for v in values]
        elif other_mode == _BLANK:
            out.append(row)
        else:
            wanted = other if other_mode == _CONST else row[other]
            if type(wanted) is not attr.exact:
                return None
            if type(wanted) in _SIMPLE:
                if wanted in values:
                    out.append(row)
            elif typed_key(wanted) in map(typed_key, values):
                out.append(row)
    return out
