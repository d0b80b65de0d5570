"""Access paths: which index a pattern is read from, and how much of it.

Known entities are looked up in EAVT, known values in AVET, a range of values that predicates bound
in AVET too; everything else reads the attribute's columns from AEVT, which are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, TransactionError, shown
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import CODED, INT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.source import NodeMiss, read, resolve
from datahike_async.query.language.ast import BLANK, Clause, Predicate, is_var
from datahike_async.query.reading.fetch import FEW, few, read_each
from datahike_async.query.reading.known import looked_up, rows_of_entities
from datahike_async.query.reading.parts import (
    fits,
    has_room,
    is_much,
    of_entities,
    ranges,
    rows_within,
)
from datahike_async.query.reading.stats import Stats
from datahike_async.query.relations.relation import code_of, constant_mask
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["NO_MATCH", "Access", "entity_of", "in_parts", "is_free", "rows_of", "value_of"]

# Columns at hand of fewer rows are compared faster than a range of the index is read.
_MANY: Final = 20_000
# From so many questions on, and where values come so often, their positions are kept.
_AGAIN: Final = 3
_OFTEN: Final = 8
# Where an attribute is not at hand, a range that has so much less than all of it is read instead;
# and where it has no more rows than a leaf for each of its entities, not looked up one by one.
_LESS: Final = 4
_LEAF: Final = 512
# More values than this are looked up together.
_TOGETHER: Final = 16
# How many known values are counted in the index, to tell how many datoms all of them have.
_TRIED: Final = 4
# A column at hand is joined where it has fewer times as many values as are known.
_SHARED: Final = 16
NO_MATCH: Final = object()
"""What is nowhere to be found, whatever the data are."""


class Access(NamedTuple):
    """What was read for a pattern. ``how`` names the index and the path."""

    rows: Rows
    # All of the attribute, or of the entities that are known, ordered by entity.
    ordered: bool
    # Only rows that have the value that the pattern asks for.
    matched: bool
    how: str
    # The positions of the rows that are meant, where not all of ``rows`` are.
    at: npt.NDArray[Any] | None = None


def is_free(term: Any) -> bool:
    """Whether a term of a pattern is a blank or a variable."""
    return term is BLANK or is_var(term)


def entity_of(view: View, ref: Any) -> Any:
    """Return an entity id, or NO_MATCH where no entity can have it.

    What names an entity otherwise was resolved before; raises QueryError for what names none.
    """
    if type(ref) is int:
        # A query asks; a number that no entity can have finds nothing.
        return ref if -EMAX <= ref <= EMAX else NO_MATCH
    if isinstance(ref, (bool, float, type(None))):
        raise QueryError(
            "Bad format for entity-id in pattern, must be a number, ident or lookup ref: "
            f"{shown(ref)}.",
            error=":search/pattern",
        )
    found = view.entid(ref)
    return NO_MATCH if found is None else found


def value_of(attr: Attr, value: Any) -> Any:
    """Return a value that a query names as the attribute holds it, or NO_MATCH."""
    if value is None:
        return NO_MATCH
    if attr.is_ref and type(value) is not int:
        return NO_MATCH
    try:
        return attr.coerce(value, attr.ident)
    except TransactionError:
        return NO_MATCH  # a value of another type is nowhere to be found


async def rows_of(
    view: View, attr: Attr, e: Any, v: Any, state: State, rest: Sequence[Clause]
) -> Access:
    """Return the rows that may match a pattern, over the index that has least to read.

    ``e`` and ``v`` are terms: canonical constants, variables or blanks.
    """
    a = attr.id
    constant = not is_free(v)
    if not is_free(e):
        bound = (e, a, v) if constant else (e, a)
        runs = await read(view.slice, Order.EAVT, bound, bound)
        return Access(Rows.concat(runs), False, constant, "EAVT entity")
    column = state.column_of(e) if is_var(e) else None
    rows = view.cached(a)
    if column is None:
        if constant and attr.indexed:
            return await _value_rows(view, a, v)
        if is_var(v) and attr.indexed:
            known = state.column_of(v)
            if known is not None:
                if _values_sought(view, attr, known, rows):
                    return await _values_rows(view, a, _once(attr, known))
            elif rest:
                bounds = _bounds(attr, v, rest, state.consts)
                if bounds is not None and _worth(view, attr, bounds, rows):
                    part = await read(view.attr_range, a, *bounds)
                    return Access(part, False, False, "AVET range")
    elif constant and attr.unique:
        return await _value_rows(view, a, v)
    elif rows is None and column.kind == INT and looked_up(view, attr, len(column)):
        entities = uniques(column.data)
        if not view.snapshot.trees.memory.limited or not _is_near(view, attr, entities, _LEAF):
            part = await rows_of_entities(view, a, entities)
            return Access(part, True, False, "EAVT seeks")
    if rows is None and view.snapshot.trees.memory.limited:
        near = await _part(view, attr, column, state)
        if near is not None:
            return near
    if rows is None:
        try:
            rows = view.attr(a)
        except NodeMiss as miss:
            if constant and attr.indexed:
                # Less to fetch than all of the attribute.
                return await _value_rows(view, a, v)
            rows = await resolve(miss, view.attr, a)
    if constant and column is None:
        return Access(rows, False, True, "AEVT column, filtered", _positions(rows, v))
    return Access(rows, True, False, "AEVT column")


async def in_parts(
    view: View, attr: Attr, e: Any, v: Any, state: State, rest: Sequence[Clause]
) -> list[tuple[int, int]]:
    """Return the ranges of entities that an attribute is to be read in, where memory needs that.

    Nothing where it has room for the attribute, or little of it is read.
    """
    if not is_free(e):
        return []
    constant = not is_free(v)
    column = state.column_of(e) if is_var(e) else None
    if column is not None:
        if (constant and attr.unique) or column.kind != INT or not len(column):
            return []
        if looked_up(view, attr, len(column)) or await fits(view, attr):
            return []
        if not await is_much(view, attr, len(column)):
            return []
        ends = int(column.data.min()), int(column.data.max())
        found = await ranges(view, attr.id, *ends)
        return found if len(found) > 1 else []
    if constant and attr.indexed:
        return []
    if is_var(v) and attr.indexed:
        known = state.column_of(v)
        if known is not None and _values_sought(view, attr, known, None):
            return []
        bounds = _bounds(attr, v, rest, state.consts) if known is None and rest else None
        worth = bounds is not None and _worth(view, attr, bounds, None)
        if bounds is not None and worth and has_room(view, Stats(view).between(attr, *bounds)):
            return []
    return [] if await fits(view, attr) else await ranges(view, attr.id)


def _is_near(view: View, attr: Attr, entities: Any, rows: int | None = None) -> bool:
    """Whether entities, ascending, lie in a range that has far less of an attribute than all.

    With ``rows`` it has no more than so many for each of them.
    """
    if not len(entities):
        return False
    within = rows_within(view, attr.id, int(entities[0]), int(entities[-1]))
    if rows is not None and within > rows * len(entities):
        return False
    return bool(within * _LESS <= view.snapshot.rough_count(attr.id))


async def _part(view: View, attr: Attr, entities: Column | None, state: State) -> Access | None:
    """Return the rows of known entities, where an attribute is not to be put together.

    That is where memory has no room for it, or what is known of the entities reaches not far.
    """
    if entities is None or entities.kind != INT:
        return None
    known = uniques(entities.data)
    if not _is_near(view, attr, known) and await fits(view, attr):
        return None
    rows = await of_entities(view, attr.id, known, state.meter)
    return Access(rows, True, False, "AEVT parts")


def _positions(rows: Rows, value: Any) -> npt.NDArray[Any]:
    """Return where a column of an attribute holds a value, ascending.

    Where few values come often, and are asked for again, the positions of each are kept.
    """
    column = rows.v
    if column.kind != CODED or column.dictionary is None:
        return np.flatnonzero(constant_mask(column, value))
    if rows.groups is None:
        rows.asked += 1
        if rows.asked < _AGAIN or len(column.dictionary) * _OFTEN > len(rows):
            return np.flatnonzero(constant_mask(column, value))
        codes = column.data.astype(np.uint16) if len(column.dictionary) < 2**16 else column.data
        order = np.argsort(codes, kind="stable").astype(np.int32)
        counts = np.bincount(column.data, minlength=len(column.dictionary))
        rows.groups = (order, np.concatenate([[0], np.cumsum(counts)]))
    order, start = rows.groups
    code = code_of(column, value)
    return order[:0] if code is None else order[start[code] : start[code + 1]]


def _values_sought(view: View, attr: Attr, known: Column, rows: Rows | None) -> bool:
    """Whether known values are looked up one by one, rather than compared with a column.

    Looking up values that a good part of the datoms have reads as many datoms as the column, which
    is kept; and where that is at hand, many values are joined with it sooner.
    """
    stats = Stats(view)
    if not few(len(known), stats.count(attr)):
        return False
    if rows is not None and len(known) > FEW:
        return len(known) * _SHARED <= stats.values(attr)
    return not _is_common(view, attr, known)


def _is_common(view: View, attr: Attr, values: Column) -> bool:
    """Whether a good part of an attribute's datoms have one of some values, going by a few."""
    count = view.snapshot.rough_count(attr.id)
    if attr.unique or count < _MANY or not len(values):
        return False
    index = view.snapshot.trees.current[Order.AVET]
    step = -(-len(values) // _TRIED)
    tried = values.take(np.arange(0, len(values), step)).tolist()
    found = 0
    for x in tried:
        x = value_of(attr, x)
        if x is NO_MATCH:
            continue
        rows, sure = index.estimate((attr.id, x), (attr.id, x))
        if not sure:
            return False  # a guess is no reason to read all
        found += rows
    return found * len(values) * _LESS > count * len(tried)


async def _value_rows(view: View, a: int, v: Any) -> Access:
    return Access(await read(view.attr_range, a, v, v), False, True, "AVET value")


def _once(attr: Attr, known: Column) -> Column:
    """Return the different values of a column, as the attribute holds them."""
    if known.kind == INT and attr.exact is int:
        return Column(INT, uniques(known.data))
    found = [value_of(attr, x) for x in known.tolist()]
    return Column.of(list({typed_key(x): x for x in found if x is not NO_MATCH}.values()))


async def _values_rows(view: View, a: int, values: Column) -> Access:
    if len(values) > _TOGETHER and not view.past:
        rows = await read(view.snapshot.of_values, a, values)
        return Access(rows, False, False, "AVET seeks")
    bounds = [(a, x) for x in values.tolist()]
    runs = await read_each(view.slice, [(Order.AVET, bound, bound) for bound in bounds])
    rows = Rows.concat([run for found in runs for run in found])
    return Access(rows, False, False, "AVET seeks")


# -- ranges ------------------------------------------------------------------------------------

_LOWER: Final = {">": True, ">=": True, "<": False, "<=": False}


def _bounds(
    attr: Attr, variable: Symbol, rest: Sequence[Clause], consts: Mapping[Symbol, Any]
) -> tuple[Any, Any] | None:
    """Return the least and greatest value that comparisons to come can let through, inclusive.

    The comparisons still run: the range only spares reading what they would throw away.
    """
    lower: Any = None
    upper: Any = None
    for clause in rest:
        if not isinstance(clause, Predicate) or len(clause.args) != 2:
            continue
        function = clause.function
        if type(function) is not Symbol or function.text not in (*_LOWER, "="):
            continue
        a, b = (consts.get(x, x) if is_var(x) else x for x in clause.args)
        flipped = b is variable
        value: Any = a if flipped else b
        if (b if flipped else a) is not variable or type(value) is not attr.exact:
            continue
        if value != value:
            continue
        if function.text == "=" or _LOWER[function.text] is not flipped:
            lower = value if lower is None else max(lower, value)
        if function.text == "=" or _LOWER[function.text] is flipped:
            upper = value if upper is None else min(upper, value)
    return None if lower is None and upper is None else (lower, upper)


def _worth(view: View, attr: Attr, bounds: tuple[Any, Any], rows: Rows | None) -> bool:
    """Whether reading a range costs less than the columns of the attribute."""
    if view.past or (rows is not None and len(rows) < _MANY):
        return False
    stats = Stats(view)
    within = stats.between(attr, *bounds)
    if rows is None and not stats.resident(attr):
        # Columns that are read are kept for the next query; so a range should spare much.
        return 2 * within < stats.count(attr)
    return 16 * within < stats.count(attr)
