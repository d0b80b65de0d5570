"""The functions that query text can call: Clojure's names, on canonical Python values.

Only what is in this table, or was registered by name, can be called. A result of None drops the
row, as in Datahike; a comparison of values that have no common order is false.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import QueryError
from datahike_async.values.order import compare, sort_key
from datahike_async.values.types import typed_key

__all__ = ["BUILTINS", "COMPARISONS", "comparable", "truthy"]

MAX_RANGE: Final = 1_000_000
MAX_PATTERN: Final = 1000
MAX_TEXT: Final = 1_000_000

_NUMBERS: Final = (int, float, Decimal)


def truthy(value: Any) -> bool:
    """Whether a value counts as true: all but nil and false."""
    return value is not None and value is not False


def _number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def comparable(a: Any, b: Any) -> bool:
    """Whether two values have a common order: two numbers, or two of one type."""
    if _number(a) and _number(b):
        return True
    return type(a) is type(b) and isinstance(
        a, (str, datetime, Keyword, Symbol, UUID, bytes, tuple, bool)
    )


def _ordered(name: str, holds: Callable[[int], bool]) -> Callable[..., bool]:
    def check(*args: Any) -> bool:
        for a, b in pairwise(args):
            if not comparable(a, b) or _nan(a) or _nan(b):
                return False
            # Numbers compare by value alone: 1 and 1.0 tie, though they are not equal.
            order = (a > b) - (a < b) if _number(a) else compare(a, b)
            if not holds(order):
                return False
        return True

    check.__name__ = name
    return check


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _equal(*args: Any) -> bool:
    keys = [typed_key(a) for a in args]
    return all(k == keys[0] for k in keys[1:])


def _same_number(*args: Any) -> bool:
    return all(_number(a) for a in args) and all(a == args[0] for a in args[1:])


def _need_numbers(name: str, args: Iterable[Any]) -> None:
    for a in args:
        if not _number(a):
            raise QueryError(
                f"({name} …) takes numbers; {a!r} is a {type(a).__name__}.", error=":query/where"
            )


def _divide(*args: Any) -> Any:
    _need_numbers("/", args)
    if len(args) == 1:
        args = (1, *args)

    def one(a: Any, b: Any) -> Any:
        if not b and not isinstance(a, float) and not isinstance(b, float):
            raise QueryError("(/ …) divides by zero.", error=":query/where")
        if not b:
            return math.nan if not a or _nan(a) else math.copysign(math.inf, a)
        if isinstance(a, int) and isinstance(b, int):
            # Clojure gives a ratio here; we give the int where it is exact, else the double.
            return a // b if a % b == 0 else a / b
        return a / b

    return reduce(one, args)


def _arithmetic(name: str, function: Callable[[Any, Any], Any], start: Any) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        _need_numbers(name, args)
        if not args:
            return start
        if len(args) == 1:
            return function(start, args[0]) if name == "-" else args[0]
        return reduce(function, args)

    run.__name__ = name
    return run


def _quot(a: Any, b: Any) -> Any:
    _need_numbers("quot", (a, b))
    if not b:
        raise QueryError("(quot …) divides by zero.", error=":query/where")
    if isinstance(a, int) and isinstance(b, int):
        whole = abs(a) // abs(b)
        return whole if (a < 0) == (b < 0) else -whole
    return float(math.trunc(a / b))


def _rem(a: Any, b: Any) -> Any:
    return a - b * _quot(a, b)


def _mod(a: Any, b: Any) -> Any:
    _need_numbers("mod", (a, b))
    if not b:
        raise QueryError("(mod …) divides by zero.", error=":query/where")
    return a % b


def _extreme(name: str, better: Callable[[int], bool]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        best = args[0]
        for a in args[1:]:
            if better(compare(a, best)):
                best = a
        return best

    run.__name__ = name
    return run


def _str(*args: Any) -> str:
    return "".join(_text(a) for a in args)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    return str(value) if isinstance(value, (UUID, Decimal)) else write(value)


def _pr_str(*args: Any) -> str:
    return " ".join(write(a) for a in args)


def _type(value: Any) -> Keyword:
    names = {
        bool: "boolean",
        int: "long",
        float: "double",
        str: "string",
        Keyword: "keyword",
        Symbol: "symbol",
        datetime: "instant",
        bytes: "bytes",
        Decimal: "bigdec",
    }
    return Keyword("db.type/" + names.get(type(value), type(value).__name__.lower()))


def _range(*args: Any) -> list[int]:
    if not args or not all(type(a) is int for a in args):
        raise QueryError("(range …) takes one to three ints.", error=":query/where")
    found = range(*args)
    if len(found) > MAX_RANGE:
        raise QueryError(
            f"(range …) would make {len(found)} values; the limit is {MAX_RANGE}.",
            error=":query/where",
        )
    return list(found)


def _pattern(pattern: Any, text: Any) -> re.Pattern[str]:
    if not isinstance(pattern, (str, re.Pattern)) or not isinstance(text, str):
        raise QueryError("A pattern and a string are expected.", error=":query/where")
    source = pattern if isinstance(pattern, str) else pattern.pattern
    if len(source) > MAX_PATTERN or len(text) > MAX_TEXT:
        raise QueryError(
            f"Patterns are limited to {MAX_PATTERN} and texts to {MAX_TEXT} characters.",
            error=":query/where",
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise QueryError(f"Bad pattern {source!r}: {error}", error=":query/where") from error


def _match(found: re.Match[str] | None) -> Any:
    if found is None:
        return None
    return found.group() if not found.groups() else (found.group(), *found.groups())


def _empty(value: Any) -> bool:
    return value is None or len(value) == 0


def _contains(collection: Any, key: Any) -> bool:
    if isinstance(collection, (list, tuple)):
        return type(key) is int and 0 <= key < len(collection)
    if isinstance(collection, Mapping):
        return any(typed_key(k) == typed_key(key) for k in collection)
    return any(typed_key(k) == typed_key(key) for k in collection)


def _name(value: Any) -> str:
    return value.name if isinstance(value, (Keyword, Symbol)) else str(value)


def _rand_int(top: int) -> int:
    return random.randrange(top)


def _before(*args: Any) -> bool:
    return BUILTINS["<"](*args)  # type: ignore[no-any-return]


def _after(*args: Any) -> bool:
    return BUILTINS[">"](*args)  # type: ignore[no-any-return]


def _get(collection: Any, key: Any, default: Any = None) -> Any:
    if isinstance(collection, Mapping):
        return collection.get(key, default)
    if isinstance(collection, (list, tuple, str)) and type(key) is int:
        return collection[key] if 0 <= key < len(collection) else default
    return default


def _sorted(collection: Any) -> list[Any]:
    return sorted(collection, key=sort_key)


def _subs(text: str, start: int, end: int | None = None) -> str:
    if not isinstance(text, str) or not 0 <= start <= (len(text) if end is None else end) <= len(
        text
    ):
        raise QueryError(
            f"(subs {text!r} {start} {end}): the positions are not within the string.",
            error=":query/where",
        )
    return text[start:end]


COMPARISONS: Final = frozenset({"=", "!=", "not=", "<", ">", "<=", ">="})

BUILTINS: Final[dict[str, Callable[..., Any]]] = {
    "=": _equal,
    "==": _same_number,
    "not=": lambda *a: not _equal(*a),
    "!=": lambda *a: not _equal(*a),
    "<": _ordered("<", lambda o: o < 0),
    ">": _ordered(">", lambda o: o > 0),
    "<=": _ordered("<=", lambda o: o <= 0),
    ">=": _ordered(">=", lambda o: o >= 0),
    "before?": _before,
    "after?": _after,
    "+": _arithmetic("+", lambda a, b: a + b, 0),
    "-": _arithmetic("-", lambda a, b: a - b, 0),
    "*": _arithmetic("*", lambda a, b: a * b, 1),
    "/": _divide,
    "quot": _quot,
    "rem": _rem,
    "mod": _mod,
    "inc": lambda a: BUILTINS["+"](a, 1),
    "dec": lambda a: BUILTINS["-"](a, 1),
    "max": _extreme("max", lambda o: o > 0),
    "min": _extreme("min", lambda o: o < 0),
    "abs": lambda a: abs(a),
    "zero?": lambda a: _number(a) and a == 0,
    "pos?": lambda a: _number(a) and a > 0,
    "neg?": lambda a: _number(a) and a < 0,
    "even?": lambda a: type(a) is int and a % 2 == 0,
    "odd?": lambda a: type(a) is int and a % 2 == 1,
    "compare": compare,
    "rand": lambda *a: random.random() * (a[0] if a else 1),
    "rand-int": _rand_int,
    "true?": lambda a: a is True,
    "false?": lambda a: a is False,
    "nil?": lambda a: a is None,
    "some?": lambda a: a is not None,
    "not": lambda a: not truthy(a),
    "and": lambda *a: next((x for x in a if not truthy(x)), a[-1] if a else True),
    "or": lambda *a: next((x for x in a if truthy(x)), a[-1] if a else None),
    "identity": lambda a: a,
    "identical?": _equal,
    "name": _name,
    "namespace": lambda a: getattr(a, "namespace", None),
    "keyword": lambda *a: Keyword("/".join(map(_name, a))),
    "type": _type,
    "vector": lambda *a: list(a),
    "list": lambda *a: tuple(a),
    "set": frozenset,
    "hash-map": lambda *a: dict(zip(a[::2], a[1::2], strict=True)),
    "array-map": lambda *a: dict(zip(a[::2], a[1::2], strict=True)),
    "count": lambda a: 0 if a is None else len(a),
    "range": _range,
    "get": _get,
    "first": lambda a: a[0] if a else None,
    "second": lambda a: a[1] if len(a) > 1 else None,
    "last": lambda a: a[-1] if a else None,
    "nth": lambda a, i: a[i],
    "sort": _sorted,
    "empty?": _empty,
    "not-empty": lambda a: None if _empty(a) else a,
    "contains?": _contains,
    "str": _str,
    "pr-str": _pr_str,
    "print-str": _str,
    "subs": _subs,
    "re-find": lambda p, s: _match(_pattern(p, s).search(s)),
    "re-matches": lambda p, s: _match(_pattern(p, s).fullmatch(s)),
    "re-seq": lambda p, s: [_match(m) for m in _pattern(p, s).finditer(s)] or None,
    "re-pattern": lambda p: _pattern(p, "").pattern,
    "ground": lambda a: a,
    "tuple": lambda *a: tuple(a),
    "untuple": lambda a: list(a),
    "string?": lambda a: isinstance(a, str) and not isinstance(a, Char),
    "number?": _number,
    "int?": lambda a: type(a) is int,
    "keyword?": lambda a: isinstance(a, Keyword),
    "boolean?": lambda a: type(a) is bool,
    "clojure.string/upper-case": lambda s: s.upper(),
    "clojure.string/lower-case": lambda s: s.lower(),
    "clojure.string/trim": lambda s: s.strip(),
    "clojure.string/blank?": lambda s: s is None or not s.strip(),
    "clojure.string/starts-with?": lambda s, p: s.startswith(p),
    "clojure.string/ends-with?": lambda s, p: s.endswith(p),
    "clojure.string/includes?": lambda s, p: p in s,
    "clojure.string/replace": lambda s, a, b: s.replace(a, b),
    "clojure.string/join": lambda *a: (a[0] if len(a) > 1 else "").join(_text(x) for x in a[-1]),
    "clojure.string/split": lambda s, p: _pattern(p, s).split(s),
}
