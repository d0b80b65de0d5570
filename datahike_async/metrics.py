"""Metrics: how many datoms a database value holds, by index, attribute and entity.

One attribute after another, in a worker thread: all that there is is read, and little of it is held
at once. Knows views alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import EMPTY_I64, I64
from datahike_async.index.protocol import Order
from datahike_async.index.source import Reading
from datahike_async.konserve.threads import in_thread
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.snapshot.views import View

__all__ = ["Metrics", "metrics"]


@dataclass(frozen=True, slots=True)
class Metrics(Json):
    """How many datoms there are.

    ``count`` is of all, ``avet_count`` of those of indexed attributes; ``per_attr_counts`` and
    ``per_entity_counts`` are theirs by ident and by entity id. ``temporal_count`` and
    ``temporal_avet_count`` are what ``history`` has besides; None where none is kept.
    """

    count: int
    avet_count: int
    per_attr_counts: Mapping[Keyword, int]
    per_entity_counts: Mapping[int, int]
    temporal_count: int | None
    temporal_avet_count: int | None

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    def as_json(self) -> dict[str, Any]:
        """Return its parts, by their names; keys of maps are text."""
        out: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        out["per_attr_counts"] = {repr(a): n for a, n in self.per_attr_counts.items()}
        out["per_entity_counts"] = {str(e): n for e, n in self.per_entity_counts.items()}
        return out


async def metrics(view: View) -> Metrics:
    """Count the datoms of a view; see :func:`datahike_async.metrics`."""
    per_attr: dict[Keyword, int] = {}
    ids, counts = EMPTY_I64, EMPTY_I64
    avet = past = past_avet = 0
    keeps = view.snapshot.keep_history
    history = view.with_history() if keeps else None

    def present(a: int) -> I64:
        runs = view.slice(Order.AEVT, (a,), (a,))
        return np.concatenate([EMPTY_I64, *(run.e for run in runs)])

    def ever(a: int) -> int:
        return 0 if history is None else history.count_slice(Order.AEVT, (a,), (a,))

    def added(more: I64) -> tuple[I64, I64]:
        new, of_each = np.unique(more, return_counts=True)
        whole = uniques(np.concatenate([ids, new]))
        sums = np.zeros(len(whole), np.int64)
        sums[np.searchsorted(whole, ids)] += counts
        sums[np.searchsorted(whole, new)] += of_each
        return whole, sums

    for attr in view.schema.attrs:
        # One at a time: what it needed is let go before the next.
        with Reading() as reading:
            of_entities: I64 = await reading.call(present, attr.id, run=in_thread)
            whole: int = await reading.call(ever, attr.id, run=in_thread)
        count = len(of_entities)
        if count:
            per_attr[attr.ident] = count
            ids, counts = await in_thread(added, of_entities)
        past += whole - count
        if attr.indexed:
            avet += count
            past_avet += whole - count
    per_entity = await in_thread(lambda: dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    return Metrics(
        sum(per_attr.values()),
        avet,
        per_attr,
        per_entity,
        past if keeps else None,
        past_avet if keeps else None,
    )
