"""Datom: one fact as users see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from datahike_async.edn.types import Keyword
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.values.json_form import jsonable
from datahike_async.values.types import typed_key

__all__ = ["Datom"]


class Datom(Json):
    """An asserted (``added``) or retracted fact: entity, attribute, value, transaction.

    Reads like the tuple ``(e, a, v, tx, added)``. Equality and hash look at e, a and v only, as in
    Datahike; values of different types never count as equal.
    """

    __slots__ = ("a", "added", "e", "tx", "v")
    json_schema: ClassVar[JsonSchema] = {"type": "array", "items": {}, "minItems": 5, "maxItems": 5}

    def __init__(self, e: int, a: Keyword, v: Any, tx: int, added: bool = True) -> None:
        self.e = e
        self.a = a
        self.v = v
        self.tx = tx
        self.added = added

    def __iter__(self) -> Iterator[Any]:
        return iter((self.e, self.a, self.v, self.tx, self.added))

    def __getitem__(self, i: int) -> Any:
        return (self.e, self.a, self.v, self.tx, self.added)[i]

    def __len__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Datom):
            return NotImplemented
        return self.e == other.e and self.a is other.a and typed_key(self.v) == typed_key(other.v)

    def __hash__(self) -> int:
        return hash((self.e, self.a, typed_key(self.v)))

    def as_json(self) -> list[Any]:
        """Return the list of its five parts."""
        return [self.e, self.a.as_json(), jsonable(self.v), self.tx, self.added]

    def __repr__(self) -> str:
        sign = "" if self.added else " retracted"
        return f"Datom({self.e} {self.a} {self.v!r} {self.tx}{sign})"
