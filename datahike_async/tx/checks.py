"""Checks of values and of schema changes: what may be stored, and which schema may follow which."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from datahike_async.errors import TransactionError, shown
from datahike_async.functions import lookup_function
from datahike_async.snapshot.draft import Draft
from datahike_async.values.schema import (
    CARDINALITY,
    IDENT,
    LATE_ATTRIBUTES,
    VALUE_TYPE,
    Attr,
    Schema,
    incomplete,
)
from datahike_async.values.types import ANY, VALUE_TYPES, FloatArray

__all__ = ["check_schema", "check_value", "coerced"]

_LONG: Final = 2**63
_TYPES: Final = {vt.ident: vt for vt in VALUE_TYPES.values()}


def check_value(attr: Attr, value: Any) -> Any:
    """Return the canonical value, or raise TransactionError saying what is wrong with it."""
    value = attr.coerce(value, attr.ident)
    if attr.tuple_type is not None or attr.tuple_types:
        value = _tuple(attr, value)
    if attr.max_length is not None and hasattr(value, "__len__") and len(value) > attr.max_length:
        raise TransactionError(
            f"Value of {attr.ident} has length {len(value)}; :db/maxLength allows "
            f"{attr.max_length}.",
            error=":transact/max-length",
            attribute=attr.ident,
        )
    for name in attr.preds:
        predicate = lookup_function(name)
        if predicate is None:
            raise TransactionError(
                f"The predicate {shown(name)} in :db.attr/preds of {attr.ident} is not "
                f"registered; call register_function({shown(str(name))}, f) first.",
                error=":transact/attr-pred-unresolved",
                attribute=attr.ident,
            )
        if predicate(value) is not True:
            raise TransactionError(
                f"Value {shown(value)} for {attr.ident} failed the predicate {shown(name)}.",
                error=":transact/attr-pred",
                attribute=attr.ident,
                value=value,
            )
    return value


def _tuple(attr: Attr, value: Any) -> Any:
    if isinstance(value, FloatArray) or not isinstance(value, tuple):
        raise TransactionError(
            f"Bad entity value {shown(value)} for {attr.ident}: a vector is expected.",
            error=":transact/schema",
            attribute=attr.ident,
        )
    if attr.tuple_types:
        types = attr.tuple_types
        if len(value) != len(types):
            raise TransactionError(
                f"Bad entity value {shown(value)} for {attr.ident}: it takes exactly {len(types)} "
                "elements.",
                error=":transact/syntax",
                attribute=attr.ident,
            )
    else:
        assert attr.tuple_type is not None
        if len(value) > 8:
            raise TransactionError(
                f"Bad entity value {shown(value)} for {attr.ident}: a tuple holds at most 8 "
                "values.",
                error=":transact/syntax",
                attribute=attr.ident,
            )
        types = (attr.tuple_type,) * len(value)
    return tuple(
        None if x is None else _TYPES[t].coerce(x, attr.ident)
        for x, t in zip(value, types, strict=True)
    )


def _refuse(message: str, attr: Attr) -> TransactionError:
    return TransactionError(message, error=":transact/schema", attribute=attr.ident)


def check_schema(draft: Draft, before: Schema, touched: set[int]) -> None:
    """Check the schema entities that a transaction changed, now that it is complete.

    Raises TransactionError where a definition is incomplete or does not follow from the one before.
    """
    after = draft.schema
    for eid in touched:
        old_ident = before.ident_of.get(eid)
        new_ident = after.ident_of.get(eid)
        old = before.by_key.get(old_ident) if eid in before.entities else None
        if old is not None and old_ident is not new_ident:
            if _used(draft, old.id):
                raise _refuse(
                    f"Attribute {old_ident} has datoms, so it can be neither renamed nor removed.",
                    old,
                )
            continue
        if eid not in after.entities:
            props = _props(draft, eid)
            if VALUE_TYPE in props or CARDINALITY in props:
                raise incomplete(props)
            continue
        props = after.entities[eid]
        after.check_complete(props)
        new = after.by_key[props[IDENT]]
        if new.system or new.ident in LATE_ATTRIBUTES:
            raise TransactionError(
                f"System schema entity cannot be changed: {new.ident}.", error=":transact/schema"
            )
        if new.ident.namespace == "db":
            raise TransactionError(
                f"Using namespace 'db' for attribute identifiers is not allowed: {new.ident}.",
                error=":transact/schema",
            )
        after.check_parts(new)
        for composite in after.composites.get(new.ident, ()):
            after.check_parts(composite)
        known = before.by_key.get(new.ident)
        if known is not None:
            _check_change(draft, known, new)


def _props(draft: Draft, eid: int) -> dict[Any, Any]:
    rows = draft.entity(eid)
    attrs = draft.schema.attrs
    return {attrs[a].ident: v for a, v in zip(rows.a.tolist(), rows.v.tolist(), strict=True)}


def _used(draft: Draft, a: int) -> bool:
    if draft.count_attr(a):
        return True
    if draft.trees.temporal is None:
        return False
    from datahike_async.index.protocol import Order

    return any(len(run) for run in draft.intervals(Order.AEVT, (a,), (a,)))


_LOOSE: Final = "a value of another type is already stored"


def _check_change(draft: Draft, old: Attr, new: Attr) -> None:
    rules: tuple[tuple[bool, Callable[[], str | None]], ...] = (
        (
            old.value_type is not new.value_type and old.value_type.name != "any",
            lambda: "its :db/valueType cannot change" if _used(draft, old.id) else None,
        ),
        (
            old.value_type.name == "any" and new.value_type.name != "any",
            lambda: _mismatch(draft, new),
        ),
        (
            (old.tuple_attrs, old.tuple_type, old.tuple_types)
            != (new.tuple_attrs, new.tuple_type, new.tuple_types),
            lambda: "its tuple definition cannot change" if _used(draft, old.id) else None,
        ),
        (old.many and not new.many, lambda: _cannot_narrow(draft, new)),
        (
            old.eid is not None
            and new.unique is not None
            and new.many
            and not (old.unique and old.many),
            lambda: "it can become :db/unique or :db.cardinality/many, not both",
        ),
        (new.unique is not None and old.unique is None, lambda: _cannot_be_unique(draft, new)),
        (
            old.indexed and not new.indexed,
            lambda: (
                "its :db/index or :db/unique cannot be taken away" if _used(draft, old.id) else None
            ),
        ),
    )
    for applies, reason in rules:
        why = reason() if applies else None
        if why is not None:
            raise _refuse(f"Invalid schema state for {new.ident} after transaction: {why}.", new)


def _mismatch(draft: Draft, new: Attr) -> str | None:
    for value in draft.attr(new.id).v.tolist():
        try:
            same = new.coerce(value, new.ident) == value
        except TransactionError:
            same = False
        if not same:
            return _LOOSE + f" ({shown(value)})"
    return None


def _cannot_narrow(draft: Draft, new: Attr) -> str | None:
    rows = draft.attr(new.id)
    entities = rows.e.tolist()
    for e, other in pairwise(entities):
        if e == other:
            return f"Cannot narrow to :db.cardinality/one: entity {e} holds more than one value"
    return None


def _cannot_be_unique(draft: Draft, new: Attr) -> str | None:
    values = draft.attr(new.id).v
    if len(values) and len(set(values.ranks().tolist())) != len(values):
        seen: set[Any] = set()
        for value, rank in zip(values.tolist(), values.ranks().tolist(), strict=True):
            if rank in seen:
                return f"Cannot add :db/unique, existing duplicate value {shown(value)}"
            seen.add(rank)
    return None


def coerced(attr: Attr, values: list[Any]) -> list[Any]:
    """Return many values as they are stored; no more than their type is looked at.

    They are the same list where nothing is to be done. Raises TransactionError.
    """
    types = set(map(type, values))
    if types == {attr.exact} and attr.value_type is not ANY:
        if attr.exact is str:
            if all(map(str.isascii, values)):
                return values
        elif attr.exact is not int or (min(values) >= -_LONG and max(values) < _LONG):
            return values
    coerce, ident = attr.coerce, attr.ident
    return [coerce(value, ident) for value in values]
