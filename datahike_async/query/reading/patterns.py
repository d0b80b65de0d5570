"""Data patterns: from a view or a collection of tuples to a relation, joined with what is known.

The hot path is an attribute of entities that are known already: both sides are columns, the
attribute's is sorted by entity, and one lookup aligns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.errors import TransactionError
from datahike_async.index.arrays import member, positions_of, searched, uniques
from datahike_async.index.columns import BOOL, EMPTY_I64, I64, INT, OBJECT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.source import read
from datahike_async.query.language.ast import BLANK, Clause, Pattern, is_var
from datahike_async.query.language.text import variable_text
from datahike_async.query.reading.access import (
    NO_MATCH,
    entity_of,
    in_parts,
    is_free,
    rows_of,
    value_of,
)
from datahike_async.query.reading.closing import closing
from datahike_async.query.reading.fetch import bisects, fetch_attributes, few, read_each
from datahike_async.query.reading.known import all_of_entities
from datahike_async.query.reading.parts import (
    fits,
    has_room,
    of_entities,
    of_values,
    ranges,
    selected,
)
from datahike_async.query.reading.stats import Stats
from datahike_async.query.reading.terms import check_terms
from datahike_async.query.reading.tuples import match_tuples
from datahike_async.query.relations.joins import pairs_of
from datahike_async.query.relations.relation import (
    Relation,
    column_of,
    constant_mask,
    equal_mask,
    plain_value,
    shared_codes,
)
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["Part", "aligned", "apart_by", "match_pattern", "part_of", "parts_of", "selects"]

Part = tuple[int, int, int]
"""An attribute, and the first and last entity of which it is read."""


# -- matching ----------------------------------------------------------------------------------

# Bytes of an entity, an attribute and a value in one column; and of an entity and a code.
_ROW: Final = 20
_FILTERED: Final = 12


async def match_pattern(
    source: Any,
    clause: Pattern,
    state: State,
    rest: Sequence[Clause] = (),
    part: Part | None = None,
) -> str:
    """Match a pattern, join what is found into ``state``, and return how it was done.

    ``rest`` are the clauses to come: comparisons among them bound what is read of an index. With
    ``part``, nothing is known of what the pattern names, and a part of it is read alone.
    """
    if not isinstance(source, View):
        state.add(match_tuples(source, clause, state))
        return "collection"
    view = source
    terms = [state.consts.get(t, t) if is_var(t) else t for t in clause.terms]
    e, a, v, t, op = terms
    check_terms(terms)
    if is_var(a) or a is BLANK:
        return await _any_attribute(view, terms, state, part)
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
    if part is None:
        rows, ordered, matched, how, at = await rows_of(view, attr, e, v, state, rest)
    else:
        rows = await _read_part(view, part)
        ordered, matched, how, at = True, False, "AEVT parts", None
    terms = [e, BLANK, BLANK if matched else v, t, op]
    whole = is_var(t) and is_var(op)
    facts = (not attr.many or matched or is_var(v)) and is_var(e)
    once = facts and (whole or not view.history)
    by_entity = ordered and known_e is not None
    if by_entity and t is BLANK and op is BLANK and e is not v and not (attr.many or view.history):
        _align(rows, e, v, attr, state)
    elif (
        known_e is not None
        and ordered
        and (how == "EAVT seeks" or bisects(len(known_e), len(rows)))
    ):
        _bisect(rows, terms, state, distinct=once)
        how = how if how == "EAVT seeks" else "AEVT column, bisected"
    else:
        found = _relation(rows, terms, at=at, distinct=once)
        state.add(found, closing(view, clause, found, state, rest))
    return f"{how}, joined on {joined}" if joined else how


async def _read_part(view: View, part: Part) -> Rows:
    a, low, high = part
    return Rows.concat(await read(view.slice, Order.AEVT, (a, low), (a, high)))


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


def _bisect(rows: Rows, terms: Sequence[Any], state: State, *, distinct: bool) -> None:
    """Join rows that are ordered by entity with entities that are known, reading theirs alone.

    ``distinct`` says that no two rows of one entity agree in what is named.
    """
    relation = state.take([terms[0]])
    known = relation.columns[terms[0]]
    if not len(rows) or known.kind != INT:
        state.relations.append(relation.take(np.empty(0, np.int64)))
        state.add(_nothing(terms))
        return
    meter, width = state.meter, len(relation.columns) + 1
    here, there = pairs_of(
        searched(rows.e, known.data),
        searched(rows.e, known.data, "right"),
        None,
        None if meter is None else lambda total: meter.rows(total, width),
    )
    columns: dict[Symbol, Column] = {}
    masks: list[Any] = []
    for i, term in enumerate(terms[2:], 2):
        if term is BLANK:
            continue
        column = _component(rows, i).take(there)
        if not is_var(term):
            masks.append(constant_mask(column, term))
        elif term in columns:
            masks.append(equal_mask(columns[term], column))
        elif term in relation.columns:
            masks.append(equal_mask(relation.columns[term].take(here), column))
        else:
            columns[term] = column
    if masks:
        keep = positions_of(np.logical_and.reduce(masks))
        here = here[keep]
        columns = {v: column.take(keep) for v, column in columns.items()}
    if not columns:
        state.relations.append(relation.take(uniques(here)))
        return
    found = Relation({**relation.take(here).columns, **columns}, len(here))
    # Where another relation has values of these variables, they join it.
    state.add(found if distinct else found.project_distinct())


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


# -- parts -------------------------------------------------------------------------------------


async def parts_of(view: View, clause: Pattern, state: State, rest: Sequence[Clause]) -> list[Part]:
    """Return the parts that a pattern is to be read in; none where memory has room for all of it.

    Entities have what they have of an attribute in one part.
    """
    terms = [state.consts.get(t, t) if is_var(t) else t for t in clause.terms]
    e, a, v = terms[:3]
    if is_var(a) or a is BLANK:
        known = [t for t in (e, a, v) if is_var(t) and state.column_of(t) is not None]
        if known or not (is_free(e) and is_free(v)) or has_room(view, Stats(view).total()):
            return []
        return [
            (i, *limits)
            for i in await _attributes(view, a, state)
            for limits in await ranges(view, i)
        ]
    attr = view.schema.by_key.get(a)
    if attr is None:
        return []
    if not is_free(v):
        v = value_of(attr, v)
    return [(attr.id, *limits) for limits in await in_parts(view, attr, e, v, state, rest)]


def part_of(part: Part, clause: Pattern, state: State) -> State | None:
    """Return what is known of a part's entities; None where nothing is known of any."""
    e = clause.terms[0]
    if not is_var(e) or state.column_of(e) is None:
        return None
    _, low, high = part
    inner = state.inner(state.consts, state.relations)
    relation = inner.take([e])
    data = relation.columns[e].data
    inner.relations.append(relation.take(np.flatnonzero((data >= low) & (data <= high))))
    return inner


