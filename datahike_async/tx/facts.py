"""Facts of a running transaction: asserting one, and what follows from it.

The lowest layer of ``Transaction``: attributes, values, uniqueness; and what is derived once an
item is done: the schema, composite tuples, entity specs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from datahike_async.edn.types import Char, Keyword
from datahike_async.errors import TransactionError, shown
from datahike_async.functions import lookup_function
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.ids import TX0
from datahike_async.tx.checks import check_value
from datahike_async.tx.entities import Entities
from datahike_async.tx.forms import keyword, require_attr, reserved, syntax_error
from datahike_async.values.schema import (
    KEPT_FOR_US,
    SCHEMA_PROPERTIES,
    TX_INSTANT,
    VALID_FROM,
    VALID_TO,
    Attr,
)
from datahike_async.values.windows import check_window

__all__ = ["MOST_AHEAD", "Facts", "OwnInstant", "Wrap", "schema_properties"]

Wrap = Callable[[Any], Any]

MOST_AHEAD: Final = timedelta(seconds=60)
"""How far the instant of a transaction may be ahead of the clock of whoever runs it."""


class OwnInstant(Exception):
    """The transaction's data give it an instant of its own: run it again with that one."""

    def __init__(self, instant: datetime) -> None:
        super().__init__(instant)
        self.instant = instant


def schema_properties(draft: Draft, eid: int) -> dict[Keyword, Any]:
    """Return what the datoms of an entity say of an attribute or ident it may define."""
    props: dict[Keyword, Any] = {}
    attrs = draft.schema.attrs
    rows = draft.entity(eid)
    for a, v in zip(rows.a.tolist(), rows.v.tolist(), strict=True):
        attr = attrs[a]
        if attr.ident in SCHEMA_PROPERTIES:
            props[attr.ident] = (*props.get(attr.ident, ()), v) if attr.many else v
    return props


