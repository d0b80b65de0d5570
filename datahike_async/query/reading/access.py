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
from datahike_async.index.columns import CODED, INT, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.language.ast import BLANK, Clause, Predicate, is_var
from datahike_async.query.reading.fetch import SEEKS, few, read, read_each
from datahike_async.query.reading.stats import Stats, cached
from datahike_async.query.relations.relation import code_of, constant_mask
from datahike_async.snapshot.snapshot import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["NO_MATCH", "Access", "entity_of", "is_free", "rows_of", "value_of"]

# Columns at hand of fewer rows are compared faster than a range of the index is read.
_MANY: Final = 20_000
# From so many questions on, and where values come so often, their positions are kept.
_AGAIN: Final = 3
_OFTEN: Final = 8
NO_MATCH: Final = object()
"""What is nowhere to be found, whatever the data are."""


class Access(NamedTuple):
    """What was read for a pattern. ``how`` names the index and the path."""

    rows: Rows
    # All of the attribute, ordered by entity.
    whole: bool
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
    rows = cached(view, a)
    if column is None:
        if constant and attr.indexed:
            return await _value_rows(view, a, v)
        if is_var(v) and attr.indexed:
            known = state.column_of(v)
            if known is not None:
                if few(len(known), Stats(view).count(attr)):
                    found = [value_of(attr, x) for x in known.tolist()]
                    once = {typed_key(x): x for x in found if x is not NO_MATCH}
                    return await _seeks(view, Order.AVET, [(a, x) for x in once.values()])
            elif rest:
                bounds = _bounds(attr, v, rest, state.consts)
                if bounds is not None and _worth(view, attr, bounds, rows):
                    part = await read(view.attr_range, a, *bounds)
                    return Access(part, False, False, "AVET range")
    elif constant and attr.unique:
        return await _value_rows(view, a, v)
    elif (
        rows is None
        and len(column) <= SEEKS
        and column.kind == INT
        and await read(view.count_attr, a) > 16 * len(column)
    ):
        seeks = [(x, a) for x in dict.fromkeys(column.data.tolist())]
        return await _seeks(view, Order.EAVT, seeks)
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


async def _value_rows(view: View, a: int, v: Any) -> Access:
    return Access(await read(view.attr_range, a, v, v), False, True, "AVET value")


async def _seeks(view: View, order: Order, bounds: Sequence[tuple[Any, ...]]) -> Access:
    runs = await read_each(view.slice, [(order, bound, bound) for bound in bounds])
    rows = Rows.concat([run for found in runs for run in found])
    return Access(rows, False, False, f"{order.name} seeks")


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
        return within is None or 2 * within < stats.count(attr)
    return within is not None and 16 * within < stats.count(attr)
