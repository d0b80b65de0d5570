"""Patterns that close a circle: what is known of both their ends is joined by the pattern before.

Of three people who know one another, `[?a :knows ?b] [?b :knows ?c]` finds many times more than
`[?a :knows ?c]` lets through. The pairs of a join are tested as they are made, where the columns
that test them are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datahike_async.index.columns import EMPTY_I64, INT, Column
from datahike_async.query.language.ast import BLANK, Clause, Pattern, is_var
from datahike_async.query.relations.joins import parts_of
from datahike_async.query.relations.relation import Relation
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["closing"]


def closing(
    view: View, clause: Pattern, relation: Relation, state: State, rest: Sequence[Clause]
) -> Relation | None:
    """Return the two columns of the pattern that comes next, where it closes a circle.

    ``relation`` is what ``clause`` found, to be joined into ``state``. None where the next clause
    does something else, or its columns are not at hand.
    """
    following = rest[0] if rest else None
    if not isinstance(following, Pattern) or following.source != clause.source or view.history:
        return None
    e, a, v, *others = following.terms
    if not (is_var(e) and is_var(v)) or e is v or any(x is not BLANK for x in others):
        return None
    attr: Any = None if is_var(a) or a is BLANK else view.schema.by_key.get(a)
    # What has one value is looked up by its entity, which is as fast.
    if attr is None or not attr.many or e in state.consts or v in state.consts:
        return None
    wanted, _ = state.parted(relation.columns.keys())
    names = Relation(dict.fromkeys((e, v), Column(INT, EMPTY_I64)), 0)
    if not any(parts_of(names, known, relation) for known in wanted):
        return None
    rows = view.cached(attr.id)
    if rows is None:
        return None
    return Relation({e: Column(INT, rows.e), v: rows.v}, len(rows))
