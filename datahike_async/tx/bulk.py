"""Large plain loads: maps of plain values for new entities, collected into columns.

Takes the whole transaction or nothing: as soon as one item needs more than a type check, the
ordinary path does all of them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import Column
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.snapshot import TX0
from datahike_async.tx.entities import CURRENT_TX
from datahike_async.values.schema import SCHEMA_PROPERTIES, Attr
from datahike_async.values.types import ANY

__all__ = ["LEAST", "Bulk", "collect"]

LEAST: Final = 1024
"""Items below which the ordinary path is as fast."""

_DB_ID_KEYWORD: Final = Keyword("db/id")
_DB_ID: Final = frozenset({_DB_ID_KEYWORD, ":db/id"})
_LONG: Final = 2**63
_SCALARS: Final = frozenset({int, str, Keyword, float, bool})


class Bulk(NamedTuple):
    """New facts as parallel lists, and what else the transaction said."""

    e: list[int]
    a: list[int]
    v: list[Any]
    tempids: dict[Any, int]
    max_eid: int


def collect(draft: Draft, items: list[Any]) -> Bulk | None:
    """Return the items as columns, or None where any of them is not plain.

    Plain: a map whose attributes are known, single-valued, not unique, no refs and not parts of
    composite tuples, for an entity that is new, at most once an entity.
    """
    schema = draft.schema
    composites = schema.composites
    plain: dict[Any, tuple[int, type | None, bool, Attr]] = {
        key: (attr.id, attr.exact, attr.value_type is ANY, attr)
        for key, attr in schema.by_key.items()
        if schema.takes_data(attr)
        and not attr.unique
        and not attr.system
        and not attr.many
        and not attr.is_ref
        and not (attr.tuple_attrs or attr.tuple_type or attr.tuple_types)
        and not attr.preds
        and attr.max_length is None
        and attr.ident not in composites
        and attr.ident not in SCHEMA_PROPERTIES
    }
    floor = top = draft.max_eid
    tempids: dict[Any, int] = {}
    es: list[int] = []
    as_: list[int] = []
    vs: list[Any] = []
    entities = 0
    add_e, add_a, add_v = es.append, as_.append, vs.append
    explicit: list[int] = []
    for item in items:
        if type(item) is not dict:
            return None
        ref = item.get(":db/id")
        if ref is None:
            ref = item.get(_DB_ID_KEYWORD)
        if ref is None:
            eid = top = top + 1
        elif type(ref) is int:
            if ref > floor:
                eid = ref
                if eid > top:
                    top = eid
                explicit.append(eid)
            elif ref < 0:
                if ref in tempids:
                    return None
                eid = top = top + 1
                tempids[ref] = eid
            else:
                return None
        elif type(ref) is str and ref[:1] != ":" and ref not in CURRENT_TX:
            if ref in tempids:
                return None
            eid = top = top + 1
            tempids[ref] = eid
        else:
            return None
        entities += 1
        for key, value in item.items():
            found = plain.get(key)
            if found is None:
                if key in _DB_ID:
                    continue
                return None
            a, exact, loose, attr = found
            kind = type(value)
            if kind is not exact and not (loose and kind in _SCALARS):
                try:
                    value = attr.coerce(value, attr.ident)
                except TransactionError:
                    return None
            elif kind is str:
                if not value.isascii():
                    try:
                        value.encode()
                    except UnicodeEncodeError:
                        return None
            elif kind is int and not -_LONG <= value < _LONG:
                return None
            add_e(eid)
            add_a(a)
            add_v(value)
    if not es or top >= TX0:
        return None
    # An entity named twice, or one attribute under both of its keys, takes the ordinary path.
    keys = Column.of(es).data << 32 | Column.of(as_).data
    if len(uniques(keys)) != len(keys):
        return None
    if explicit and len(explicit) != entities:
        # A fresh id may have been given out before an explicit one claimed it.
        return None
    return Bulk(es, as_, vs, tempids, top)
