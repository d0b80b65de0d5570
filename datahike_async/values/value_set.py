"""ValueSet: a set of values as databases tell them apart, which Python's sets do not.

Knows the keys of values and nothing of queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, ClassVar, Final

from datahike_async.edn.types import crowded
from datahike_async.errors import shown
from datahike_async.looks import walked
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.values.json_form import jsonable
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["ValueSet"]

_IN_REPR: Final = 10


class ValueSet(Json, AbstractSet[Any]):
    """A read-only set in which ``1``, ``1.0`` and ``True`` are three elements.

    It comes of ``(distinct ?v)``, of a nested query, and of functions that make sets. It equals any
    set of the same elements, and hashes like one; a Python ``set`` built from it merges what Python
    takes for equal.

        >>> sorted(map(repr, ValueSet([1, True, 1.0, 1])))
        ['1', '1.0', 'True']
    """

    __slots__ = ("_elements",)
    json_schema: ClassVar[JsonSchema] = {"type": "array", "items": {}}

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._elements: dict[Any, Any] = {typed_key(v): v for v in walked(values)}

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> ValueSet:
        return cls(it)

    def __len__(self) -> int:
        return len(self._elements)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements.values())

    def as_json(self) -> list[Any]:
        """Return the elements in their order."""
        return [jsonable(value) for value in sorted(self, key=sort_key)]

    def __contains__(self, value: object) -> bool:
        try:
            return typed_key(value) in self._elements
        except TypeError:
            return False

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ValueSet):
            return self._elements.keys() == other._elements.keys()
        if not isinstance(other, AbstractSet):
            return NotImplemented
        return len(self) == len(other) and all(v in self for v in other)

    def __hash__(self) -> int:
        if crowded(self) is not None:
            raise ValueError("many elements of a set were chosen to have one hash")
        return hash(frozenset(self))

    def __repr__(self) -> str:
        if not self:
            return "set()"
        values = ", ".join(map(shown, islice(self, _IN_REPR)))
        more = f", … {len(self) - _IN_REPR} more" if len(self) > _IN_REPR else ""
        return "{" + values + more + "}"
