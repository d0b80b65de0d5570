"""Built-in functions that make and take apart collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from datahike_async.errors import shown
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["COLLECTIONS", "MAX_RANGE"]

MAX_RANGE: Final = 1_000_000

_SEQUENCES: Final = (list, tuple)
_SETS: Final = (set, frozenset)


def _items(name: str, value: Any) -> Any:
    """Return a collection as something to iterate over; nil is an empty one."""
    if value is None:
        return ()
    if isinstance(value, (*_SEQUENCES, *_SETS, str)):
        return value
    if isinstance(value, Mapping):
        return [tuple(pair) for pair in value.items()]
    if isinstance(value, bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"({name} …) takes a collection, not {shown(value)}")
    return list(value)


def _ordered(name: str, value: Any) -> Any:
    items = _items(name, value)
    return list(items) if isinstance(items, _SETS) else items


def _count(value: Any) -> int:
    return len(value) if isinstance(value, bytes) else len(_items("count", value))


def _is_empty(value: Any) -> bool:
    return _count(value) == 0


def _not_empty(value: Any) -> Any:
    return None if _is_empty(value) else value


def _contains(collection: Any, key: Any) -> bool:
    if collection is None:
        return False
    if isinstance(collection, (*_SEQUENCES, str)):
        return type(key) is int and 0 <= key < len(collection)
    if isinstance(collection, (Mapping, *_SETS)):
        wanted = typed_key(key)
        return any(typed_key(k) == wanted for k in collection)
    raise TypeError(f"(contains? …) takes a collection, not {shown(collection)}")


def _get(collection: Any, key: Any, default: Any = None) -> Any:
    if isinstance(collection, Mapping):
        wanted = typed_key(key)
        return next((v for k, v in collection.items() if typed_key(k) == wanted), default)
    if isinstance(collection, (*_SEQUENCES, str)) and type(key) is int:
        return collection[key] if 0 <= key < len(collection) else default
    if isinstance(collection, _SETS):
        return key if _contains(collection, key) else default
    return default


def _nth(collection: Any, index: Any, *default: Any) -> Any:
    items = _ordered("nth", collection)
    if type(index) is int and 0 <= index < len(items):
        return items[index]
    if default:
        return default[0]
    raise IndexError(f"{shown(index)} is not within the {len(items)} elements")


def _range(*args: Any) -> list[int]:
    if not 1 <= len(args) <= 3 or not all(type(a) is int for a in args):
        raise TypeError("(range …) takes one to three ints")
    if len(args) == 3 and args[2] == 0:
        raise ValueError("(range …) takes a step that is not 0")
    found = range(*args)
    if len(found) > MAX_RANGE:
        raise ValueError(f"(range …) would make {len(found)} values; the limit is {MAX_RANGE}")
    return list(found)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return frozenset(map(_hashable, value)) if isinstance(value, set) else value


def _map(*pairs: Any) -> dict[Any, Any]:
    if len(pairs) % 2:
        raise ValueError("a map takes pairs of keys and values")
    return {_hashable(k): v for k, v in zip(pairs[::2], pairs[1::2], strict=True)}


def _set(collection: Any) -> frozenset[Any]:
    return frozenset(map(_hashable, _items("set", collection)))


def _distinct(collection: Any) -> list[Any]:
    return list({typed_key(x): x for x in _items("distinct", collection)}.values())


COLLECTIONS: Final[dict[str, Callable[..., Any]]] = {
    "vector": lambda *items: list(items),
    "list": lambda *items: items,
    "tuple": lambda *items: items,
    "vec": lambda c: list(_items("vec", c)),
    "untuple": lambda value: list(_items("untuple", value)),
    "set": _set,
    "hash-map": _map,
    "array-map": _map,
    "range": _range,
    "count": _count,
    "empty?": _is_empty,
    "not-empty": _not_empty,
    "contains?": _contains,
    "get": _get,
    "nth": _nth,
    "first": lambda c: _nth(c, 0, None),
    "second": lambda c: _nth(c, 1, None),
    "last": lambda c: (list(_items("last", c)) or [None])[-1],
    "keys": lambda m: list(m) if m else None,
    "vals": lambda m: list(m.values()) if m else None,
    "sort": lambda c: sorted(_items("sort", c), key=sort_key),
    "reverse": lambda c: list(_items("reverse", c))[::-1],
    "distinct": _distinct,
}
