"""What an attribute has of known entities: looked up together, at the cost of what is found."""

from __future__ import annotations

from datahike_async.index.columns import I64, Rows
from datahike_async.index.source import read
from datahike_async.query.reading.fetch import bisects, read_each, sought
from datahike_async.query.reading.stats import Stats
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = ["all_of_entities", "looked_up", "possible", "rows_of_entities"]


def looked_up(view: View, attr: Attr, known: int) -> bool:
    """Whether so many known entities are looked up, rather than all of an attribute read."""
    size = Stats(view).count(attr)
    if not view.past and view.snapshot.trees.cached(attr.id) is not None:
        return bisects(known, size)
    return sought(known, size)


async def rows_of_entities(view: View, a: int, entities: I64) -> Rows:
    """Return the datoms of an attribute that known entities have, ordered by entity.

    ``entities`` ascend, and none comes twice; what can be no entity has none.
    """
    return await read(view.of_entities, a, possible(entities))


async def all_of_entities(view: View, entities: I64) -> Rows:
    """Return all datoms that known entities have; ``entities`` ascend, and none comes twice."""
    entities = possible(entities)
    if not view.past:
        return await read(view.snapshot.all_of_entities, entities)
    return Rows.concat(await read_each(view.entity, [(e,) for e in entities.tolist()]))


def possible(entities: I64) -> I64:
    """Return those of some numbers that can be entities."""
    return entities[(entities >= 0) & (entities <= EMAX)]
