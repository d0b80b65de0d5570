"""Transaction: carries out one list of items on a draft, one after another.

A form is carried out completely before the next one is looked at. Whatever raises leaves the draft
to be aborted by the caller (``apply``), so that nothing of a failed transaction stays. Its layers:
``facts``, ``maps``, ``vectors``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from datetime import datetime
from typing import Any

from datahike_async.edn.types import Keyword
from datahike_async.errors import shown
from datahike_async.tx.answers import stored_tempids
from datahike_async.tx.checks import check_schema, check_value
from datahike_async.tx.facts import OwnInstant
from datahike_async.tx.forms import (
    keyword,
    require_attr,
    reserved,
    syntax_error,
    unknown_attribute,
)
from datahike_async.tx.vectors import Vectors
from datahike_async.values.datom import Datom
from datahike_async.values.schema import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_TEMPIDS,
    KEPT_FOR_US,
    TX_INSTANT,
    VALID_FROM,
    VALID_TO,
)

__all__ = ["Transaction"]


class Transaction(Vectors):
    """One run of one transaction over a draft."""

    def begin(self, meta: Mapping[Any, Any], key: str | None = None) -> dict[Keyword, Any]:
        """Write the transaction's own entity; return the tx-meta as it is reported.

        Where no history is kept, only an idempotency key is, and the instant that is its answer's.
        """
        for given in meta:
            if keyword(given) in KEPT_FOR_US:
                raise reserved(IDEMPOTENCY_KEY)
        out = self.meta
        out[TX_INSTANT] = self.instant
        draft = self.draft
        schema, tx = draft.schema, draft.tx
        attrs = []
        for given, value in meta.items():
            name = keyword(given)
            if name is None:
                raise syntax_error(
                    f"Bad transaction meta attribute {shown(given)}, expected a keyword."
                )
            attr = schema.by_key.get(name)
            if schema.flexibility == "write" and (attr is None or not schema.takes_data(attr)):
                raise unknown_attribute(given, schema, "transaction meta attribute")
            if attr is None:
                require_attr(given, schema)
                attr = self._attr(name) if draft.keep_history else None
            if attr is None:
                out[name] = value
            elif attr.ident is TX_INSTANT:
                self._own_instant(check_value(attr, value))
                out[TX_INSTANT] = self.instant
            else:
                out[attr.ident] = value
                attrs.append((attr, value))
        if draft.keep_history or key is not None:
            draft.add_new(tx, schema.by_key[TX_INSTANT], self.instant)
        if key is not None:
            out[IDEMPOTENCY_KEY] = key
            self._add(tx, schema.by_key[IDEMPOTENCY_KEY], key)
        for attr, value in attrs:
            for one in self._values(attr, value):
                if draft.keep_history:
                    self._add(tx, attr, one)
                elif not attr.is_ref:
                    one = check_value(attr, one)
                    if not attr.many:
                        out[attr.ident] = one
        if VALID_FROM in out or VALID_TO in out:
            self.windows.add(tx)
        return out

    def _own_instant(self, value: datetime) -> None:
        try:
            self._check_instant(self.draft.tx, value)
        except OwnInstant:
            self.instant = value
        self.own = True

    def keep_answer(self, tempids: Mapping[Any, int]) -> None:
        """Keep with the transaction what whoever sends it again will be told."""
        attr = self.draft.schema.by_key[IDEMPOTENCY_TEMPIDS]
        self.draft.add_new(self.draft.tx, attr, stored_tempids(tempids))

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
            raise syntax_error(
                f"Bad entity type at {shown(item)}, expected map or vector.", item=item
            )
        if self.schema_dirty:
            self._update_schema()
        if self.composite_dirty and not self.late:
            self._update_composites()
        return None

    def recompute(self, entities: Iterable[int]) -> None:
        """Make composite tuples of entities anew, of which parts were purged."""
        self.composite_dirty.update(dict.fromkeys(entities))
        if self.composite_dirty:
            self._update_composites()

    def forget(self) -> None:
        """Leave an item that failed; what should have followed from it does not."""
        self.schema_dirty.clear()
        self.composite_dirty.clear()

    def finish(self) -> None:
        """Check what can only be checked once everything is there."""
        if self.composite_dirty:
            self._update_composites()
        if self.schema_entities:
            check_schema(self.draft, self.schema_before, self.schema_entities)
        for spec, eid in self.ensured:
            self._ensure(spec, eid)
        for eid in self.windows:
            self._check_window(eid)
