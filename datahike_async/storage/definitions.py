"""Definitions: whether a schema is what the log has led to since another one.

A checkpoint says its schema, and the log what was done to those entities that define it. Knows no
store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Rows
from datahike_async.values.schema import DOC, IDENT, SCHEMA_PROPERTIES, Schema

__all__ = ["Definitions", "differs"]

_SYSTEM: Final = Schema.empty("write").attrs
_PROPERTIES: Final = {attr.id: attr.ident for attr in _SYSTEM if attr.ident in SCHEMA_PROPERTIES}
_IDS: Final = np.array(sorted(_PROPERTIES), np.int32)
_DEFINING: Final = SCHEMA_PROPERTIES - {IDENT, DOC}

_Facts = dict[int, dict[Keyword, list[Any]]]


@dataclass(slots=True)
class Definitions:
    """What the log says of the schema: new ``attributes``, and facts in their order."""

    attributes: list[Keyword] = field(default_factory=list)
    facts: list[tuple[int, Keyword, Any, bool]] = field(default_factory=list)

    def did(self, rows: Rows, added: npt.NDArray[np.bool_]) -> None:
        """Take in operations, of which most have nothing to do with it."""
        at = np.flatnonzero(np.isin(rows.a, _IDS))
        if len(at):
            own = rows.take(at)
            columns = (own.e.tolist(), own.a.tolist(), own.v.tolist(), added[at].tolist())
            self.facts += [
                (e, _PROPERTIES[a], v, new) for e, a, v, new in zip(*columns, strict=True)
            ]


def differs(before: Schema | None, done: Iterable[Definitions], after: Schema) -> str:
    """Say in what a schema is not what ``done`` makes of the one before it; nothing if in nothing.

    None before: there was no attribute. What an attribute's documentation says is not looked at.
    """
    start = Schema.empty(after.flexibility) if before is None else before
    names = [attr.ident for attr in start.attrs]
    facts = _facts(start)
    for one in done:
        names += one.attributes
        for e, name, value, added in one.facts:
            values = facts.setdefault(e, {}).setdefault(name, [])
            if added:
                values.append(value)
            elif value in values:
                values.remove(value)
    if names != [attr.ident for attr in after.attrs]:
        return "attributes have other numbers"
    if {v: e for e, props in facts.items() for v in props.get(IDENT, ())} != dict(after.idents):
        return "idents are those of other entities"
    expected, found = _defined(facts), _defined(_facts(after))
    wrong = [e for e in sorted(expected.keys() | found.keys()) if expected.get(e) != found.get(e)]
    return f"entity {wrong[0]} defines another attribute" if wrong else ""


def _facts(schema: Schema) -> _Facts:
    many = {attr.ident for attr in _SYSTEM if attr.many}
    out: _Facts = {e: {IDENT: [ident]} for ident, e in schema.idents.items()}
    for e, props in schema.entities.items():
        out[e] = {name: list(v) if name in many else [v] for name, v in props.items()}
    return out


def _defined(facts: _Facts) -> Mapping[int, Any]:
    out = {}
    for e, props in facts.items():
        said = {name: sorted(map(repr, vs)) for name, vs in props.items() if vs and name != DOC}
        if IDENT in said and not _DEFINING.isdisjoint(said):
            out[e] = said
    return out
