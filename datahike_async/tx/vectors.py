"""Vector forms: ``[:db/add e a v]`` and the others, transaction functions, raw datoms."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from typing import Any, Final, cast

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import TransactionError, shown
from datahike_async.functions import lookup_function
from datahike_async.tx.checks import check_value
from datahike_async.tx.entities import CURRENT_TX, is_tempid
from datahike_async.tx.forms import keyword, require_attr, reserved, syntax_error
from datahike_async.tx.maps import Maps
from datahike_async.tx.purge import PURGES, PurgeMet
from datahike_async.values.datom import Datom
from datahike_async.values.schema import KEPT_FOR_US, Attr

__all__ = ["Vectors"]

_ALIASES: Final = {
    "db.fn/cas": "db/cas",
    "db.fn/retractEntity": "db/retractEntity",
    "db.fn/retractAttribute": "db/retractAttribute",
}


class Vectors(Maps):
    """A running transaction that carries out vector forms."""

    def _vector(self, item: Any) -> Awaitable[Any] | None:
        if not item:
            raise syntax_error("An empty vector is no transaction form; expected [:db/add e a v].")
        head = item[0]
        name: Keyword | Symbol | None = keyword(head)
        if name is None and isinstance(head, Symbol):
            name = head
        if name is None:
            raise syntax_error(
                f"Unknown operation {shown(head)} in {shown(item)}; expected :db/add.", item=item
            )
        text = _ALIASES.get(name.text, name.text)
        if text == "db/add":
            self._op_add(item)
        elif text == "db/retract":
            self._op_retract(item)
        elif text == "db/retractAttribute":
            self._arity(item, 3, 3)
            self._op_retract(item, components=True)
        elif text == "db/retractEntity":
            self._arity(item, 2, 2)
            eid = self.entities.existing(item[1], ":db/retractEntity")
            if eid is not None:
                self._retract_entity(eid)
        elif text == "db/cas":
            self._op_cas(item)
        elif text in PURGES:
            raise PurgeMet
        elif text == "db.fn/call":
            self._arity(item, 2, None)
            return self._call(item[1], item[2:])
        else:
            return self._call(name, item[1:])
        return None

    def _arity(self, item: Any, least: int, most: int | None) -> None:
        if len(item) < least or (most is not None and len(item) > most):
            span = f"at least {least}" if most is None else f"{least} to {most}"
            span = f"{least}" if most == least else span
            raise syntax_error(f"{shown(item)} should have {span} elements.", item=item)

    def _op_add(self, item: Any) -> None:
        self._arity(item, 4, 5)
        _, ref, key, value, *rest = item
        name = keyword(key)
        attr = self._attr(key)
        if attr.tuple_attrs:
            raise syntax_error(f"Can't modify tuple attrs directly: {attr.ident}.")
        if value is None:
            raise syntax_error(f"Cannot store nil as a value of {name}: {shown(item)}.")
        if attr.unique == "identity" and is_tempid(ref) and ref not in CURRENT_TX:
            if attr.is_ref and is_tempid(value) and value not in CURRENT_TX:
                self.entities.claim(ref, attr, value)
            known = self._known_value(attr, value)
            found = self.draft.lookup(attr.id, known) if known is not None else []
            if found:
                eid = self.entities.assign(ref, found[0], attr, known)
            else:
                eid = self.entities.tempid(ref)
        else:
            eid = self.entities.entity(ref)
        self._add(eid, attr, value, rest[0] if rest else None)

    def _op_retract(self, item: Any, *, components: bool = False) -> None:
        self._arity(item, 3, 5)
        _, ref, key, *rest = item
        eid = self.entities.existing(ref, ":db/retract")
        attr = require_attr(key, self.draft.schema)
        if attr is not None and attr.ident in KEPT_FOR_US:
            raise reserved(attr.ident)
        if eid is None or attr is None:
            return
        if attr.tuple_attrs:
            raise syntax_error(f"Can't modify tuple attrs directly: {attr.ident}.")
        if len(rest) > 1 and type(rest[1]) is not int:
            raise syntax_error(
                f"Bad transaction id {shown(rest[1])} in {shown(item)}; expected an int.", item=item
            )
        gone: list[Any] = []
        if not rest or rest[0] is None:
            if components and attr.component:
                gone = self.draft.values(eid, attr.id)
            self.draft.retract_all(eid, attr)
        else:
            value = rest[0]
            if attr.is_ref:
                value = self.entities.found(value, ":db/retract")
            self.draft.retract(eid, attr, attr.coerce(value, attr.ident))
        self._touched(eid, attr)
        for component in gone:
            self._retract_entity(component)

    def _retract_entity(self, eid: int) -> None:
        draft = self.draft
        stack, gone = [eid], set()
        while stack:
            e = stack.pop()
            if e in gone:
                continue
            gone.add(e)
            attrs = draft.schema.attrs
            for a in draft.attributes_of(e):
                attr = attrs[a]
                if attr.component:
                    stack += draft.values(e, a)
                if draft.retract_all(e, attr):
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
        # A datom is taken as it is: one from another database may be an idempotency key.
        key = cast(Any, datom.a)
        known = self.draft.schema.by_key.get(key) if isinstance(key, (str, Keyword)) else None
        if known is not None and not self.draft.schema.takes_data(known):
            known = None
        attr = known or self._attr(key)
        if type(datom.e) is not int or datom.e <= 0:
            raise TransactionError(
                f"A datom takes a positive entity id, not {shown(datom.e)}.",
                error=":entity-id/syntax",
                entity_id=datom.e,
            )
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
                    f"Unknown operation or transaction function {shown(function)}; expected "
                    ":db/add, :db/retract, … or a name given to register_function.",
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
                    f"The transaction function {shown(name)} returned {shown(result)}; expected "
                    "a list of maps and vectors."
                )
            return result

        return run()
