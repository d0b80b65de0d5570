"""How much a pattern is going to read, told before it does: by what is known, and by statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.query.language.ast import BLANK, Pattern, is_var
from datahike_async.query.reading.fetch import bisects, few, sought
from datahike_async.query.reading.parts import has_room
from datahike_async.query.reading.stats import Stats
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["read_together", "read_whole", "rows_selected"]

# A search in an index takes as long as so many rows of a column that are compared.
_SEEK: Final = 128


def rows_selected(stats: Stats, attr: Attr, terms: Sequence[Any], state: State) -> float | None:
    """Return about how many rows a pattern reads by what is known; None: all of the attribute.

    A search in an index counts for as many rows as it lasts. ``terms`` are those of the pattern,
    with constants in the place of variables that have one value.
    """
    e, v = terms[0], terms[2]
    size = stats.count(attr)
    if not _free(e) or (attr.unique and not _free(v)):
        return _SEEK
    known = state.column_of(e) if is_var(e) else None
    if known is not None:
        count, each = len(known), size / max(stats.entities(attr), 1.0)
        if stats.resident(attr):
            aligned = not attr.many and stats.view.cached(attr.id) is not None
            return count * (1 + each) if aligned or bisects(count, size) else None
        return count * (_SEEK + each) if sought(count, size) else None
    if not attr.indexed or v is BLANK:
        return None
    if not is_var(v):
        return _SEEK + stats.matching(attr, v)
    known = state.column_of(v)
    if known is None or not few(len(known), size):
        return None
    return len(known) * (_SEEK + size / max(stats.values(attr), 1.0))


def read_whole(view: View, clause: Pattern, later: Sequence[Any], state: State) -> list[int]:
    """Return the attributes that a pattern and those after it will read from end to end.

    Empty where the pattern selects: then it is not known yet how much the others will read.
    """
    out: list[int] = []
    stats = Stats(view)
    for pattern in (clause, *later):
        if not isinstance(pattern, Pattern) or pattern.source is not clause.source:
            continue
        terms = [state.consts.get(t, t) if is_var(t) else t for t in pattern.terms]
        key = terms[1]
        attr = view.schema.by_key.get(key) if isinstance(key, (Keyword, str)) else None
        if attr is not None and _whole(stats, attr, terms, state):
            out.append(attr.id)
        elif pattern is clause:
            return []
    return out


def read_together(view: View, attributes: Sequence[int]) -> bool:
    """Whether memory has room for several attributes that are read at once."""
    return has_room(view, sum(view.snapshot.rough_count(a) for a in attributes))


def _whole(stats: Stats, attr: Attr, terms: Sequence[Any], state: State) -> bool:
    e, v = terms[0], terms[2]
    if not _free(v) and (not is_var(e) or state.column_of(e) is None):
        return False  # it selects, also where no index helps
    return not stats.resident(attr) and rows_selected(stats, attr, terms, state) is None


def _free(term: Any) -> bool:
    return term is BLANK or is_var(term)
