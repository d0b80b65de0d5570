"""Built-in functions that make and take apart collections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from typing import Any, Final

from datahike_async.edn.types import FrozenMap, Keyword, Symbol, crowded
from datahike_async.errors import shown
from datahike_async.looks import SMALL, STEP, walked
from datahike_async.query.builtins.size import MAX_ITEMS, size_of
from datahike_async.query.builtins.walk import copied, each, in_order, let_go, mapped
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

__all__ = ["COLLECTIONS", "MAX_RANGE", "get", "hashable", "items_of", "make_map", "make_set"]

MAX_RANGE: Final = MAX_ITEMS
_MAX_KEY: Final = 1_000_000

_SEQUENCES: Final = (list, tuple)
_SETS: Final = (set, frozenset, ValueSet)
_PLAIN: Final = frozenset({dict, FrozenMap, set, frozenset})
# Types whose values equal nothing of another type: these are found by their hash alone.
_SIMPLE: Final = frozenset({int, str, float, bool, Keyword, type(None)})
_ALONE: Final = frozenset({str, Keyword, Symbol, bytes})
_NOTHING: Final = object()


def items_of(name: str, value: Any) -> Any:
    """Return a collection as something to iterate over; nil is an empty one."""
    if value is None:
        return ()
    if isinstance(value, (*_SEQUENCES, *_SETS, str)):
        return value
    if isinstance(value, Mapping):
        return list(each(value.items()))
    if isinstance(value, bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"({name} …) takes a collection, not {shown(value)}")
    return list(value)


def _ordered(name: str, value: Any) -> Any:
    items = items_of(name, value)
    return copied(items) if isinstance(items, _SETS) else items


def _count(value: Any) -> int:
    if isinstance(value, (bytes, Mapping)):
        return len(value)
    return len(items_of("count", value))


def _is_empty(value: Any) -> bool:
    return _count(value) == 0


def _not_empty(value: Any) -> Any:
    return None if _is_empty(value) else value


def _contains(collection: Any, key: Any) -> bool:
    if collection is None:
        return False
    if isinstance(collection, (*_SEQUENCES, str)):
        return type(key) is int and 0 <= key < len(collection)
    if isinstance(collection, ValueSet):
        return key in collection
    if isinstance(collection, (Mapping, *_SETS)):
        if type(key) in _ALONE and type(collection) in _PLAIN:
            return key in collection
        wanted = typed_key(key)
        return any(typed_key(k) == wanted for k in each(collection))
    raise TypeError(f"(contains? …) takes a collection, not {shown(collection)}")


def get(collection: Any, key: Any, default: Any = None) -> Any:
    """Return what a collection holds at a key or position, or the default."""
    if isinstance(collection, Mapping):
        if type(key) in _ALONE and type(collection) in _PLAIN:
            return collection.get(key, default)
        wanted = typed_key(key)
        pairs = each(collection.items())
        return next((v for k, v in pairs if typed_key(k) == wanted), default)
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
    return copied(found)


def hashable(value: Any) -> Any:
    """Return a value as an element of a set or a key of a map.

    Raises ValueError for a collection that takes long to hash, which is done time and again.
    """
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, (*_SEQUENCES, *_SETS, Mapping)):
        if size_of(value) > _MAX_KEY:
            raise ValueError("the key of a map, or element of a set, is too large a collection")
        return _frozen(value)
    return value


def _frozen(value: Any) -> Any:
    if isinstance(value, _SEQUENCES):
        return tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return FrozenMap({_frozen(k): _frozen(v) for k, v in value.items()})
    return ValueSet(map(_frozen, value)) if isinstance(value, _SETS) else value


def make_map(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a map; the last value of a key counts.

    Raises ValueError where Python would take different keys, such as 1 and 1.0, for one.
    """
    keys: dict[Any, Any] = {}
    values: dict[Any, Any] = {}
    for k, v in pairs:
        key = typed_key(k)
        keys[key], values[key] = hashable(k), v
    if crowded(keys.values()) is not None:
        raise ValueError("many keys of a map were chosen to have one hash")
    out = mapped(keys.values(), values.values())
    if len(out) < len(keys):
        raise ValueError("a map cannot hold keys that differ in type alone, such as 1 and 1.0")
    let_go(values)
    let_go(keys)
    return out


def _map(*pairs: Any) -> dict[Any, Any]:
    if len(pairs) % 2:
        raise ValueError("a map takes pairs of keys and values")
    return make_map(zip(pairs[::2], pairs[1::2], strict=True))


