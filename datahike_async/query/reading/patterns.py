"""Data patterns: from a view or a collection of tuples to a relation, joined with what is known.

The hot path is an attribute of entities that are known already: both sides are columns, the
attribute's is sorted by entity, and one lookup aligns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.errors import TransactionError
from datahike_async.index.arrays import member, positions_of
from datahike_async.index.columns import BOOL, I64, INT, OBJECT, Column, Rows
from datahike_async.query.language.ast import BLANK, Clause, Pattern, is_var
from datahike_async.query.language.text import variable_text
from datahike_async.query.reading.access import NO_MATCH, entity_of, is_free, rows_of, value_of
from datahike_async.query.reading.fetch import fetch_attributes, few, read, read_each
from datahike_async.query.reading.terms import check_terms
from datahike_async.query.reading.tuples import match_tuples
from datahike_async.query.relations.relation import (
    Relation,
    column_of,
    constant_mask,
    equal_mask,
    plain_value,
    shared_codes,
)
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["aligned", "match_pattern", "selects"]


# -- matching ----------------------------------------------------------------------------------


async def match_pattern(
    source: Any, clause: Pattern, state: State, rest: Sequence[Clause] = ()
) -> str:
    """Match a pattern, join what is found into ``state``, and return how it was done.

    ``rest`` are the clauses to come: comparisons among them bound what is read of an index.
    """
    if not isinstance(source, View):
        state.add(match_tuples(source, clause, state))
        return "collection"
    view = source
    terms = [state.consts.get(t, t) if is_var(t) else t for t in clause.terms]
    e, a, v, t, op = terms
    check_terms(terms)
    if is_var(a) or a is BLANK:
        return await _any_attribute(view, terms, state)
    attr = view.schema.by_key.get(a)
    if not is_free(e):
        e = entity_of(view, e)
    if attr is not None and not is_free(v):
        v = value_of(attr, v)
    if attr is None or e is NO_MATCH or v is NO_MATCH:
        state.add(_nothing(terms))
        return "no match" if attr is not None else "unknown attribute"
    joined = ""
    known_e = None
    if state.relations:
        known_e = state.column_of(e) if is_var(e) else None
        known_v = state.column_of(v) if is_var(v) else None
        # Of mixed values only numbers are entities.
        if known_e is not None:
            joined = variable_text(e)
            if known_e.kind == OBJECT:
                _keep_ids(e, state)
        if known_v is not None:
            joined = f"{joined} {variable_text(v)}" if joined else variable_text(v)
            if attr.is_ref and known_v.kind == OBJECT:
                _keep_ids(v, state)
    rows, sorted_by_e, matched, how, at = await rows_of(view, attr, e, v, state, rest)
    if (
        sorted_by_e
        and is_var(e)
        and t is BLANK
        and op is BLANK
        and e is not v
        and known_e is not None
        and not attr.many
        and not view.history
    ):
        _align(rows, e, v, attr, state)
    else:
        terms = [e, BLANK, BLANK if matched else v, t, op]
        whole = is_var(t) and is_var(op)
        facts = (not attr.many or matched or is_var(v)) and is_var(e)
        once = facts and (whole or not view.history)
        state.add(_relation(rows, terms, at=at, distinct=once))
    return f"{how}, joined on {joined}" if joined else how


def _nothing(terms: Sequence[Any]) -> Relation:
    return Relation({t: Column.of([]) for t in terms if is_var(t)}, 0)


def _relation(
    rows: Rows,
    terms: Sequence[Any],
    *,
    at: npt.NDArray[Any] | None = None,
    names: Column | None = None,
    distinct: bool = False,
) -> Relation:
    """Return the relation of the variables among ``terms``; constants among them filter.

    ``at`` are the positions of the rows that are meant, if not all are. ``names`` is the column of
    attributes where that is a variable. ``distinct`` says that no two rows agree in what is named.
    """
    masks: list[Any] = []
    columns: dict[Symbol, Column] = {}
    count = len(rows) if at is None else len(at)
    for i, term in enumerate(terms):
        if term is BLANK:
            continue
        column = names if i == 1 else _component(rows, i)
        if column is None:
            continue
        if at is not None:
            column = column.take(at)
        if not is_var(term):
            masks.append(constant_mask(column, term))
        elif term in columns:
            masks.append(equal_mask(columns[term], column))
        else:
            columns[term] = column
    relation = Relation(columns, count)
    if masks:
        relation = relation.take(np.logical_and.reduce(masks))
    if not columns:
        return Relation({}, 1 if relation.count else 0)
    return relation if distinct else relation.project_distinct()


def _component(rows: Rows, i: int) -> Column:
    """Return the column of entities, values, transactions or of whether they were added."""
    if i == 0:
        return Column(INT, rows.e)
    if i == 2:
        return rows.v
    if i == 3:
        return Column(INT, rows.t)
    return Column(BOOL, np.ones(len(rows), np.bool_) if rows.added is None else rows.added)


def _align(rows: Rows, e: Symbol, v: Any, attr: Attr, state: State) -> None:
    relation = state.take([e])
    known = relation.columns[e]
    if not len(rows) or known.kind != INT:
        state.relations.append(relation.take(np.empty(0, np.int64)))
        state.add(_nothing((e, v)))
        return
    positions = aligned(rows, known.data)
    found = positions >= 0
    if not is_free(v):
        # Position -1 looks at the last row, which does no harm: it is not found.
        found &= constant_mask(rows.v.take(positions), v)
    if found.all():
        left = relation
    else:
        left = relation.take(found)
        positions = positions[found]
    if not is_var(v):
        state.relations.append(left)
        return
    values = rows.v.take(positions)
    if v in left.columns:
        state.relations.append(left.take(equal_mask(left.columns[v], values)))
        return
    # Where another relation has values of v, these join it.
    state.add(left.with_column(v, values))


def aligned(rows: Rows, entities: I64) -> npt.NDArray[Any]:
    """Return for every entity its position in ``rows``, whose entities are distinct, or -1."""
    if not len(rows):
        return np.full(len(entities), -1, np.int64)
    low, high = int(rows.e[0]), int(rows.e[-1])
    if high - low == len(rows) - 1:
        # No entity between the first and the last is missing: where it is says its number.
        offset = entities - low
        if (offset.view(np.uint64) < len(rows)).all():
            return offset
        return np.where(offset.view(np.uint64) < len(rows), offset, -1)
    if high - low < 8 * len(rows) + 1024:
        table = rows.dense
        if table is None:
            table = np.full(high - low + 1, -1, np.int32)
            table[rows.e - low] = np.arange(len(rows), dtype=np.int32)
            rows.dense = table
        offset = entities - low
        inside = (offset >= 0) & (offset <= high - low)
        if inside.all():
            return np.asarray(table[offset])
        return np.where(inside, table[np.where(inside, offset, 0)], -1)
    positions = rows.e.searchsorted(entities)
    positions[positions == len(rows)] = 0
    return np.where(rows.e[positions] == entities, positions, -1)


# -- variables of mixed values -----------------------------------------------------------------


def _keep_ids(variable: Symbol, state: State) -> None:
    """Keep the rows in which a variable may be an entity: where it is a number."""
    column = state.column_of(variable)
    if column is None or column.kind != OBJECT:
        return
    relation = state.take([variable])
    values = relation.columns[variable].tolist()
    keep = np.array([type(x) is int and -(2**63) <= x < 2**63 for x in values], np.bool_)
    relation = relation.take(keep)
    ids = Column.of([x for x, kept in zip(values, keep.tolist(), strict=True) if kept])
    state.relations.append(relation.with_column(variable, ids))


# -- attribute variables -----------------------------------------------------------------------


async def _any_attribute(view: View, terms: list[Any], state: State) -> str:
    e, a, v, t, op = terms
    attrs = view.schema.attrs
    runs: list[Rows]
    if not is_free(e):
        e = entity_of(view, e)
        if e is NO_MATCH:
            state.add(_nothing(terms))
            return "no match"
        how = "EAVT entity"
        runs = [await read(view.entity, e)]
    else:
        column = state.column_of(e) if is_var(e) else None
        known = _selected(view, terms, state)
        if known == 0:
            assert column is not None
            how = "EAVT seeks"
            entities = dict.fromkeys(column.data.tolist())
            runs = await read_each(view.entity, [(x,) for x in entities])
        elif known == 2:
            how = "AVET seeks" if is_var(v) else "AVET value"
            values = state.column_of(v) if is_var(v) else column_of([v])
            assert values is not None
            ids = await _attributes(view, a, state)
            runs = await _with_values(view, ids, values)
        else:
            how = "AEVT scan of all"
            ids = await _attributes(view, a, state)
            await fetch_attributes(view, ids)
            runs = [await read(view.attr, i) for i in ids]
    if v is BLANK:
        # Columns of every type are costly to join, and nobody asked for them.
        runs = [Rows(r.e, r.a, Column(INT, r.e), r.t, added=r.added) for r in runs]
    elif not is_var(v):
        v = tuple(v) if isinstance(v, list) else v
        runs = [run.take(constant_mask(run.v, v)) for run in runs]
        v = BLANK
    rows = Rows.concat([run for run in runs if len(run)])
    if not len(rows):
        state.add(_nothing(terms))
    else:
        names = Column.of([attr.ident for attr in attrs]).take(rows.a)
        # A fact is there once, so naming all of it repeats nothing.
        once = is_var(e) and is_var(a) and is_var(v) and not view.history
        state.add(_relation(rows, (e, a, v, t, op), names=names, distinct=once))
    return how


def _selected(view: View, terms: Sequence[Any], state: State) -> int | None:
    """Return which term of a pattern for any attribute is looked up: 0 or 2, or None for neither.

    A constant entity is no matter of looking up many.
    """
    total = len(view.snapshot.trees) + view.snapshot.n
    e, v = terms[0], terms[2]
    column = state.column_of(e) if is_var(e) else None
    if column is not None:
        return 0 if column.kind == INT and few(len(column), total) else None
    values = state.column_of(v) if is_var(v) else None
    if values is not None:
        return 2 if few(len(values), total / len(view.schema.attrs)) else None
    return None if is_free(v) else 2


def selects(view: View, terms: Sequence[Any], state: State) -> bool:
    """Whether a pattern for any attribute reads what is known by its entity or value alone."""
    terms = [state.consts.get(t, t) if is_var(t) else t for t in terms]
    return not is_free(terms[0]) or _selected(view, terms, state) is not None


async def _attributes(view: View, a: Any, state: State) -> list[int]:
    """Return the attributes that a pattern may mean, of those that have datoms."""
    attrs = view.schema.attrs
    wanted = state.column_of(a) if is_var(a) else None
    ids: list[int] = await read(view.attr_ids)
    if wanted is not None:
        by_name = {attrs[i].ident: i for i in ids}
        ids = [by_name[k] for k in dict.fromkeys(wanted.tolist()) if k in by_name]
    return ids


async def _with_values(view: View, ids: Sequence[int], values: Column) -> list[Rows]:
    """Return the datoms of attributes that have one of a few values: looked up in AVET.

    Of attributes without an index the columns are compared, where they can hold such values.
    """
    once = {typed_key(x): x for x in map(plain_value, values.tolist())}
    seeks: list[tuple[int, Any, Any]] = []
    columns: list[int] = []
    for a in ids:
        attr = view.schema.attrs[a]
        held = [x for x in once.values() if _holds(attr, x)]
        if not held:
            continue
        if attr.indexed:
            seeks += [(a, x, x) for x in held]
        else:
            columns.append(a)
    runs = await read_each(view.attr_range, seeks)
    await fetch_attributes(view, columns)
    wanted = column_of(list(once.values()))
    for a in columns:
        rows = await read(view.attr, a)
        keys = shared_codes(rows.v, wanted)
        if keys is not None:
            runs.append(rows.take(positions_of(member(keys[0], keys[1]))))
    return runs


def _holds(attr: Attr, value: Any) -> bool:
    """Whether an attribute can have a value, which is as a database holds it."""
    try:
        return bool(typed_key(attr.coerce(value, attr.ident)) == typed_key(value))
    except TransactionError:
        return False
