"""Datoms: a lazy, read-only sequence over runs of columns; and the components that select it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, overload

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Rows
from datahike_async.index.protocol import Bound, Order
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.snapshot.views import View
from datahike_async.values.datom import Datom
from datahike_async.values.schema import Attr, Schema

__all__ = ["Datoms", "bound_of", "find_datoms", "index_range", "order_of", "seek"]

_CHUNK = 4096


class Datoms(Json, Sequence[Datom]):
    """Datoms in the order of an index. Length is known; Datom objects are made when read."""

    __slots__ = ("_length", "_runs", "_schema")
    json_schema: ClassVar[JsonSchema] = {"type": "array", "items": Datom.json_schema}

    def __init__(self, schema: Schema, runs: Sequence[Rows]) -> None:
        self._schema = schema
        self._runs = [run for run in runs if len(run)]
        self._length = sum(map(len, self._runs))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Datom]:
        attrs = self._schema.attrs
        for run in self._runs:
            for start in range(0, len(run), _CHUNK):
                part = run.slice(start, start + _CHUNK)
                added = [True] * len(part) if part.added is None else part.added.tolist()
                columns = (part.e.tolist(), part.a.tolist(), part.v.tolist(), part.t.tolist())
                for e, a, v, t, op in zip(*columns, added, strict=True):
                    yield Datom(e, attrs[a].ident, v, t, op)

    def __reversed__(self) -> Iterator[Datom]:
        for i in range(self._length - 1, -1, -1):
            yield self[i]

    @overload
    def __getitem__(self, i: int) -> Datom: ...
    @overload
    def __getitem__(self, i: slice) -> Datoms: ...
    def __getitem__(self, i: int | slice) -> Datom | Datoms:
        if isinstance(i, slice):
            start, stop, step = i.indices(self._length)
            if step != 1:
                raise ValueError("datoms are sliced with step 1; use reversed() to go backward")
            return Datoms(self._schema, list(self._cut(start, stop)))
        if i < 0:
            i += self._length
        if not 0 <= i < self._length:
            raise IndexError(i)
        return next(iter(Datoms(self._schema, list(self._cut(i, i + 1)))))

    def _cut(self, start: int, stop: int) -> Iterator[Rows]:
        at = 0
        for run in self._runs:
            lo, hi = max(start - at, 0), min(stop - at, len(run))
            if lo < hi:
                yield run.slice(lo, hi)
            at += len(run)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Datoms, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(d) for d in self[:5])
        more = f", … {self._length - 5} more" if self._length > 5 else ""
        return f"[{shown}{more}]"

    def as_json(self) -> list[Any]:
        """Return the list of the datoms, each a list of its five parts."""
        return [datom.as_json() for datom in self]

    def columns(self) -> Rows:
        """Return all datoms as one run of columns (attribute ids, not keywords)."""
        return Rows.concat(self._runs)


def order_of(index: str | Keyword | Order) -> Order:
    """Return the sort order named ``"eavt"``, ``":eavt"`` or ``Keyword("eavt")``."""
    if isinstance(index, Order):
        return index
    text: Any = index.text if isinstance(index, Keyword) else index
    try:
        return Order(text.removeprefix(":") if isinstance(text, str) else None)
    except ValueError:
        raise QueryError(
            f"There is no index {shown(index)}; use :eavt, :aevt or :avet.",
            error=":unknown-index-type",
        ) from None


_NOWHERE = object()


def bound_of(view: View, order: Order, components: Sequence[Any]) -> Bound | None:
    """Translate components (entity refs, attributes, values) into a bound; None: nothing there."""
    if len(components) > 4:
        raise QueryError(
            f"{order.value} takes at most 4 components, got {len(components)}.",
            error=":search/pattern",
        )
    names = order.value
    by_name = dict(zip(names, components, strict=False))
    attr: Attr | None = None
    out: list[Any] = []
    if by_name.get("a") is not None:
        attr = _attribute(view, by_name["a"])
        if attr is None or (order is Order.AVET and not attr.indexed):
            return None
    for name in names[: len(components)]:
        component = by_name[name]
        if component is None:
            break  # nil is a wildcard; what follows it cannot bound the index
        found: Any
        if name == "e":
            found = view.entid_strict(component)
        elif name == "a":
            assert attr is not None
            found = attr.id
        elif name == "v":
            found = _value(view, attr, component)
        else:
            found = _transaction(component)
        if found is _NOWHERE:
            return None
        out.append(found)
    return tuple(out)


def _attribute(view: View, key: Any) -> Attr | None:
    if not isinstance(key, (str, Keyword)):
        raise QueryError(
            f"Bad format for attribute, must be a keyword such as :person/name, not {shown(key)}.",
            error=":search/pattern",
            attribute=key,
        )
    return view.schema.by_key.get(key)


def _transaction(tx: Any) -> int:
    if not isinstance(tx, (int, np.integer)) or isinstance(tx, bool):
        raise QueryError(
            f"Bad format for transaction ID, must be a number, not {shown(tx)}.",
            error=":search/pattern",
            tx=tx,
        )
    return int(tx)


def _value(view: View, attr: Attr | None, value: Any) -> Any:
    if attr is None:
        return value
    if attr.is_ref and type(value) is not int:
        found = view.entid(value)
        return _NOWHERE if found is None else found
    return attr.coerce(value, attr.ident)


def find_datoms(view: View, index: str | Keyword | Order, components: Sequence[Any]) -> Datoms:
    """Return the datoms of ``index`` that match ``components``. May raise NodeMiss."""
    order = order_of(index)
    bound = bound_of(view, order, components)
    if bound is None:
        return Datoms(view.schema, [])
    tx = bound[3] if len(bound) > 3 else None
    runs = view.slice(order, bound[:3], bound[:3])
    if tx is not None:
        runs = [run.take(run.t == tx) for run in runs]
    return Datoms(view.schema, runs)


def seek(
    view: View, index: str | Keyword | Order, components: Sequence[Any], *, reverse: bool = False
) -> list[Rows]:
    """Return the runs from ``components`` to the end of the index, or down to its beginning."""
    order = order_of(index)
    bound = bound_of(view, order, components)
    if bound is None:
        return []
    bound = bound[:3]
    if not reverse:
        return view.slice(order, bound, ())
    runs = view.slice(order, (), bound)
    return [run.backwards() for run in reversed(runs)]


def index_range(view: View, attrid: Any, start: Any = None, end: Any = None) -> Datoms:
    """Return the datoms of an indexed attribute with start <= v <= end, by value."""
    attr = _attribute(view, attrid)
    if attr is None or not attr.indexed:
        raise QueryError(
            f"Attribute {shown(attrid)} should be marked as :db/index true to be read by value."
            if attr is not None
            else f"Attribute {shown(attrid)} is not in the schema.",
            error=":db/unknown-attribute" if attr is None else ":db/index-required",
            attribute=attrid,
        )
    lower = None if start is None else _value(view, attr, start)
    upper = None if end is None else _value(view, attr, end)
    if lower is _NOWHERE or upper is _NOWHERE:
        return Datoms(view.schema, [])
    return Datoms(view.schema, [view.attr_range(attr.id, lower, upper)])