def make_set(items: Iterable[Any]) -> ValueSet:
    """Return a set of what may be elements. Raises ValueError as :func:`hashable` does."""
    return ValueSet(map(hashable, items))


def _set(collection: Any) -> ValueSet:
    return make_set(each(items_of("set", collection)))


def _distinct(collection: Any) -> list[Any]:
    found = {typed_key(x): x for x in each(items_of("distinct", collection))}
    out = copied(found.values())
    let_go(found)
    return out


# -- parts -------------------------------------------------------------------------------------


def _number(name: str, n: Any) -> int:
    if type(n) is not int:
        raise TypeError(f"({name} …) takes an int, not {shown(n)}")
    return max(n, 0)


def _sliced(
    name: str, part: Callable[[int, int], tuple[int, int]]
) -> Callable[[Any, Any], list[Any]]:
    """Return a function of a number and a collection, in this order.

    ``part`` says, of that number and how many elements there are, which of them are meant.
    """

    def call(n: Any, collection: Any) -> list[Any]:
        items = _ordered(name, collection)
        return copied(items, *part(_number(name, n), len(items)))

    return call


def _drop_last(*args: Any) -> list[Any]:
    n, collection = args if len(args) == 2 else (1, *args)
    items = _ordered("drop-last", collection)
    return copied(items, 0, max(len(items) - _number("drop-last", n), 0))


def _subvec(vector: Any, start: Any, end: Any = None) -> list[Any]:
    if not isinstance(vector, _SEQUENCES):
        raise TypeError(f"(subvec …) takes a vector, not {shown(vector)}")
    end = len(vector) if end is None else end
    if type(start) is not int or type(end) is not int:
        raise TypeError("(subvec …) takes a vector and ints")
    if not 0 <= start <= end <= len(vector):
        raise IndexError(f"{start} to {end} is not within the {len(vector)} elements")
    return copied(vector, start, end)