class Facts(ABC):
    """The running transaction, and what it can do to single facts.

    ``instant`` is when it happens, by the clock, which shows ``now``, or its ``own``. Composite
    tuples follow each item, or ``late`` all of them: then entities can exchange theirs.
    """

    def __init__(
        self,
        draft: Draft,
        entities: Entities,
        instant: datetime,
        now: datetime,
        wrap: Wrap | None,
        *,
        own: bool = False,
        late: bool = False,
    ) -> None:
        self.draft = draft
        self.entities = entities
        self.instant = instant
        self.now = now
        self.own = own
        self.late = late
        self.wrap = wrap
        self.meta: dict[Keyword, Any] = {}
        self.schema_before = draft.schema
        self.schema_entities: set[int] = set()
        self.schema_dirty: set[int] = set()
        self.composite_dirty: dict[int, None] = {}
        self.windows: set[int] = set()
        self.ensured: list[tuple[Any, int]] = []
        # How many entity maps the one at work is nested in.
        self.depth = 0

    @abstractmethod
    def _map(self, item: Mapping[Any, Any]) -> int:
        """Carry out an entity map and return its entity id."""

    # -- one datom -----------------------------------------------------------------------------

    def _attr(self, key: Any) -> Attr:
        attr = require_attr(key, self.draft.schema)
        if attr is not None and attr.ident in KEPT_FOR_US:
            raise reserved(attr.ident)
        if attr is None:
            name = keyword(key)
            assert name is not None
            schema, attr = self.draft.schema.with_attr(name)
            self.draft.schema = schema
        return attr

    def _reverse_attr(self, name: Keyword) -> Attr:
        text = f"{name.namespace}/{name.name[1:]}" if name.namespace else name.name[1:]
        attr = self._attr(Keyword(text))
        if not attr.is_ref:
            raise syntax_error(
                f"Bad attribute {name}: reverse attribute name requires "
                "{:db/valueType :db.type/ref} in the schema of :" + text + ".",
                attribute=name,
            )
        return attr

    def _add(self, eid: int, attr: Attr, value: Any, t: Any = None) -> None:
        if attr.is_ref:
            value = self._ref(eid, attr, value)
        else:
            value = check_value(attr, value)
        draft = self.draft
        if t is not None and not (type(t) is int and 0 <= t <= draft.tx):
            raise syntax_error(
                f"Bad transaction id {shown(t)}; expected an int up to {draft.tx}, the id of this "
                "very transaction. Leave it out, or build the database with init_db.",
                tx=t,
            )
        if attr.unique is not None:
            self._check_unique(eid, attr, value)
        if attr.ident is TX_INSTANT:
            self._check_instant(eid, value)
        if draft.add(eid, attr, value, t):
            if self.entities.open and attr.unique is not None:
                self.entities.asserted(eid, attr, value)
            self._touched(eid, attr)

    def _check_instant(self, eid: int, value: datetime) -> None:
        """Check the instant of a transaction; raises OwnInstant where it is the running one's."""
        if value > self.now + MOST_AHEAD:
            raise TransactionError(
                f":db/txInstant {value.isoformat()} is in the future: at most "
                f"{MOST_AHEAD.seconds} seconds ahead of the clock ({self.now.isoformat()}) are "
                "allowed, since every later transaction would have to follow it.",
                error=":transact/future-instant",
                value=value,
                entity_id=eid,
            )
        if eid != self.draft.tx or value == self.instant:
            return
        if self.own:
            raise syntax_error(
                f"The transaction is given two instants, {self.instant.isoformat()} and "
                f"{value.isoformat()}; leave one of the :db/txInstant out."
            )
        raise OwnInstant(value)

    def _ref(self, eid: int, attr: Attr, value: Any) -> int:
        if isinstance(value, Mapping):
            return self._map(value)
        if isinstance(value, (Char, bool)) or value is None:
            attr.coerce(value, attr.ident)
            raise syntax_error(f"Bad entity value {shown(value)} for {attr.ident}.")
        if type(value) is int or isinstance(value, (str, Keyword, list, tuple)):
            return self.entities.entity(value)
        made = attr.coerce(value, attr.ident)
        return self.entities.entity(made)

    def _check_unique(self, eid: int, attr: Attr, value: Any) -> None:
        for other in self.draft.lookup(attr.id, value):
            if other != eid:
                raise TransactionError(
                    f"Cannot add [{eid} {attr.ident} {shown(value)}] because of unique constraint: "
                    f"entity {other} has this value already.",
                    error=":transact/unique",
                    attribute=attr.ident,
                    value=value,
                    entity_id=other,
                )

    def _touched(self, eid: int, attr: Attr, *, composite: bool = True) -> None:
        if attr.ident in SCHEMA_PROPERTIES:
            self.schema_dirty.add(eid)
        elif attr.ident is VALID_FROM or attr.ident is VALID_TO:
            self.windows.add(eid)
        if composite and attr.ident in self.draft.schema.composites:
            self.composite_dirty[eid] = None

    # -- what follows from an item -------------------------------------------------------------

    def _update_schema(self) -> None:
        draft = self.draft
        for eid in self.schema_dirty:
            draft.set_schema(draft.schema.with_entity(eid, schema_properties(draft, eid)))
            for composite in draft.schema.composites.values():
                for attr in composite:
                    if attr.eid == eid:
                        for part in attr.tuple_attrs:
                            found = draft.schema.by_key.get(part)
                            if found is not None:
                                rows = draft.attr(found.id)
                                self.composite_dirty.update(dict.fromkeys(rows.e.tolist()))
        self.schema_entities |= self.schema_dirty
        self.schema_dirty.clear()

    def _update_composites(self) -> None:
        draft = self.draft
        schema = draft.schema
        wanted = {attr.ident: attr for group in schema.composites.values() for attr in group}
        if self.late:
            self._drop_composites(list(wanted.values()))
        for eid in self.composite_dirty:
            for attr in wanted.values():
                value = self._composite(eid, attr)
                if value is None:
                    draft.retract_all(eid, attr)
                    continue
                if attr.unique is not None:
                    self._check_unique(eid, attr, value)
                if draft.add(eid, attr, value) and self.entities.open and attr.unique is not None:
                    self.entities.asserted(eid, attr, value)
        self.composite_dirty.clear()

    def _composite(self, eid: int, attr: Attr) -> tuple[Any, ...] | None:
        """Return the tuple that an entity has by its parts, None where it has none of them."""
        parts = []
        for name in attr.tuple_attrs:
            part = self.draft.schema.by_key.get(name)
            values = self.draft.values(eid, part.id) if part is not None else []
            parts.append(values[0] if values else None)
        return None if all(part is None for part in parts) else tuple(parts)

    def _drop_composites(self, wanted: list[Attr]) -> None:
        """Retract the tuples that will be others, so that another entity may have them."""
        draft = self.draft
        for attr in wanted:
            if attr.unique is None:
                continue
            for eid in self.composite_dirty:
                value = self._composite(eid, attr)
                if value is None or draft.find(eid, attr.id, value) is None:
                    draft.retract_all(eid, attr)

    def _check_window(self, eid: int) -> None:
        """Raise TransactionError where the valid time of an entity ends before it began."""
        draft, by_key = self.draft, self.draft.schema.by_key
        bounds: list[datetime] = []
        for name in (VALID_FROM, VALID_TO):
            values = draft.values(eid, by_key[name].id)
            # Without history what is said of a transaction is not among its datoms.
            if not values and eid == draft.tx and name in self.meta:
                values = [self.meta[name]]
            if not values:
                return
            bounds.append(values[0])
        check_window(eid, *bounds, earlier=eid >= TX0 and eid != draft.tx)

    def _ensure(self, spec: Any, eid: int) -> None:
        draft = self.draft
        spec_eid = self.entities.strict(spec, ":db/ensure")
        by_key = draft.schema.by_key
        wanted = draft.values(spec_eid, by_key[Keyword("db.entity/attrs")].id)
        missing = [
            name
            for name in wanted
            if (attr := by_key.get(name)) is None or not draft.values(eid, attr.id)
        ]
        if missing:
            raise TransactionError(
                f"Entity {eid} missing attributes {', '.join(map(repr, missing))} of spec "
                f"{shown(spec)}.",
                error=":transact/ensure",
                entity_id=eid,
            )
        for name in draft.values(spec_eid, by_key[Keyword("db.entity/preds")].id):
            predicate = lookup_function(name)
            if predicate is None:
                raise TransactionError(
                    f"The predicate {shown(name)} of spec {shown(spec)} is not registered.",
                    error=":transact/ensure",
                )
            db = draft.frozen() if self.wrap is None else self.wrap(draft.frozen())
            if predicate(db, eid) is not True:
                raise TransactionError(
                    f"Entity {eid} failed the predicate {shown(name)} of spec {shown(spec)}.",
                    error=":transact/ensure",
                    entity_id=eid,
                )
