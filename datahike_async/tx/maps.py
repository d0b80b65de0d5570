"""Entity maps: plain ones straight to the memtable, others by upsert, nesting and reverse keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError, shown
from datahike_async.tx.entities import CURRENT_TX, is_tempid
from datahike_async.tx.facts import Facts
from datahike_async.tx.forms import MOST_LEVELS, keyword, syntax_error
from datahike_async.values.schema import Attr
from datahike_async.values.types import ANY

__all__ = ["Maps"]

_DB_ID: Final = frozenset({Keyword("db/id"), ":db/id"})
_ENSURE: Final = Keyword("db/ensure")
_LONG: Final = 2**63
# Types whose values are their own keys (``typed_key``), longs of 64 bits among them.
_OWN_KEYS: Final = frozenset({int, str, Keyword})
_SCALARS: Final = frozenset({int, str, float, bool, Keyword})


class Maps(Facts):
    """A running transaction that carries out entity maps."""

    def _fast_map(self, item: dict[Any, Any]) -> bool:
        """Carry out a map of plain values; False where it has anything that is not plain."""
        draft = self.draft
        schema = draft.schema
        by_key = schema.by_key
        composites = schema.composites
        ref: Any = None
        named: tuple[Attr, Any] | None = None
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
            if not attr.plain or (composites and attr.ident in composites):
                return False
            if kind is str:
                if not value.isascii():
                    value = attr.coerce(value, attr.ident)
            elif kind is int and not -_LONG < value < _LONG:
                return False
            pairs.append((attr, value))
            seen.add(attr.id)
            if attr.unique is not None:
                if attr.unique != "identity" or named is not None:
                    return False
                named = attr, value
        if not pairs or len(seen) != len(pairs):
            return False
        entities = self.entities
        if named is not None:
            if ref is not None or entities.open or draft.lookup(named[0].id, named[1]):
                return False
            # Nobody has this value, and so the map is a new entity.
            eid = entities.new()
        elif ref is None:
            eid = entities.new()
        elif type(ref) is int and ref > 0:
            eid = entities.explicit(ref)
        elif is_tempid(ref) and ref not in CURRENT_TX:
            eid = entities.tempid(ref)
        else:
            return False
        if (len(pairs) > 1 or eid in entities.fresh) and entities.is_new(eid):
            row, tx = draft.mem.assert_row, draft.tx
            for attr, value in pairs:
                kind = type(value)
                if kind in _OWN_KEYS:
                    row(eid, attr.id, value, value, tx, attr.indexed)
                else:
                    draft.add_new(eid, attr, value)
        else:
            for attr, value in pairs:
                draft.add(eid, attr, value)
        return True

    def _map(self, item: Mapping[Any, Any]) -> int:
        """Carry out an entity map and return its entity id."""
        self.depth += 1
        if self.depth > MOST_LEVELS:
            raise syntax_error(
                f"Entity maps are nested deeper than {MOST_LEVELS} levels; give them tempids and "
                "put them side by side."
            )
        try:
            return self._one_map(item)
        finally:
            self.depth -= 1

    def _one_map(self, item: Mapping[Any, Any]) -> int:
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
                        f"Expected a number, string, keyword or lookup ref for :db/id, "
                        f"got {shown(ref)}.",
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
        if tempid and ref is not None:
            for attr, value in pairs:
                if (
                    attr.unique == "identity"
                    and attr.is_ref
                    and is_tempid(value)
                    and value not in CURRENT_TX
                ):
                    entities.claim(ref, attr, value)
        identities = self._identities(pairs)
        if identities:
            found = entities.by_identity(identities, ref)
            if found is not None:
                attr, value, eid = found
                if ref is None or not tempid:
                    return eid
                return entities.assign(ref, eid, attr, value)
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
        whole = dict.fromkeys(c for name in parts for c in composites[name])
        out += [
            (composite, tuple(parts[p] for p in composite.tuple_attrs))
            for composite in whole
            if composite.unique == "identity" and all(p in parts for p in composite.tuple_attrs)
        ]
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
