"""Purges: what is taken out of the present and the past, before the rest of a transaction.

The forms of a transaction name attributes of entities, which are looked up in both indexes and
removed from both. Nothing says afterwards that it was there: neither the indexes nor the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from datahike_async.errors import QueryError, TransactionError, shown
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import Rows
from datahike_async.index.protocol import Index, Order
from datahike_async.looks import walked
from datahike_async.snapshot.ids import TX0
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import PastView, View
from datahike_async.tx.checks import check_value
from datahike_async.tx.forms import keyword, syntax_error
from datahike_async.values.schema import KEPT_FOR_US, SCHEMA_PROPERTIES, TX_INSTANT, Attr
from datahike_async.values.types import typed_key

__all__ = ["PURGES", "PurgeMet", "Purged", "by_ids", "named", "purged", "split"]

PURGES: Final = frozenset(
    {"db/purge", "db.purge/attribute", "db.purge/entity", "db.history.purge/before"}
)
"""The names of the forms."""

_TICK: Final = timedelta(microseconds=1)


class PurgeMet(Exception):
    """A transaction has forms that purge: they are carried out before all others."""


class Purged(NamedTuple):
    """A state without what was purged: ``datoms`` of the present and the past.

    ``composites`` are entities whose composite tuples have to be made anew.
    """

    state: Snapshot
    datoms: int
    composites: frozenset[int]


def split(items: Sequence[Any]) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Return the forms that purge, with their names, and all other items."""
    forms: list[tuple[str, Any]] = []
    rest: list[Any] = []
    for item in items:
        name = keyword(item[0]) if isinstance(item, (list, tuple)) and len(item) else None
        if name is not None and name.text in PURGES:
            forms.append((name.text, item))
        else:
            rest.append(item)
    return forms, rest


def purged(base: Snapshot, forms: Iterable[tuple[str, Any]]) -> Purged:
    """Return a state without what the forms name. Its memtable is empty, and so was the other's.

    Raises TransactionError ``:transact/purge``; NodeMiss.
    """
    if not base.keep_history:
        raise _refused(
            "without history there is no past to purge; retract the data, compact, and collect "
            "with gc_storage what is left of them in the store"
        )
    chosen = _Chosen(base)
    for name, form in forms:
        chosen.take(name, form)
    return chosen.removed()


def named(base: Snapshot, forms: Iterable[tuple[str, Any]]) -> list[Any]:
    """Return those forms that name something that is in a state. Raises NodeMiss."""
    chosen = _Chosen(base)
    out = []
    for name, form in forms:
        with suppress(TransactionError, QueryError):
            chosen.take(name, form)
            out.append(form)
    return out


def by_ids(base: Snapshot, forms: Iterable[tuple[str, Any]]) -> list[Any]:
    """Return the forms that look an entity up, with the ids that it has in a state.

    On another branch the same entity may be called otherwise by now. Raises NodeMiss.
    """
    view = View(base)
    out = []
    for name, form in forms:
        if name == "db.history.purge/before" or len(form) < 2 or type(form[1]) is int:
            continue
        e = view.entid(form[1])
        if e is not None:
            out.append([form[0], e, *form[2:]])
    return out


