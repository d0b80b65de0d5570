"""Built-in functions on maps and sets, and those that group or order by a key.

A key function is a keyword, which is looked up, or a Python function that the query was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import chain
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import shown
from datahike_async.query.builtins.data import (
    COLLECTIONS,
    get,
    items_of,
    make_map,
    make_set,
)
from datahike_async.query.builtins.supply import Supplied
from datahike_async.query.builtins.walk import copied, each, positions_in_order
from datahike_async.values.order import compare
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
    entries = list(zip(pairs[::2], each(pairs[1::2]), strict=True))
    if isinstance(collection, (list, tuple)):
        out = copied(collection)
        for at, value in entries:
            if type(at) is not int or not 0 <= at <= len(out):
                raise IndexError(f"{shown(at)} is not within the {len(out)} elements")
            if at == len(out):
                out.append(value)
            else:
                out[at] = value
        return out
    return make_map(chain(each(_mapping("assoc", collection).items()), entries))


def _dissoc(collection: Any, *keys: Any) -> dict[Any, Any]:
    gone = set(map(typed_key, keys))
    entries = each(_mapping("dissoc", collection).items())
    return make_map((k, v) for k, v in entries if typed_key(k) not in gone)


def _merge(*maps: Any) -> dict[Any, Any] | None:
    given = [_mapping("merge", m) for m in maps if m is not None]
    return make_map(pair for m in given for pair in each(m.items())) if given else None


def _select_keys(collection: Any, keys: Any) -> dict[Any, Any]:
    wanted = set(map(typed_key, each(items_of("select-keys", keys))))
    entries = each(_mapping("select-keys", collection).items())
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
    return make_map(zip(each(items_of("zipmap", keys)), items_of("zipmap", values), strict=False))


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
    items = copied(items_of("sort-by", collection))
    return [items[i] for i in positions_in_order([key(item) for item in each(items)])]


def _group_by(function: Any, collection: Any) -> dict[Any, Any]:
    key = _key_function("group-by", function)
    return _grouped((key(item), item) for item in each(items_of("group-by", collection)))


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    keys: dict[Any, Any] = {}
    groups: dict[Any, list[Any]] = {}
    for key, item in pairs:
        typed = typed_key(key)
        keys.setdefault(typed, key)
        groups.setdefault(typed, []).append(item)
    return make_map(zip(each(keys.values()), groups.values(), strict=True))


def _frequencies(collection: Any) -> dict[Any, int]:
    items: dict[Any, Any] = {}
    counts: dict[Any, int] = {}
    for item in each(items_of("frequencies", collection)):
        key = typed_key(item)
        items.setdefault(key, item)
        counts[key] = counts.get(key, 0) + 1
    return make_map(zip(each(items.values()), counts.values(), strict=True))


def _best(name: str, sign: int) -> Callable[..., Any]:
    def call(function: Any, first: Any, *others: Any) -> Any:
        key = _key_function(name, function)

        def better(a: Any, b: Any) -> Any:
            # Of equal ones the last, as in Clojure.
            return b if sign * compare(key(b), key(a)) >= 0 else a

        return reduce(better, each(others), first)

    return call


# -- sets --------------------------------------------------------------------------------------


def _elements(name: str, value: Any) -> dict[Any, Any]:
    if value is not None and not isinstance(value, (set, frozenset, ValueSet)):
        raise TypeError(f"({name} …) takes sets, not {shown(value)}")
    return {typed_key(x): x for x in each(value or ())}


def _sets(
    name: str, combined: Callable[[dict[Any, Any], dict[Any, Any]], dict[Any, Any]]
) -> Callable[..., ValueSet]:
    def call(*sets: Any) -> ValueSet:
        given = [_elements(name, s) for s in sets] or [{}]
        return make_set(each(reduce(combined, given).values()))

    return call


def _within(name: str) -> Callable[[Any, Any], bool]:
    def call(a: Any, b: Any) -> bool:
        mine, others = _elements(name, a), _elements(name, b)
        return len(mine) <= len(others) and all(key in others for key in each(mine.keys()))

    return call


def _disj(collection: Any, *items: Any) -> ValueSet:
    gone = set(map(typed_key, items))
    elements = each(_elements("disj", collection).items())
    return ValueSet(x for key, x in elements if key not in gone)


def _union(a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
    return {key: x for part in (a, b) for key, x in each(part.items())}


def _intersection(a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
    return {key: x for key, x in each(a.items()) if key in b}


def _difference(a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
    return {key: x for key, x in each(a.items()) if key not in b}


def _inverted(value: Any) -> dict[Any, Any]:
    return make_map((v, k) for k, v in each(_mapping("map-invert", value).items()))


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
    "hash-set": lambda *items: make_set(each(items)),
    "disj": _disj,
    _S + "union": _sets("union", _union),
    _S + "intersection": _sets("intersection", _intersection),
    _S + "difference": _sets("difference", _difference),
    _S + "subset?": _SUBSET,
    _S + "superset?": lambda a, b: _SUBSET(b, a),
    _S + "map-invert": _inverted,
}
