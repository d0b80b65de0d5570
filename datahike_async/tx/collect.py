"""Large transactions in columns: maps of values, lists of values, ids and lookup refs.

Takes the whole of a transaction or nothing: as soon as one item has something else in it, the
ordinary path does all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError
from datahike_async.index.columns import I64, Column
from datahike_async.snapshot.ids import are_near
from datahike_async.tx.checks import check_value, coerced
from datahike_async.tx.entities import CURRENT_TX, is_tempid
from datahike_async.tx.table import Facts, Stated, Table, stated
from datahike_async.values.schema import KEPT_FOR_US, SCHEMA_PROPERTIES, Attr, Schema

__all__ = ["Unusual", "collect", "is_plain"]

_DB_ID: Final = frozenset({Keyword("db/id"), ":db/id"})
_LISTS: Final = frozenset({list, tuple, set, frozenset})
_LISTED: Final = ("tuple", "float-array", "double-array")
# Items that share a shape, at least, on average.
_ALIKE: Final = 8


class Unusual(Exception):
    """The transaction is for the ordinary path."""


def is_plain(attr: Attr | None, schema: Schema) -> bool:
    """Whether nothing follows from a fact of an attribute but that it is there."""
    return (
        attr is not None
        and schema.takes_data(attr)
        and not attr.system
        and not attr.tuple_attrs
        and attr.ident not in schema.composites
        and attr.ident not in SCHEMA_PROPERTIES
        and attr.ident not in KEPT_FOR_US
        and not (attr.unique is not None and (attr.many or attr.is_ref))
    )


def collect(schema: Schema, items: Sequence[Any], ids: range, floor: int) -> Stated | None:
    """Return what items state, or None where any of them is not plain.

    Of the block ``ids`` entity ids up to ``floor`` may exist.
    """
    try:
        if isinstance(items, Table):
            return _of_table(schema, items, ids, floor)
        return _Maps(schema, items, ids, floor).stated()
    except (Unusual, TransactionError):
        # The ordinary path says what is wrong, where it comes to it.
        return None


def _of_table(schema: Schema, table: Table, ids: range, floor: int) -> Stated:
    facts = []
    for place, (name, rows, values, by) in enumerate(table.cells):
        attr, unique = schema.by_key.get(name), None if by is None else schema.by_key.get(by)
        if attr is None or not is_plain(attr, schema):
            raise Unusual
        if by is not None and (unique is None or not attr.is_ref or not _is_key(unique)):
            raise Unusual
        if attr.is_ref and by is None and not are_near(values.data, ids, floor):
            raise Unusual
        if unique is None and _is_checked(attr):
            values = Column.of([check_value(attr, value) for value in values.tolist()])
        facts.append(Facts(attr, rows, values, unique, place))
    return stated(len(table), facts)


def _is_key(attr: Attr) -> bool:
    return attr.unique is not None and not attr.is_ref and not attr.many and not attr.tuple_attrs


def _is_checked(attr: Attr) -> bool:
    """Whether more than the type of a value is looked at."""
    return bool(attr.preds or attr.max_length is not None or attr.tuple_type or attr.tuple_types)


class _Maps:
    """Entity maps, taken together by the keys they have."""

    def __init__(self, schema: Schema, items: Sequence[Any], ids: range, floor: int) -> None:
        self._schema = schema
        self._items = items
        self._block, self._floor = ids, floor
        self._eids = np.full(len(items), -1, np.int64)
        self._ids: list[tuple[I64, Attr, Column]] = []
        self._tempids: dict[int, Any] = {}
        self._facts: list[Facts] = []

    def stated(self) -> Stated:
        shapes: dict[tuple[Any, ...], list[int]] = {}
        for i, item in enumerate(self._items):
            if type(item) is not dict:
                raise Unusual
            shapes.setdefault(tuple(item), []).append(i)
        if len(shapes) * _ALIKE > len(self._items):
            raise Unusual
        for keys, members in shapes.items():
            self._shape(keys, members)
        given = self._eids[self._eids > self._floor]
        if len(given) and len(given) != len(self._items):
            # A fresh id may have been given out before an explicit one claimed it.
            raise Unusual
        named = self._tempids.values()
        if len(set(named)) != len(named) or not CURRENT_TX.isdisjoint(named):
            raise Unusual
        return Stated(len(self._items), self._facts, self._eids, self._ids, self._tempids)

    def _shape(self, keys: tuple[Any, ...], members: list[int]) -> None:
        items, by_key = self._items, self._schema.by_key
        rows = np.array(members, np.int64)
        seen: set[int | str] = set()
        for place, key in enumerate(keys):
            column = [items[i][key] for i in members]
            attr = by_key.get(key)
            if attr is None:
                if key not in _DB_ID or "id" in seen:
                    raise Unusual
                seen.add("id")
                self._named(column, rows)
                continue
            if attr.id in seen or not is_plain(attr, self._schema):
                raise Unusual
            seen.add(attr.id)
            at = rows
            if attr.many:
                at, column = _flat(attr, rows, column)
            if not column:
                continue
            if attr.is_ref:
                self._refs(attr, at, column, place)
            else:
                values = Column.of(canonical(attr, column))
                self._facts.append(Facts(attr, at, values, None, place))
        if seen <= {"id"}:
            raise Unusual

    def _named(self, refs: list[Any], rows: I64) -> None:
        types = set(map(type, refs))
        if types == {int} and min(refs) > 0:
            if not are_near(refs, self._block, self._block.stop):
                raise Unusual
            self._eids[rows] = refs
        elif types <= {int, str} and all(map(is_tempid, refs)):
            self._tempids.update(zip(rows.tolist(), refs, strict=True))
        else:
            key, values = self._lookups(refs)
            self._ids.append((rows, key, values))

    def _refs(self, attr: Attr, rows: I64, refs: list[Any], place: int) -> None:
        if set(map(type, refs)) == {int}:
            if not are_near(refs, self._block, self._floor):
                raise Unusual
            self._facts.append(Facts(attr, rows, Column.of(refs), None, place))
            return
        key, values = self._lookups(refs)
        self._facts.append(Facts(attr, rows, values, key, place))

    def _lookups(self, refs: list[Any]) -> tuple[Attr, Column]:
        """Return the unique attribute of lookup refs, and their values."""
        if not set(map(type, refs)) <= {list, tuple} or set(map(len, refs)) != {2}:
            raise Unusual
        names = {ref[0] for ref in refs if isinstance(ref[0], (str, Keyword))}
        attr = self._schema.by_key.get(names.pop()) if len(names) == 1 else None
        if (
            attr is None
            or not _is_key(attr)
            or not all(isinstance(ref[0], (str, Keyword)) for ref in refs)
        ):
            raise Unusual
        return attr, Column.of(canonical(attr, [ref[1] for ref in refs]))


def canonical(attr: Attr, values: list[Any]) -> list[Any]:
    """Return values as they are stored. Raises TransactionError."""
    if _is_checked(attr):
        return [check_value(attr, value) for value in values]
    return coerced(attr, values)


def _flat(attr: Attr, rows: I64, column: list[Any]) -> tuple[I64, list[Any]]:
    """Return the single values of cells that may be collections, and the row of each."""
    if attr.value_type.name in _LISTED or attr.tuple_type or attr.tuple_types:
        raise Unusual
    flat: list[Any] = []
    counts = []
    for value in column:
        if type(value) in _LISTS:
            if attr.is_ref and value and any(isinstance(x, (str, Keyword)) for x in value):
                # A vector may be a lookup ref.
                raise Unusual
            flat += value
            counts.append(len(value))
        elif isinstance(value, (list, tuple, set, frozenset)):
            raise Unusual
        else:
            flat.append(value)
            counts.append(1)
    return np.repeat(rows, counts), flat
