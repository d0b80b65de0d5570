"""Touching in one go what a large transaction will look up, so that one miss names it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from datahike_async.errors import TransactionError
from datahike_async.index.columns import Rows
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.source import Address, NodeMiss, NodeSource
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.tx.forms import MOST_LEVELS
from datahike_async.values.types import typed_key

__all__ = ["prefetch"]


_PART: Final = 512


def prefetch(base: Snapshot, items: list[Any]) -> None:
    """Look up the entities and unique values that ``items`` name. Raises NodeMiss for all."""
    by_key = base.schema.by_key
    entities: dict[Bound, None] = {}
    values: dict[Any, Bound] = {}

    def named(ref: Any) -> None:
        if type(ref) is int and base.trees.may_have(ref) and ref > 0:
            entities[(ref,)] = None
        elif isinstance(ref, (list, tuple)) and len(ref) == 2:
            unique(ref[0], ref[1])

    def unique(key: Any, value: Any) -> None:
        attr = by_key.get(key) if isinstance(key, str) or hasattr(key, "text") else None
        if attr is None or attr.unique is None or attr.is_ref:
            return
        try:
            value = attr.coerce(value, attr.ident)
        except TransactionError:
            return  # the ordinary path says what is wrong, where it comes to it
        values[attr.id, typed_key(value)] = (attr.id, value)

    def entity_map(item: Mapping[Any, Any], levels: int = MOST_LEVELS) -> None:
        if not levels:
            return  # as above
        for key, value in item.items():
            if getattr(key, "text", key) in ("db/id", ":db/id"):
                named(value)
            elif isinstance(value, Mapping):
                entity_map(value, levels - 1)
            elif isinstance(value, (list, tuple)):
                for one in value:
                    if isinstance(one, Mapping):
                        entity_map(one, levels - 1)
                    else:
                        named(one)
            elif not isinstance(value, (set, frozenset)):
                unique(key, value)

    for item in items:
        if isinstance(item, Mapping):
            entity_map(item)
        elif isinstance(item, (list, tuple)) and len(item) > 1:
            named(item[1])
            if len(item) > 3 and not isinstance(item[3], (dict, list, tuple)):
                unique(item[2], item[3])
    for found in _looked_up(base, Order.AVET, list(values.values())):
        if found is not None:
            entities.update(dict.fromkeys((e,) for e in found.e.tolist()))
    for _ in _looked_up(base, Order.EAVT, list(entities)):
        pass


def _looked_up(base: Snapshot, order: Order, keys: list[Bound]) -> Iterator[Rows | None]:
    """Iterate over the rows under each key; raise NodeMiss at the end for all that was missing.

    In parts, so that no more than a part's rows, each of several objects, live at once.
    """
    missing: dict[Address, None] = {}
    source: NodeSource | None = None
    for i in range(0, len(keys), _PART):
        try:
            yield from base.trees.current[order].lookup_many(keys[i : i + _PART])
        except NodeMiss as miss:
            missing.update(dict.fromkeys(miss.addresses))
            source = miss.source
    if source is not None:
        raise NodeMiss(source, list(missing))
