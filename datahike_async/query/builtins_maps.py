"""Built-in functions on maps and sets, and those that group or order by a key.

A key function is a keyword, which is looked up, or a Python function that the query was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import shown
from datahike_async.query.builtins_data import (
    COLLECTIONS,
    get,
    items_of,
    make_map,
    make_set,
)
from datahike_async.query.supply import Supplied
from datahike_async.values.order import compare, sort_key
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

__all__ = ["MAPS"]


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"({name} …) takes a map, not {shown(value)}")
    return value


def _assoc(collection: Any, *pairs: Any) -> Any:
    if not pairs or len(pairs) % 2:
        raise ValueError("(assoc …) takes pairs of keys and values")
    entries = list(zip(pairs[::2], pairs[1::2], strict=True))
    if isinstance(collection, (list, tuple)):
        out = list(collection)
        for at, value in entries:
            if type(at) is not int or not 0 <= at <= len(out):
                raise IndexError(f"{shown(at)} is not within the {len(out)} elements")
            out[at : at + 1] = [value]
        return out
    return make_map([*_mapping("assoc", collection).items(), *entries])


def _dissoc(collection: Any, *keys: Any) -> dict[Any, Any]:
    gone = set(map(typed_key, keys))
    entries = _mapping("dissoc", collection).items()
    return make_map((k, v) for k, v in entries if typed_key(k) not in gone)


def _merge(*maps: Any) -> dict[Any, Any] | None:
    given = [_mapping("merge", m) for m in maps if m is not None]
    return make_map(pair for m in given for pair in m.items()) if given else None


def _select_keys(collection: Any, keys: Any) -> dict[Any, Any]:
    wanted = set(map(typed_key, items_of("select-keys", keys)))
    entries = _mapping("select-keys", collection).items()
    return make_map((k, v) for k, v in entries if typed_key(k) in wanted)


def _find(collection: Any, key: Any) -> list[Any] | None:
    missing = object()
    value = get(collection, key, missing)
    return None if value is missing else [key, value]


def _get_in(collection: Any, keys: Any, default: Any = None) -> Any:
    missing = object()
    for key in items_of("get-in", keys):
        collection = get(collection, key, missing)
        if collection is missing:
            return default
    return collection


def _zipmap(keys: Any, values: Any) -> dict[Any, Any]:
    return make_map(zip(items_of("zipmap", keys), items_of("zipmap", values), strict=False))


# -- by key ------------------------------------------------------------------------------------


def _key_function(name: str, function: Any) -> Callable[[Any], Any]:
    if isinstance(function, Keyword):
        return lambda item: get(item, function)
    waits = inspect.iscoroutinefunction(function)
    if not callable(function) or isinstance(function, Supplied) or waits:
        raise TypeError(f"({name} …) takes a keyword or a plain function, not {shown(function)}")
    return function  # type: ignore[no-any-return]


def _sort_by(function: Any, collection: Any) -> list[Any]:
    key = _key_function("sort-by", function)
    return sorted(items_of("sort-by", collection), key=lambda item: sort_key(key(item)))


def _group_by(function: Any, collection: Any) -> dict[Any, Any]:
    key = _key_function("group-by", function)
    return _grouped((key(item), item) for item in items_of("group-by", collection))


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, tuple[Any, list[Any]]] = {}
    for key, item in pairs:
        found.setdefault(typed_key(key), (key, []))[1].append(item)
    return make_map(found.values())


def _frequencies(collection: Any) -> dict[Any, int]:
    groups = _grouped((item, None) for item in items_of("frequencies", collection))
    return {key: len(items) for key, items in groups.items()}


def _best(name: str, sign: int) -> Callable[..., Any]:
    def call(function: Any, first: Any, *others: Any) -> Any:
        key = _key_function(name, function)

        def better(a: Any, b: Any) -> Any:
            # Of equal ones the last, as in Clojure.
            return b if sign * compare(key(b), key(a)) >= 0 else a

        return reduce(better, others, first)

    return call


# -- sets --------------------------------------------------------------------------------------


def _elements(name: str, value: Any) -> dict[Any, Any]:
    if value is not None and not isinstance(value, (set, frozenset, ValueSet)):
        raise TypeError(f"({name} …) takes sets, not {shown(value)}")
    return {typed_key(x): x for x in value or ()}


def _sets(
    name: str, combined: Callable[[dict[Any, Any], dict[Any, Any]], dict[Any, Any]]
) -> Callable[..., ValueSet]:
    def call(*sets: Any) -> ValueSet:
        given = [_elements(name, s) for s in sets] or [{}]
        return make_set(reduce(combined, given).values())

    return call


def _within(name: str) -> Callable[[Any, Any], bool]:
    return lambda a, b: _elements(name, a).keys() <= _elements(name, b).keys()


def _disj(collection: Any, *items: Any) -> ValueSet:
    gone = set(map(typed_key, items))
    return ValueSet(x for key, x in _elements("disj", collection).items() if key not in gone)


_SUBSET: Final = _within("subset?")
_S: Final = "clojure.set/"

MAPS: Final[dict[str, Callable[..., Any]]] = {
    "assoc": _assoc,
    "dissoc": _dissoc,
    "merge": _merge,
    "select-keys": _select_keys,
    "find": _find,
    "get-in": _get_in,
    "zipmap": _zipmap,
    "key": lambda entry: COLLECTIONS["nth"](entry, 0),
    "val": lambda entry: COLLECTIONS["nth"](entry, 1),
    "sort-by": _sort_by,
    "group-by": _group_by,
    "frequencies": _frequencies,
    "min-key": _best("min-key", -1),
    "max-key": _best("max-key", 1),
    "hash-set": lambda *items: make_set(items),
    "disj": _disj,
    _S + "union": _sets("union", lambda a, b: {**a, **b}),
    _S + "intersection": _sets("intersection", lambda a, b: {k: a[k] for k in a if k in b}),
    _S + "difference": _sets("difference", lambda a, b: {k: a[k] for k in a if k not in b}),
    _S + "subset?": _SUBSET,
    _S + "superset?": lambda a, b: _SUBSET(b, a),
    _S + "map-invert": lambda m: make_map((v, k) for k, v in _mapping("map-invert", m).items()),
}
