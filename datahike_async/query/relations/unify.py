"""Unify: what a call or an input gives, bound to variables that may have values already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column
from datahike_async.looks import walked
from datahike_async.query.language.ast import (
    BindCollection,
    BindIgnore,
    Binding,
    BindRelation,
    BindScalar,
)
from datahike_async.query.relations.relation import Relation, column_of, distinct, equal_mask

__all__ = ["bind_values", "unified", "where_kept"]


def bind_values(binding: Binding, values: Sequence[Any], relation: Relation) -> Relation:
    """Return ``relation`` with the variables of ``binding``, one value a row.

    Rows whose value is None are dropped; collections repeat their row. A variable that the
    relation has already must be equal. Raises QueryError ``:query/binding``.
    """
    if isinstance(binding, BindIgnore):
        keep = np.fromiter((v is not None for v in values), np.bool_, len(values))
        return where_kept(relation, keep)
    if isinstance(binding, BindScalar):
        keep = np.fromiter((v is not None for v in values), np.bool_, len(values))
        kept = relation if keep.all() else where_kept(relation, keep)
        column = column_of([v for v in values if v is not None])
        return unified(kept, binding.name, column)
    if isinstance(binding, BindCollection):
        items = [_items(v, "collection") for v in values]
        flat = [x for group in items for x in walked(group, each=4)]
        return distinct(bind_values(binding.item, flat, _repeated(relation, items)))
    if isinstance(binding, BindRelation):
        items = [_items(v, "collection") for v in values]
        flat = [x for group in items for x in walked(group, each=4)]
        return distinct(_tuple(binding.items, flat, _repeated(relation, items)))
    return _tuple(binding.items, values, relation)


def where_kept(relation: Relation, keep: Any) -> Relation:
    """Return the rows for which ``keep``, a mask, is true; also of a relation without columns."""
    if not relation.columns:
        return Relation({}, int(keep.sum()))
    return relation.take(keep)


def _tuple(items: Sequence[Binding], values: Sequence[Any], relation: Relation) -> Relation:
    keep = np.fromiter((v is not None for v in values), np.bool_, len(values))
    if not keep.all():
        relation = where_kept(relation, keep)
        values = [v for v in values if v is not None]
    rows = [_items(v, "tuple") for v in walked(values)]
    for row in rows:
        if len(row) < len(items):
            raise QueryError(
                f"Not enough elements in {shown(row)} to bind a tuple of {len(items)}.",
                error=":query/binding",
            )
    fresh: dict[Symbol, Column] = {}
    keep = np.ones(len(rows), np.bool_)
    nested: list[tuple[Binding, list[Any]]] = []
    for i, item in enumerate(items):
        part = [row[i] for row in walked(rows, each=4)]
        if isinstance(item, BindScalar):
            if any(x is None for x in part):
                raise QueryError(
                    f"nil cannot be bound to {shown(item.name)}.", error=":query/binding"
                )
            column = column_of(part)
            known = relation.columns.get(item.name, fresh.get(item.name))
            if known is None:
                fresh[item.name] = column
            else:
                keep &= equal_mask(known, column)
        elif not isinstance(item, BindIgnore):
            nested.append((item, part))
    if len(nested) > 1:
        raise QueryError(
            "A tuple binding can hold one nested binding; bind the others in clauses of their own.",
            error=":query/binding",
        )
    relation = where_kept(Relation({**relation.columns, **fresh}, len(rows)), keep)
    for item, part in nested:
        relation = bind_values(item, [x for x, k in zip(part, keep, strict=True) if k], relation)
    return relation


def unified(relation: Relation, variable: Symbol, column: Column) -> Relation:
    """Return ``relation`` with a variable, or its rows that have these values for it already."""
    known = relation.columns.get(variable)
    if known is not None:
        return relation.take(equal_mask(known, column))
    if not relation.columns:
        return Relation({variable: column}, len(column))
    return relation.with_column(variable, column)


def _repeated(relation: Relation, items: Sequence[Sequence[Any]]) -> Relation:
    counts = [len(group) for group in items]
    if not relation.columns:
        return Relation({}, sum(counts))
    return relation.take(np.repeat(np.arange(len(counts)), counts))


def _items(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Mapping):
        return list(walked(value.items(), each=4))
    if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)):
        return list(walked(value, each=4))
    raise QueryError(
        f"Cannot bind value {shown(value)} to {what}; expected a list, a tuple or a set.",
        error=":query/binding",
        value=value,
    )


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if type(value) in (list, tuple) else value
