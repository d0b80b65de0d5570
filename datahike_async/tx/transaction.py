"""Transaction: carries out one list of items on a draft, one after another.

A form is carried out completely before the next one is looked at. Whatever raises leaves the draft
to be aborted by the caller (``apply``), so that nothing of a failed transaction stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import TransactionError
from datahike_async.functions import lookup_function
from datahike_async.snapshot.draft import Draft
from datahike_async.tx.checks import check_schema, check_value
from datahike_async.tx.entities import CURRENT_TX, Entities, is_tempid
from datahike_async.tx.forms import keyword, require_attr, syntax_error, unknown_attribute
from datahike_async.values.datom import Datom
from datahike_async.values.schema import SCHEMA_PROPERTIES, TX_INSTANT, Attr
from datahike_async.values.types import ANY

__all__ = ["Transaction", "schema_properties"]

_K = Keyword
_DB_ID: Final = frozenset({_K("db/id"), ":db/id"})
_ENSURE: Final = _K("db/ensure")
_LONG: Final = 2**63
_SCALARS: Final = frozenset({int, str, float, bool, Keyword})
_ALIASES: Final = {
    "db.fn/cas": "db/cas",
    "db.fn/retractEntity": "db/retractEntity",
    "db.fn/retractAttribute": "db/retractAttribute",
}
_PURGES: Final = frozenset(
    {"db/purge", "db.purge/attribute", "db.purge/entity", "db.history.purge/before"}
)

Wrap = Callable[[Any], Any]


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


class Transaction:
    """One run of one transaction over a draft."""

    def __init__(
        self,
        draft: Draft,
        entities: Entities,
        instant: datetime,
        wrap: Wrap | None,
    ) -> None:
        self.draft = draft
        self.entities = entities
        self.instant = instant
        self.wrap = wrap
        self.schema_before = draft.schema
        self.schema_entities: set[int] = set()
        self.schema_dirty: set[int] = set()
        self.composite_dirty: dict[int, None] = {}
        self.ensured: list[tuple[Any, int]] = []

    # -- the whole -----------------------------------------------------------------------------

    def begin(self, meta: Mapping[Any, Any]) -> dict[Keyword, Any]:
        """Write the transaction's own entity; return the tx-meta as it is reported."""
        out: dict[Keyword, Any] = {TX_INSTANT: self.instant}
        draft = self.draft
        attrs = []
        for key, value in meta.items():
            name = keyword(key)
            if name is None:
                raise syntax_error(f"Bad transaction meta attribute {key!r}, expected a keyword.")
            attr = draft.schema.by_key.get(name)
            if attr is None and draft.schema.flexibility == "write":
                raise unknown_attribute(key, draft.schema, "transaction meta attribute")
            if attr is None:
                attr = self._attr(name)
            if attr.ident is TX_INSTANT:
                self.instant = out[TX_INSTANT] = check_value(attr, value)
                continue
            out[attr.ident] = value
            attrs.append((attr, value))
        if draft.keep_history:
            instant = draft.schema.by_key[TX_INSTANT]
            draft.add_new(draft.tx, instant, self.instant)
            for attr, value in attrs:
                for one in self._values(attr, value):
                    self._add(draft.tx, attr, one)
        return out

    def item(self, item: Any) -> Awaitable[Any] | None:
        """Carry out one top-level item; return the awaitable of an async function's result."""
        kind = type(item)
        if kind is dict:
            if not self._fast_map(item):
                self._map(item)
        elif kind is list or kind is tuple:
            call = self._vector(item)
            if call is not None:
                return call
        elif item is None:
            return None
        elif isinstance(item, Datom):
            self._datom(item)
        elif isinstance(item, Mapping):
            self._map(item)
        else:
            raise syntax_error(f"Bad entity type at {item!r}, expected map or vector.", item=item)
        if self.schema_dirty:
            self._update_schema()
        if self.composite_dirty:
            self._update_composites()
        return None

    def finish(self) -> None:
        """Check what can only be checked once everything is there."""
        if self.schema_entities:
            check_schema(self.draft, self.schema_before, self.schema_entities)
        for spec, eid in self.ensured:
            self._ensure(spec, eid)

    # -- maps ----------------------------------------------------------------------------------

    def _fast_map(self, item: dict[Any, Any]) -> bool:
        """Carry out a map of plain values; False where it has anything that is not plain."""
        draft = self.draft
        schema = draft.schema
        by_key = schema.by_key
        composites = schema.composites
        ref: Any = None
        pairs: list[tuple[Attr, Any]] = []
        seen: set[int] = set()
        for key, value in item.items():
            attr = by_key.get(key)
            if attr is None:
                if key not in _DB_ID:
                    return False
                ref = value
                continue
            kind = type(value)
            if kind is not attr.exact and not (attr.value_type is ANY and kind in _SCALARS):
                return False
            if not attr.plain or attr.unique or attr.ident in composites:
                return False
            if (kind is str and not value.isascii()) or (
                kind is int and not -_LONG <= value < _LONG
            ):
                value = attr.coerce(value, attr.ident)
            pairs.append((attr, value))
            seen.add(attr.id)
        if not pairs or len(seen) != len(pairs):
            return False
        entities = self.entities
        if ref is None:
            eid = entities.new()
        elif type(ref) is int and ref > 0:
            eid = entities.explicit(ref)
        elif is_tempid(ref) and ref not in CURRENT_TX:
            eid = entities.tempid(ref)
        else:
            return False
        if entities.is_new(eid):
            row, tx = draft.mem.assert_row, draft.tx
            for attr, value in pairs:
                kind = type(value)
                if kind is float or kind is bool:
                    draft.add_new(eid, attr, value)
                else:
                    row(eid, attr.id, value, value, tx, attr.indexed)
        else:
            for attr, value in pairs:
                draft.add(eid, attr, value)
        return True

    def _map(self, item: Mapping[Any, Any]) -> int:
        """Carry out an entity map and return its entity id."""
        ref: Any = None
        plain: list[tuple[Attr, Any]] = []
        reverse: list[tuple[Attr, Any]] = []
        for key, value in item.items():
            if key in _DB_ID if isinstance(key, (str, Keyword)) else False:
                ref = value
                if ref is None:
                    continue
                if isinstance(ref, bool) or not isinstance(ref, (int, str, Keyword, list, tuple)):
                    raise TransactionError(
                        f"Expected a number, string, keyword or lookup ref for :db/id, got {ref!r}.",
                        error=":entity-id/syntax",
                        entity_id=ref,
                    )
                continue
            name = keyword(key)
            if name is _ENSURE:
                continue
            if name is not None and name.name[:1] == "_" and key not in self.draft.schema.by_key:
                reverse.append((self._reverse_attr(name), value))
            else:
                plain.append((self._attr(key), value))
        eid = self._map_id(ref, plain, item)
        for attr, value in plain:
            if attr.tuple_attrs:
                raise syntax_error(
                    f"Can't modify tuple attrs directly: {attr.ident} is made of "
                    f"{', '.join(map(repr, attr.tuple_attrs))}.",
                    attribute=attr.ident,
                )
            for one in self._values(attr, value):
                if one is None:
                    raise syntax_error(
                        f"Cannot store nil as a value of {attr.ident}; retract it instead.",
                        attribute=attr.ident,
                    )
                self._add(eid, attr, one)
        for attr, value in reverse:
            for one in self._values(attr, value, many=True):
                source = self._map(one) if isinstance(one, Mapping) else self.entities.entity(one)
                self._add(source, attr, eid)
        spec = item.get(_ENSURE, item.get(":db/ensure"))
        if spec is not None:
            self.ensured.append((spec, eid))
        return eid

    def _map_id(self, ref: Any, pairs: list[tuple[Attr, Any]], item: Any) -> int:
        entities = self.entities
        if ref is not None and isinstance(ref, (str, Keyword)) and ref in CURRENT_TX:
            return entities.current_tx(ref)
        tempid = ref is None or is_tempid(ref)
        if not tempid:
            ref = entities.entity(ref)
        identities = self._identities(pairs)
        if identities:
            found = entities.by_identity(identities, ref)
            if found is not None:
                return entities.assign(ref, found) if ref is not None and tempid else found
        if not tempid:
            return ref  # type: ignore[no-any-return]
        return entities.new() if ref is None else entities.tempid(ref)

    def _identities(self, pairs: list[tuple[Attr, Any]]) -> list[tuple[Attr, Any]]:
        """Return the unique identity values among a map's, composite tuples included."""
        out = []
        composites = self.draft.schema.composites
        parts: dict[Keyword, Any] = {}
        for attr, value in pairs:
            if attr.ident in composites:
                known = self._known_value(attr, value)
                if known is not None:
                    parts[attr.ident] = known
            if attr.unique != "identity" or value is None or attr.tuple_attrs:
                continue
            for one in self._values(attr, value):
                known = self._known_value(attr, one)
                if known is not None:
                    out.append((attr, known))
        for composite in {c for name in parts for c in composites[name]}:
            if composite.unique == "identity" and all(p in parts for p in composite.tuple_attrs):
                out.append((composite, tuple(parts[p] for p in composite.tuple_attrs)))
        return out

    def _known_value(self, attr: Attr, value: Any) -> Any:
        """Return the canonical value where it names something now, else None."""
        if not attr.is_ref:
            return attr.coerce(value, attr.ident)
        if isinstance(value, Mapping):
            return None
        if is_tempid(value) and value not in CURRENT_TX:
            return self.entities.ids.get(value)
        return self.entities.existing(value, "a unique attribute")

    def _values(self, attr: Attr, value: Any, *, many: bool = False) -> list[Any]:
        """Return the single values that stand under a key of a map."""
        if not (attr.many or many):
            return [value]
        if isinstance(value, (set, frozenset)):
            return list(value)
        if isinstance(value, (list, tuple)):
            if attr.is_ref and self._is_lookup_ref(value):
                return [value]
            if attr.value_type.name in ("tuple", "float-array", "double-array") and not (
                value and isinstance(value[0], (list, tuple))
            ):
                return [value]
            return list(value)
        return [value]

    def _is_lookup_ref(self, value: Any) -> bool:
        if len(value) != 2 or keyword(value[0]) is None:
            return False
        attr = self.draft.schema.by_key.get(value[0])
        return attr is not None and attr.unique is not None

    # -- vectors -------------------------------------------------------------------------------

    def _vector(self, item: Any) -> Awaitable[Any] | None:
        if not item:
            raise syntax_error("An empty vector is no transaction form; expected [:db/add e a v].")
        head = item[0]
        name = keyword(head)
        if name is None:
            name = head if isinstance(head, Symbol) else None
        if name is None:
            raise syntax_error(
                f"Unknown operation {head!r} in {item!r}; expected :db/add.", item=item
            )
        text = _ALIASES.get(name.text, name.text)
        if text == "db/add":
            self._op_add(item)
        elif text == "db/retract":
            self._op_retract(item)
        elif text == "db/retractAttribute":
            self._arity(item, 3, 3)
            self._op_retract(item)
        elif text == "db/retractEntity":
            self._arity(item, 2, 2)
            eid = self.entities.existing(item[1], ":db/retractEntity")
            if eid is not None:
                self._retract_entity(eid)
        elif text == "db/cas":
            self._op_cas(item)
        elif text in _PURGES:
            raise TransactionError(
                f":{text} is not supported by this version; :db/retract keeps the past readable.",
                error=":transact/purge",
            )
        elif text == "db.fn/call":
            self._arity(item, 2, None)
            return self._call(item[1], item[2:])
        else:
            return self._call(name, item[1:])
        return None

    def _arity(self, item: Any, least: int, most: int | None) -> None:
        if len(item) < least or (most is not None and len(item) > most):
            span = f"{least}" if most == least else f"{least} to {most or 'any number of'}"
            raise syntax_error(f"{item!r} should have {span} elements.", item=item)

    def _op_add(self, item: Any) -> None:
        self._arity(item, 4, 5)
        _, ref, key, value, *rest = item
        name = keyword(key)
        attr = self._attr(key)
        if attr.tuple_attrs:
            raise syntax_error(f"Can't modify tuple attrs directly: {attr.ident}.")
        if value is None:
            raise syntax_error(f"Cannot store nil as a value of {name}: {item!r}.")
        if attr.unique == "identity" and is_tempid(ref) and ref not in CURRENT_TX:
            known = self._known_value(attr, value)
            found = self.draft.lookup(attr.id, known) if known is not None else []
            if found:
                eid = self.entities.assign(ref, found[0])
            else:
                eid = self.entities.tempid(ref)
        else:
            eid = self.entities.entity(ref)
        self._add(eid, attr, value, rest[0] if rest else None)

    def _op_retract(self, item: Any) -> None:
        self._arity(item, 3, 5)
        _, ref, key, *rest = item
        eid = self.entities.existing(ref, ":db/retract")
        attr = require_attr(key, self.draft.schema)
        if eid is None or attr is None:
            return
        if attr.tuple_attrs:
            raise syntax_error(f"Can't modify tuple attrs directly: {attr.ident}.")
        if not rest or rest[0] is None:
            self.draft.retract_all(eid, attr)
        else:
            value = rest[0]
            if attr.is_ref:
                value = self.entities.existing(value, ":db/retract")
                if value is None:
                    return
            self.draft.retract(eid, attr, attr.coerce(value, attr.ident))
        self._touched(eid, attr)

    def _retract_entity(self, eid: int) -> None:
        draft = self.draft
        stack, gone = [eid], set()
        while stack:
            e = stack.pop()
            if e in gone:
                continue
            gone.add(e)
            attrs = draft.schema.attrs
            rows = draft.entity(e)
            for a in dict.fromkeys(rows.a.tolist()):
                attr = attrs[a]
                if attr.component:
                    stack += draft.values(e, a)
                draft.retract_all(e, attr)
                self._touched(e, attr, composite=False)
            for attr in attrs:
                if attr.is_ref:
                    for source in draft.lookup(attr.id, e):
                        draft.retract(source, attr, e)
                        self._touched(source, attr)

    def _op_cas(self, item: Any) -> None:
        self._arity(item, 5, 5)
        _, ref, key, old, new = item
        eid = self.entities.strict(ref, ":db/cas")
        attr = self._attr(key)

        def value_of(value: Any) -> Any:
            if value is None:
                return None
            if attr.is_ref:
                return self.entities.strict(value, ":db/cas")
            return check_value(attr, value)

        old, new = value_of(old), value_of(new)
        facts = self.draft.values(eid, attr.id)
        if old is None:
            if facts:
                raise self._cas_failed(eid, attr, facts, "nil")
        elif self.draft.find(eid, attr.id, old) is None:
            raise self._cas_failed(eid, attr, facts, repr(old))
        elif new is None:
            self.draft.retract(eid, attr, old)
            self._touched(eid, attr)
        if new is not None:
            self._add(eid, attr, new)

    def _cas_failed(self, eid: int, attr: Attr, facts: Any, expected: str) -> TransactionError:
        found = "nothing" if not facts else ", ".join(map(repr, facts))
        return TransactionError(
            f":db.fn/cas failed on [{eid} {attr.ident}]: expected {expected}, found {found}.",
            error=":transact/cas",
            entity_id=eid,
            attribute=attr.ident,
            found=facts,
        )

    def _datom(self, datom: Datom) -> None:
        attr = self._attr(datom.a)
        eid = self.entities.explicit(datom.e)
        if datom.added:
            self._add(eid, attr, datom.v, datom.tx)
        else:
            self.draft.retract(eid, attr, attr.coerce(datom.v, attr.ident))
            self._touched(eid, attr)

    def _call(self, function: Any, args: Any) -> Awaitable[Any]:
        """Return the awaitable of what a transaction function returns."""
        name = function
        if not callable(function):
            found = (
                lookup_function(function) if isinstance(function, (str, Keyword, Symbol)) else None
            )
            if found is None:
                raise syntax_error(
                    f"Unknown operation or transaction function {function!r}; expected :db/add, "
                    ":db/retract, … or a name given to register_function.",
                    operation=function,
                )
            function = found
        db = self.draft.frozen() if self.wrap is None else self.wrap(self.draft.frozen())

        async def run() -> Any:
            result = function(db, *args)
            if inspect.isawaitable(result):
                result = await result
            if result is None:
                return []
            if isinstance(result, (str, Mapping)) or not isinstance(result, (list, tuple)):
                raise syntax_error(
                    f"The transaction function {name!r} returned {result!r}; expected a list of "
                    "maps and vectors."
                )
            return result

        return run()

    # -- one datom -----------------------------------------------------------------------------

    def _attr(self, key: Any) -> Attr:
        attr = require_attr(key, self.draft.schema)
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
        if attr.unique is not None:
            self._check_unique(eid, attr, value)
        if draft.add(eid, attr, value, t):
            self._touched(eid, attr)

    def _ref(self, eid: int, attr: Attr, value: Any) -> int:
        if isinstance(value, Mapping):
            return self._map(value)
        if isinstance(value, (Char, bool)) or value is None:
            attr.coerce(value, attr.ident)
            raise syntax_error(f"Bad entity value {value!r} for {attr.ident}.")
        if type(value) is int or isinstance(value, (str, Keyword, list, tuple)):
            return self.entities.entity(value)
        made = attr.coerce(value, attr.ident)
        return self.entities.entity(made)

    def _check_unique(self, eid: int, attr: Attr, value: Any) -> None:
        for other in self.draft.lookup(attr.id, value):
            if other != eid:
                raise TransactionError(
                    f"Cannot add [{eid} {attr.ident} {value!r}] because of unique constraint: "
                    f"entity {other} has this value already.",
                    error=":transact/unique",
                    attribute=attr.ident,
                    value=value,
                    entity_id=other,
                )

    def _touched(self, eid: int, attr: Attr, *, composite: bool = True) -> None:
        if attr.ident in SCHEMA_PROPERTIES:
            self.schema_dirty.add(eid)
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
        for eid in self.composite_dirty:
            for attr in wanted.values():
                parts = []
                for name in attr.tuple_attrs:
                    part = schema.by_key.get(name)
                    values = draft.values(eid, part.id) if part is not None else []
                    parts.append(values[0] if values else None)
                if all(part is None for part in parts):
                    draft.retract_all(eid, attr)
                    continue
                value = tuple(parts)
                if attr.unique is not None:
                    self._check_unique(eid, attr, value)
                draft.add(eid, attr, value)
        self.composite_dirty.clear()

    def _ensure(self, spec: Any, eid: int) -> None:
        draft = self.draft
        spec_eid = self.entities.strict(spec, ":db/ensure")
        by_key = draft.schema.by_key
        wanted = draft.values(spec_eid, by_key[_K("db.entity/attrs")].id)
        missing = [
            name
            for name in wanted
            if (attr := by_key.get(name)) is None or not draft.values(eid, attr.id)
        ]
        if missing:
            raise TransactionError(
                f"Entity {eid} missing attributes {', '.join(map(repr, missing))} of spec {spec!r}.",
                error=":transact/ensure",
                entity_id=eid,
            )
        for name in draft.values(spec_eid, by_key[_K("db.entity/preds")].id):
            predicate = lookup_function(name)
            if predicate is None:
                raise TransactionError(
                    f"The predicate {name!r} of spec {spec!r} is not registered.",
                    error=":transact/ensure",
                )
            db = draft.frozen() if self.wrap is None else self.wrap(draft.frozen())
            if predicate(db, eid) is not True:
                raise TransactionError(
                    f"Entity {eid} failed the predicate {name!r} of spec {spec!r}.",
                    error=":transact/ensure",
                    entity_id=eid,
                )
