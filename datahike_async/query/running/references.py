"""References: idents and lookup refs, resolved before anything is planned.

A constant of the text or of a rule is replaced by the entity's id. A variable that ``:in`` binds
keeps what was given, and gets a companion, ``?e@$``, that holds the ids of the source ``$`` and
stands for it wherever an entity stands: a rule is handed the companion where its argument is an
entity everywhere in it, and both, under a name of its own, where it is also used as it is. So a
reference is an id before the first row is read, and what data bind is never taken for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.index.columns import CODED, OBJECT, Column
from datahike_async.index.source import NodeMiss, read
from datahike_async.looks import walked as walked_values
from datahike_async.query.language.ast import Clause
from datahike_async.query.language.places import (
    is_reference,
)
from datahike_async.query.language.referring import Kept
from datahike_async.query.language.rewriting import (
    AS_ATTRIBUTE,
    Constant,
    Reading,
    Readings,
    Use,
    companion,
    rewritten,
)
from datahike_async.query.reading.fetch import read_each
from datahike_async.query.relations.relation import Relation, column_of
from datahike_async.snapshot.views import View
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    from datahike_async.query.limits.watch import Watch
    from datahike_async.query.running.bound import Bound
    from datahike_async.query.running.prepared import Prepared

__all__ = ["Found", "are_none", "resolved"]

_KEPT: Final = 64
_CHUNK: Final = 1024


class Found(NamedTuple):
    """Clauses and inputs without references."""

    where: Sequence[Clause]
    bound: Bound


def are_none(prepared: Prepared, bound: Bound) -> bool:
    """Whether it is seen at a glance that nothing names an entity otherwise than by id.

    So it is with most queries: constants are known from the last time, and inputs are numbers, or
    stand where no entity does.
    """
    kept = prepared.references
    if kept is None or kept.constants or kept.rules is not bound.rules:
        return False
    for variable, value in bound.consts.items():
        if type(value) is not int and variable in kept.places and is_reference(value):
            return False
    for relation in bound.relations:
        for variable, column in relation.columns.items():
            if column.kind in (CODED, OBJECT) and variable in kept.places:
                return False
    return True


async def resolved(prepared: Prepared, bound: Bound, watch: Watch) -> Found:
    """Return the clauses of a query, its rules and its inputs with every reference resolved.

    Raises QueryError ``:entity-id/missing`` where one names nothing, and what ``entid`` raises for
    one that is none.
    """
    where = prepared.query.where
    kept = prepared.references
    if kept is None or kept.rules is not bound.rules:
        kept = prepared.references = await watch.run(0, Kept, where, bound.rules)
    readings = Readings(bound.views, bound.consts)
    if bound.relations:
        rows = max(relation.count for relation in bound.relations)
        carried = await watch.run(rows, _carried, kept, bound, readings)
    else:
        carried = _carried(kept, bound, readings)
    if not carried and not kept.constants:
        return Found(where, bound)
    key = readings.key(kept.attributes, carried)
    use = kept.uses.get(key)
    if use is None:
        use = await watch.run(0, Use, where, bound.rules, readings)
        _keep(kept.uses, key, use)
    if not carried and not use.constants:
        return Found(where, bound)
    try:
        ids = _stood_for(use.constants, bound)
    except NodeMiss:
        ids = await _fetched(use.constants, bound)
    made = use.made.get(ids)
    if made is None:
        by_key = dict(zip(use.keys, ids, strict=True))
        made = await watch.run(0, rewritten, use, bound.rules, readings, by_key, where, carried)
        _keep(use.made, ids, made)
    if carried:
        bound = await _accompanied(bound, carried, watch)
    return Found(made[0], bound if made[1] is bound.rules else replace(bound, rules=made[1]))


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    while len(kept) >= _KEPT:
        kept.pop(next(iter(kept)), None)
    kept[key] = value


def _carried(kept: Kept, bound: Bound, readings: Readings) -> dict[Symbol, tuple[Reading, ...]]:
    """Return the inputs that hold references where one is read, and as what they are read."""
    out: dict[Symbol, tuple[Reading, ...]] = {}
    inputs: Iterable[tuple[Symbol, Any]] = bound.consts.items()
    if bound.relations:
        inputs = [*inputs, *(pair for r in bound.relations for pair in r.columns.items())]
    for variable, value in inputs:
        column = type(value) is Column
        if value.kind not in (CODED, OBJECT) if column else not is_reference(value):
            continue
        places = kept.places.get(variable, ())
        read = (readings.reading(place, bound.consts) for place in places)
        found = {reading: None for reading in read if reading is not None}
        if found and column:
            values = _values(value)
            for reading in [*found]:
                as_attribute = reading is AS_ATTRIBUTE
                if not any(is_reference(x, attribute=as_attribute) for x in values):
                    del found[reading]
        elif found and type(value) is not str:
            found.pop(AS_ATTRIBUTE, None)
        if found:
            out[variable] = tuple(sorted(found, key=repr))
    return out


def _values(column: Column) -> Sequence[Any]:
    """Return the values of a column, each at least once."""
    dictionary = column.dictionary
    if column.kind == CODED and dictionary is not None and len(dictionary) <= len(column):
        return dictionary.values
    return column.tolist()


# -- values ------------------------------------------------------------------------------------


def _stood_for(constants: Sequence[Constant], bound: Bound) -> tuple[Any, ...]:
    """Return what each constant stands for: an id, or a keyword."""
    views = bound.views
    return tuple(
        [
            Keyword(form) if reading is AS_ATTRIBUTE else views[reading].entid_strict(form)
            for reading, form in constants
        ]
    )


async def _fetched(constants: Sequence[Constant], bound: Bound) -> tuple[Any, ...]:
    """Return the same where nodes are missing: of each source all are fetched together."""
    for name, view in bound.views.items():
        await read_each(view.entid, [(form,) for reading, form in constants if reading is name])
    return await read(_stood_for, constants, bound)


async def _accompanied(
    bound: Bound,
    carried: Mapping[Symbol, Sequence[Reading]],
    watch: Watch,
) -> Bound:
    """Return inputs with the companions of variables that hold references."""
    consts = dict(bound.consts)
    relations = []
    for variable, readings in carried.items():
        if variable in bound.consts:
            for reading in readings:
                view = bound.views.get(reading)
                value = await _ids(view, [bound.consts[variable]], watch)
                consts[companion(variable, reading)] = value[0]
    for relation in bound.relations:
        columns = dict(relation.columns)
        for variable, column in relation.columns.items():
            for reading in carried.get(variable, ()):
                ids = await _ids(bound.views.get(reading), column.tolist(), watch)
                made = await watch.run(len(ids), column_of, ids)
                columns[companion(variable, reading)] = made
        relations.append(Relation(columns, relation.count))
    return replace(bound, consts=consts, relations=relations)


async def _ids(view: View | None, values: Sequence[Any], watch: Watch) -> list[Any]:
    """Return values with ids in the place of references, or keywords where there is no view."""
    if view is None:
        return [Keyword(x) if is_reference(x, attribute=True) else x for x in values]
    forms = await watch.run(len(values), _forms, values)
    keys = list(forms)
    found: dict[Any, int] = {}
    for start in range(0, len(keys), _CHUNK):
        if start:
            await watch.pause()
        part = keys[start : start + _CHUNK]
        ids = await read_each(view.entid_strict, [(forms[key],) for key in part])
        found.update(zip(part, ids, strict=True))
    return await watch.run(len(values), _replaced, values, found)


def _forms(values: Sequence[Any]) -> dict[Any, Any]:
    return {typed_key(x): x for x in walked_values(values) if is_reference(x)}


def _replaced(values: Sequence[Any], found: Mapping[Any, int]) -> list[Any]:
    return [found[typed_key(x)] if is_reference(x) else x for x in walked_values(values)]