def _partition(name: str, *, whole: bool) -> Callable[..., list[list[Any]]]:
    def call(n: Any, *args: Any) -> list[list[Any]]:
        step, collection = args if len(args) == 2 else (n, *args)
        if type(n) is not int or type(step) is not int:
            raise TypeError(f"({name} …) takes ints and a collection")
        if n < 1 or step < 1:
            raise ValueError(f"({name} …) takes ints from 1 on")
        items = _ordered(name, collection)
        starts = range(0, max(len(items) - n + 1, 0) if whole else len(items), step)
        full = max((len(items) - n) // step + 1, 0)
        if full * (n + 1) > MAX_ITEMS or (n * len(starts) > MAX_ITEMS and step < n):
            raise ValueError(f"({name} …) would make more than {MAX_ITEMS} elements")
        return [copied(items, i, i + n) for i in each(starts)]

    return call


# -- new ones ----------------------------------------------------------------------------------


def _limited(name: str, items: Iterable[Any]) -> list[Any]:
    out = list(islice(items, SMALL // STEP))
    if len(out) < SMALL // STEP:
        return out
    out += walked(islice(items, MAX_ITEMS + 1 - len(out)), each=4)
    if len(out) > MAX_ITEMS:
        raise ValueError(f"({name} …) would make more than {MAX_ITEMS} elements")
    return out


def _concat(*collections: Any) -> list[Any]:
    parts = [_ordered("concat", c) for c in collections]
    count = sum(map(len, parts))
    if count * 4 <= SMALL:
        return list(chain.from_iterable(parts))
    if count > MAX_ITEMS:
        raise ValueError(f"(concat …) would make more than {MAX_ITEMS} elements")
    out: list[Any] = []
    for part in parts:
        out += copied(part)
    return out


def _conj(collection: Any, *items: Any) -> Any:
    if isinstance(collection, _SETS):
        return make_set(chain(each(collection), each(items)))
    if isinstance(collection, Mapping):
        entries = list(each(collection.items()))
        for item in each(items):
            entries.extend(item.items() if isinstance(item, Mapping) else [_pair(item)])
        return make_map(entries)
    if isinstance(collection, str):
        raise TypeError(f"(conj …) takes a collection, not {shown(collection)}")
    first = _ordered("conj", collection)
    if (len(first) + len(items)) * 4 <= SMALL:
        return [*first, *items]
    out = copied(first)
    out += copied(items)
    return out


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, _SEQUENCES) or len(item) != 2:
        raise TypeError(f"an entry of a map is a pair, not {shown(item)}")
    return item[0], item[1]


def _repeat(n: Any, value: Any) -> list[Any]:
    count = _number("repeat", n)
    if count > MAX_ITEMS:
        raise ValueError(f"(repeat …) would make {count} elements; the limit is {MAX_ITEMS}")
    if count * 4 <= SMALL:
        return [value] * count
    return list(walked(repeat(value, count), each=4))


def _flatten(collection: Any) -> list[Any]:
    def walk() -> Iterator[Any]:
        stack = [iter(each(collection))] if isinstance(collection, _SEQUENCES) else []
        while stack:
            for item in stack[-1]:
                if isinstance(item, _SEQUENCES):
                    stack.append(iter(each(item)))
                    break
                yield item
            else:
                stack.pop()

    return _limited("flatten", walk())


def _interleave(*collections: Any) -> list[Any]:
    parts = [items_of("interleave", c) for c in collections]
    return _limited("interleave", chain.from_iterable(zip(*parts, strict=False)))


def _interpose(separator: Any, collection: Any) -> list[Any]:
    items = items_of("interpose", collection)
    return _limited("interpose", chain.from_iterable((separator, x) for x in items))[1:]


def _dedupe(collection: Any) -> list[Any]:
    out: list[Any] = []
    last: Any = _NOTHING
    for item in each(items_of("dedupe", collection)):
        key = typed_key(item)
        if last is _NOTHING or key != last:
            out.append(item)
            last = key
    return out


def _empty(collection: Any) -> Any:
    if isinstance(collection, Mapping):
        return {}
    if isinstance(collection, _SETS):
        return ValueSet()
    return [] if isinstance(collection, _SEQUENCES) else None


def _rest(collection: Any) -> list[Any]:
    return copied(_ordered("rest", collection), 1)


def _last(collection: Any) -> Any:
    items = items_of("last", collection)
    if isinstance(items, _SETS):
        items = copied(items)
    return items[-1] if items else None


def _butlast(collection: Any) -> list[Any] | None:
    items = _ordered("butlast", collection)
    return copied(items, 0, max(len(items) - 1, 0)) or None


def _reverse(collection: Any) -> list[Any]:
    out = copied(items_of("reverse", collection))
    out.reverse()
    return out


COLLECTIONS: Final[dict[str, Callable[..., Any]]] = {
    "vector": lambda *items: list(items),
    "list": lambda *items: items,
    "tuple": lambda *items: items,
    "vec": lambda c: copied(items_of("vec", c)),
    "untuple": lambda value: copied(items_of("untuple", value)),
    "set": _set,
    "hash-map": _map,
    "array-map": _map,
    "range": _range,
    "count": _count,
    "empty?": _is_empty,
    "not-empty": _not_empty,
    "contains?": _contains,
    "get": get,
    "nth": _nth,
    "first": lambda c: _nth(c, 0, None),
    "second": lambda c: _nth(c, 1, None),
    "last": _last,
    "keys": lambda m: copied(m.keys() if isinstance(m, Mapping) else list(m)) if m else None,
    "vals": lambda m: copied(m.values()) if m else None,
    "sort": lambda c: in_order(items_of("sort", c)),
    "reverse": _reverse,
    "distinct": _distinct,
    "distinct?": lambda *items: len(set(map(typed_key, each(items)))) == len(items),
    "seq": lambda c: copied(items_of("seq", c)) or None,
    "empty": _empty,
    "rest": _rest,
    "next": lambda c: _rest(c) or None,
    "butlast": _butlast,
    "take": _sliced("take", lambda n, count: (0, n)),
    "drop": _sliced("drop", lambda n, count: (n, count)),
    "take-last": _sliced("take-last", lambda n, count: (max(count - n, 0), count)),
    "drop-last": _drop_last,
    "subvec": _subvec,
    "peek": lambda c: _nth(c, _count(c) - 1, None),
    "partition": _partition("partition", whole=True),
    "partition-all": _partition("partition-all", whole=False),
    "conj": _conj,
    "cons": lambda x, c: _conj([x], *items_of("cons", c)),
    "concat": _concat,
    "into": lambda to, items: _conj(to, *items_of("into", items)),
    "repeat": _repeat,
    "flatten": _flatten,
    "interleave": _interleave,
    "interpose": _interpose,
    "dedupe": _dedupe,
}