class _Chosen:
    """What is to be removed: attributes of entities, whole or of some values, and a part of all."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._view = View(base)
        self._trees = base.trees
        # Attribute -> entity -> the keys of the values, None for all.
        self._facts: dict[int, dict[int, set[Any] | None]] = {}
        self._entities: set[int] = set()
        # What was retracted in this transaction or before is removed.
        self._until = 0

    def take(self, name: str, form: Any) -> None:
        """Choose what a form names."""
        wanted = {"db/purge": 4, "db.purge/attribute": 3}.get(name, 2)
        if len(form) != wanted:
            raise syntax_error(f"{shown(form)} should have {wanted} elements.", item=form)
        if name == "db.history.purge/before":
            self._before(form[1])
            return
        e = self._view.entid(form[1])
        if e is None:
            raise _refused(f"there is no entity {shown(form[1])}", entity_id=form[1])
        if name == "db.purge/entity":
            self._entity(e)
            return
        attr = self._attr(form[2])
        if name == "db.purge/attribute":
            self._fact(e, attr)
            return
        value = form[3]
        if attr.is_ref:
            value = self._view.entid(value)
            if value is None:
                raise _refused(f"there is no entity {shown(form[3])}", entity_id=form[3])
        else:
            value = check_value(attr, value)
        self._fact(e, attr, value)

    def _attr(self, key: Any) -> Attr:
        name = keyword(key)
        attr = None if name is None else self._base.schema.by_key.get(name)
        if attr is None:
            raise _refused(f"there is no attribute {shown(key)}", attribute=key)
        if attr.tuple_attrs:
            raise _refused(
                f"{attr.ident} is made of {', '.join(map(repr, attr.tuple_attrs))}: purge those",
                attribute=attr.ident,
            )
        self._require_ours(attr)
        return attr

    def _require_ours(self, attr: Attr) -> None:
        ident = attr.ident
        if ident is TX_INSTANT or ident in SCHEMA_PROPERTIES or ident in KEPT_FOR_US:
            raise _refused(f"{ident} holds what the database itself needs", attribute=ident)

    def _fact(self, e: int, attr: Attr, value: Any = None) -> None:
        facts = self._facts.setdefault(attr.id, {})
        if value is None:
            facts[e] = None
            return
        keys = facts.setdefault(e, set())
        if keys is not None:
            keys.add(typed_key(value))

    def _entity(self, e: int) -> None:
        """Choose an entity, its components, and what refers to them."""
        schema = self._base.schema
        waiting = [e]
        while waiting:
            e = waiting.pop()
            if e in self._entities:
                continue
            if e >= TX0:
                raise _refused(
                    f"{e} is a transaction, which the past needs; purge attributes of it",
                    entity_id=e,
                )
            if any(attr.eid == e for attr in schema.attrs):
                raise _refused(f"{e} is an attribute of the schema", entity_id=e)
            self._entities.add(e)
            for index in self._both(Order.EAVT):
                rows = Rows.concat(index.slice((e,), (e,)))
                for a in uniques(rows.a.astype(np.int64)).tolist() if len(rows) else ():
                    self._fact(e, schema.attrs[a])
            for attr in schema.attrs:
                if not attr.is_ref:
                    continue
                for index in self._both(Order.AVET):
                    rows = Rows.concat(index.slice((attr.id, e), (attr.id, e)))
                    for other in rows.e.tolist() if len(rows) else ():
                        self._fact(other, attr, e)
                if attr.component:
                    # Those that it had, too: they were retracted with it, or replaced.
                    for index in self._both(Order.EAVT):
                        rows = Rows.concat(index.slice((e, attr.id), (e, attr.id)))
                        waiting += rows.v.tolist() if len(rows) else ()

    def _before(self, point: Any) -> None:
        if not isinstance(point, datetime):
            raise syntax_error(f"Bad date {shown(point)}; expected a datetime.")
        if point.tzinfo is None:
            raise syntax_error(f"Bad date {shown(point)}; give it a time zone.")
        _, last = PastView(self._base, as_of=(point - _TICK,)).bounds()
        self._until = max(self._until, last)

    def _both(self, order: Order) -> Iterable[Index]:
        assert self._trees.temporal is not None
        return self._trees.current[order], self._trees.temporal[order]

    # -- removing ------------------------------------------------------------------------------

    def removed(self) -> Purged:
        """Return the state without what was chosen."""
        trees, schema = self._trees, self._base.schema
        assert trees.temporal is not None
        composites: set[int] = set()
        gone: tuple[dict[int, Rows], dict[int, Rows]] = ({}, {})
        # What composite tuples are made of comes first.
        for attr in sorted(schema.attrs, key=lambda attr: bool(attr.tuple_attrs)):
            facts = self._facts.get(attr.id, {})
            hit: set[int] = set()
            for out, index in zip(gone, self._both(Order.AEVT), strict=True):
                past = index is trees.temporal[Order.AEVT]
                rows = self._rows(index, attr, facts, hit, old=past and self._until > 0)
                if rows is not None:
                    out[attr.id] = rows
            for composite in schema.composites.get(attr.ident, ()):
                composites |= hit
                for e in hit:
                    self._fact(e, composite)
        count = sum(len(rows) for side in gone for rows in side.values())
        made = trees.without(*gone, schema) if count else trees
        state = Snapshot.over(self._base, made)
        for e in self._entities & schema.ident_of.keys():
            state.schema = state.schema.with_entity(e, {})
        if count:
            state.state = object()  # it says less than before
        return Purged(state, count, frozenset(composites - self._entities))

    def _rows(
        self,
        index: Index,
        attr: Attr,
        facts: Mapping[int, set[Any] | None],
        hit: set[int],
        *,
        old: bool,
    ) -> Rows | None:
        """Return the rows of an attribute that are chosen; ``old`` looks at all of the past.

        Entities of which ``facts`` choose some are added to ``hit``.
        """
        parts: list[Rows] = []
        for e, keys in walked(facts.items()):
            rows = Rows.concat(index.slice((attr.id, e), (attr.id, e)))
            if not len(rows):
                continue
            if keys is not None:
                values = rows.v.tolist()
                rows = rows.take(
                    np.fromiter((typed_key(v) in keys for v in values), np.bool_, len(values))
                )
            if len(rows):
                hit.add(e)
            if old and rows.until is not None:
                rows = rows.take(rows.until > self._until)
            if len(rows):
                parts.append(rows)
        if old:
            for run in index.chunks((attr.id,), (attr.id,)):
                assert run.until is not None
                found = run.take(run.until <= self._until)
                if len(found):
                    parts.append(found)
        return Rows.concat(parts) if parts else None


def _refused(why: str, **data: Any) -> TransactionError:
    return TransactionError(f"Nothing was purged: {why}.", error=":transact/purge", **data)