def apart_by(clause: Clause) -> list[Symbol]:
    """Return variables of which no two parts of a pattern have equal values, or nothing."""
    if not isinstance(clause, Pattern) or not is_var(clause.terms[0]) or clause.terms[1] is BLANK:
        return []
    return [t for t in clause.terms[:2] if is_var(t)]


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


async def _any_attribute(view: View, terms: list[Any], state: State, part: Part | None) -> str:
    e, a, v, t, op = terms
    attrs = view.schema.attrs
    runs: list[Rows]
    if part is not None:
        how = "AEVT parts of all"
        runs = [await _read_part(view, part)]
    elif not is_free(e):
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
            runs = [await all_of_entities(view, uniques(column.data))]
        elif known == 2:
            how = "AVET seeks" if is_var(v) else "AVET value"
            values = state.column_of(v) if is_var(v) else column_of([v])
            assert values is not None
            ids = await _attributes(view, a, state)
            runs = await _with_values(view, ids, values, state)
        else:
            how = "AEVT scan of all"
            ids = await _attributes(view, a, state)
            least = _FILTERED if v is not BLANK and not is_var(v) else _ROW
            runs = await _all_of(view, ids, column, state, least)
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


async def _all_of(
    view: View, ids: Sequence[int], entities: Column | None, state: State, least: int
) -> list[Rows]:
    """Return attributes from end to end; of those without room in memory what entities have.

    A row takes ``least`` bytes or more by the time all are joined.
    """
    attrs = view.schema.attrs
    if has_room(view, Stats(view).total()):
        await fetch_attributes(view, ids)
        return [await read(view.attr, i) for i in ids]
    meter, runs, size = state.meter, [], 0
    known = None if entities is None else uniques(_ids(entities))
    if known is None and meter is not None:
        # What is there at the least: nothing is read where that is too much already.
        counts = [await read(view.snapshot.trees.count_attr, i) for i in ids]
        meter.holds(0 if view.past else sum(counts) * least)
    for i in ids:
        if await fits(view, attrs[i]):
            rows = await read(view.attr, i)
        elif known is None:
            rows = await selected(view, i, lambda _: None, meter)
        else:
            rows = await of_entities(view, i, known, meter)
        runs.append(rows)
        size += rows.nbytes
        if meter is not None:
            meter.holds(size)
    return runs


def _ids(entities: Column) -> I64:
    """Return the entity ids of a column: of mixed values, the numbers among them."""
    if entities.kind == INT:
        return entities.data
    if entities.kind != OBJECT:
        return EMPTY_I64
    return np.array([x for x in entities.tolist() if type(x) is int and 0 <= x <= EMAX], np.int64)


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


async def _with_values(view: View, ids: Sequence[int], values: Column, state: State) -> list[Rows]:
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
    wanted = column_of(list(once.values()))
    large = [a for a in columns if not await fits(view, view.schema.attrs[a])]
    runs += [await of_values(view, a, wanted, state.meter) for a in large]
    columns = [a for a in columns if a not in large]
    await fetch_attributes(view, columns)
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
