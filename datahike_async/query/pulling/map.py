"""The maps that pull returns: dicts keyed by Keyword that also answer to ``":name"`` strings."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from datahike_async.edn.types import Keyword
from datahike_async.looks import STEP, tally
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.values.json_form import json_object

__all__ = ["EntityMap", "copied"]

# A look at the clock comes after so many maps, and one.
_MANY: Final = 63
# What an entry of a large map counts for.
_ENTRY: Final = STEP // 4


class EntityMap(Json, dict[Any, Any]):
    """A dict whose keyword keys may also be given as strings: ``ada[":person/name"]``.

    It equals a plain dict with the same entries, whether that one is keyed by Keyword or by text.
    """

    __slots__ = ()
    json_schema: ClassVar[JsonSchema] = {"type": "object", "additionalProperties": True}

    def as_json(self) -> dict[str, Any]:
        """Return the map with its keys as text: ``":person/name"``."""
        return json_object(self)

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, str) and key[:1] == ":" and len(key) > 1:
            try:
                return dict.__getitem__(self, Keyword(key))
            except KeyError:
                raise KeyError(key) from None
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if dict.__contains__(self, key):
            return True
        return (
            isinstance(key, str)
            and key[:1] == ":"
            and len(key) > 1
            and dict.__contains__(self, Keyword(key))
        )

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value under ``key``, a keyword or its text, or ``default``."""
        try:
            return self[key]
        except KeyError:
            return default

    def copy(self) -> EntityMap:
        """Return a shallow copy that is an EntityMap as well."""
        return EntityMap(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict):
            return NotImplemented
        if not isinstance(other, EntityMap):
            other = {_key(k): v for k, v in other.items()}
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None


def _key(key: Any) -> Any:
    return Keyword(key) if type(key) is str and key[:1] == ":" and len(key) > 1 else key


def copied(whole: EntityMap, most: int = 2**62) -> tuple[EntityMap, int]:
    """Return a deep copy of the maps and lists of a pull result, and how many maps it has.

    Of more than ``most`` maps the copy is not whole.
    Works without recursion: results of a recursive pull may be deeper than Python's stack.
    """
    out, count = EntityMap(), 0
    stack: list[tuple[Any, Any]] = [(whole, out)]
    while stack:
        source, target = stack.pop()
        if type(source) is EntityMap:
            count += 1
            if count > most:
                break
            if not count & _MANY:
                tally(STEP * (_MANY + 1))
            if len(source) > _MANY:
                tally(_ENTRY * len(source))
            for key, value in source.items():
                target[key] = made = _shell(value)
                if made is not value:
                    stack.append((value, made))
        else:
            for value in source:
                made = _shell(value)
                target.append(made)
                if made is not value:
                    stack.append((value, made))
    return out, count


def _shell(value: Any) -> Any:
    if type(value) is EntityMap:
        return EntityMap()
    return [] if type(value) is list else value
