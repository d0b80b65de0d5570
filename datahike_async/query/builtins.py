"""The functions that query text can call: Clojure's names, on canonical Python values.

Only what is in this table, or was registered by name, can be called. A result of None drops the
row, as in Datahike; a comparison of values that have no common order is false. Values of the wrong
type raise TypeError: the engine makes that "no" in a predicate and an error in a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, DivisionByZero, InvalidOperation
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import shown
from datahike_async.query.builtins_data import COLLECTIONS
from datahike_async.query.builtins_size import int_of, size_of
from datahike_async.query.builtins_text import TEXT
from datahike_async.query.supply import Supplied, Supply
from datahike_async.values.order import compare
from datahike_async.values.types import typed_key

__all__ = ["BUILTINS", "COMPARISONS", "comparable", "is_number", "truthy"]

_NUMBERS: Final = frozenset({int, float, Decimal, Fraction})
_ORDERED: Final = frozenset({str, datetime, Keyword, Symbol, UUID, bytes, tuple, list, bool, Char})


def truthy(value: Any) -> bool:
    """Whether a value counts as true: all but nil and false."""
    return value is not None and value is not False


def is_number(value: Any) -> bool:
    """Whether a value is a number: an int, double, decimal or ratio, and no boolean."""
    return type(value) in _NUMBERS


def comparable(a: Any, b: Any) -> bool:
    """Whether two values have a common order: two numbers, or two of one type."""
    kind = type(a)
    if kind in _NUMBERS:
        return type(b) in _NUMBERS
    return type(b) is kind and kind in _ORDERED


# -- comparisons -------------------------------------------------------------------------------


def _ordered(name: str, holds: Callable[[int], bool]) -> Callable[..., bool]:
    def check(*args: Any) -> bool:
        for a, b in pairwise(args):
            # NaN stands in no order, not even with itself.
            if not comparable(a, b) or a != a or b != b:
                return False
            # Numbers compare by value alone: 1 and 1.0 tie, though they are not equal.
            order = (a > b) - (a < b) if type(a) in _NUMBERS else compare(a, b)
            if not holds(order):
                return False
        return True

    check.__name__ = name
    return check


def _equal(*args: Any) -> bool:
    first = typed_key(args[0])
    return all(typed_key(a) == first for a in args[1:])


def _different(*args: Any) -> bool:
    return not _equal(*args)


def _same_number(*args: Any) -> bool:
    _numbers("==", args)
    return all(a == b for a, b in pairwise(args))


_LESS: Final = _ordered("<", lambda order: order < 0)
_GREATER: Final = _ordered(">", lambda order: order > 0)


def _extreme(name: str, better: Callable[[int], bool]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        best = args[0]
        for a in args[1:]:
            if not comparable(a, best):
                raise TypeError(f"({name} …) takes values of one type")
            if better(compare(a, best)):
                best = a
        return best

    run.__name__ = name
    return run


def _differ(*args: Any) -> bool:
    half = len(args) // 2
    return not _equal(list(args[:half]), list(args[half:]))


# -- arithmetic --------------------------------------------------------------------------------


def _numbers(name: str, args: tuple[Any, ...]) -> None:
    for a in args:
        if type(a) not in _NUMBERS:
            raise TypeError(f"({name} …) takes numbers; {shown(a)} is a {type(a).__name__}")


def _common(a: Any, b: Any) -> tuple[Any, Any]:
    """Return both as numbers that Python computes with: doubles win over decimals and ratios."""
    if type(a) is type(b) or int in (type(a), type(b)):
        return a, b
    return float(a), float(b)


def _arithmetic(name: str, function: Callable[[Any, Any], Any], start: int) -> Callable[..., Any]:
    def one(a: Any, b: Any) -> Any:
        result = function(*_common(a, b))
        if type(result) is int:
            size_of(result)
        return result

    def run(*args: Any) -> Any:
        _numbers(name, args)
        if len(args) == 1:
            return function(start, args[0]) if name == "-" else args[0]
        if name == "-" and not args:
            raise TypeError("(-) takes at least one number")
        return reduce(one, args) if args else start

    run.__name__ = name
    return run


_ADD: Final = _arithmetic("+", lambda a, b: a + b, 0)
_SUBTRACT: Final = _arithmetic("-", lambda a, b: a - b, 0)
_MULTIPLY: Final = _arithmetic("*", lambda a, b: a * b, 1)


def _divide(*args: Any) -> Any:
    _numbers("/", args)
    if not args:
        raise TypeError("(/) takes at least one number")
    return reduce(_quotient, args if len(args) > 1 else (1, *args))


def _quotient(a: Any, b: Any) -> Any:
    a, b = _common(a, b)
    if not b:
        if type(a) is not float and type(b) is not float:
            raise ZeroDivisionError("divide by zero")
        if not a or a != a:
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    if type(a) is int and type(b) is int:
        # Clojure gives a ratio here; we give the int where it is exact, else the double.
        return a // b if a % b == 0 else a / b
    return a / b


def _whole(name: str, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Return both numbers and their quotient cut off towards zero."""
    _numbers(name, (a, b))
    a, b = _common(a, b)
    if not b:
        raise ZeroDivisionError("divide by zero")
    if type(a) is int and type(b) is int:
        quotient: Any = abs(a) // abs(b)
        return a, b, quotient if (a < 0) == (b < 0) else -quotient
    quotient = int_of(a / b)
    return a, b, Decimal(quotient) if Decimal in (type(a), type(b)) else _like(quotient, a, b)


def _like(quotient: int, a: Any, b: Any) -> Any:
    return float(quotient) if float in (type(a), type(b)) else quotient


def _quot(a: Any, b: Any) -> Any:
    return _whole("quot", a, b)[2]


def _rem(a: Any, b: Any) -> Any:
    a, b, quotient = _whole("rem", a, b)
    return a - b * quotient


def _mod(a: Any, b: Any) -> Any:
    a, b, quotient = _whole("mod", a, b)
    rest = a - b * quotient
    # The result has the sign of the divisor.
    return rest + b if rest and (rest < 0) != (b < 0) else rest


def _sign(name: str, holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        _numbers(name, (value,))
        return holds(value)

    check.__name__ = name
    return check


def _parity(name: str, rest: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if type(value) is not int:
            raise TypeError(f"({name} …) takes an int, not {shown(value)}")
        return value % 2 == rest

    check.__name__ = name
    return check


def _absolute(value: Any) -> Any:
    _numbers("abs", (value,))
    return abs(value)


def _long(value: Any) -> int:
    _numbers("long", (value,))
    return int_of(value)


def _double(value: Any) -> float:
    _numbers("double", (value,))
    return float(value)


def _parse_long(text: Any) -> int | None:
    if not isinstance(text, str):
        raise TypeError(f"(parse-long …) takes a string, not {shown(text)}")
    body = text[1:] if text[:1] in ("-", "+") else text
    if not (body.isascii() and body.isdigit()) or len(body) > 19:
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def _parse_double(text: Any) -> float | None:
    if not isinstance(text, str):
        raise TypeError(f"(parse-double …) takes a string, not {shown(text)}")
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _bigdec(value: Any) -> Decimal:
    try:
        return Decimal(repr(value)) if type(value) is float else Decimal(value)
    except (InvalidOperation, DivisionByZero) as error:
        raise ValueError(f"{shown(value)} is no number") from error


# -- the rest ----------------------------------------------------------------------------------


def _first_false(*args: Any) -> Any:
    return next((x for x in args if not truthy(x)), args[-1] if args else True)


def _first_true(*args: Any) -> Any:
    return next((x for x in args if truthy(x)), args[-1] if args else None)


def _complement(function: Any) -> Callable[..., bool]:
    if not callable(function) or isinstance(function, Supplied):
        raise TypeError(f"(complement …) takes a function, not {shown(function)}")
    return lambda *args: not truthy(function(*args))


_TYPE_NAMES: Final = {
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    Keyword: "keyword",
    Symbol: "symbol",
    datetime: "instant",
    bytes: "bytes",
    Decimal: "bigdec",
    UUID: "uuid",
    tuple: "tuple",
}


def _type(value: Any) -> Keyword:
    return Keyword("db.type/" + _TYPE_NAMES.get(type(value), type(value).__name__.lower()))


def _rand(supply: Supply, *top: Any) -> float:
    _numbers("rand", top)
    return float(supply.random.random() * (top[0] if top else 1))


def _rand_int(supply: Supply, top: Any) -> int:
    if type(top) is not int:
        raise TypeError(f"(rand-int …) takes an int, not {shown(top)}")
    size_of(top)
    return supply.random.randrange(top) if top > 0 else -supply.random.randrange(1 - top)


def _random_uuid(supply: Supply) -> UUID:
    return UUID(int=supply.random.getrandbits(128), version=4)


def _rand_nth(supply: Supply, collection: Any) -> Any:
    items = COLLECTIONS["vec"](collection)
    if not items:
        raise IndexError("(rand-nth …) takes a collection that is not empty")
    return items[supply.random.randrange(len(items))]


def _shuffle(supply: Supply, collection: Any) -> list[Any]:
    items = COLLECTIONS["vec"](collection)
    return supply.random.sample(items, len(items))


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


# Those that the engine may answer for a whole column at once.
COMPARISONS: Final = frozenset({"=", "!=", "not=", "<", ">", "<=", ">="})

BUILTINS: Final[dict[str, Callable[..., Any]]] = {
    "=": _equal,
    "==": _same_number,
    "not=": _different,
    "!=": _different,
    "<": _LESS,
    ">": _GREATER,
    "<=": _ordered("<=", lambda order: order <= 0),
    ">=": _ordered(">=", lambda order: order >= 0),
    "before?": _LESS,
    "after?": _GREATER,
    "compare": compare,
    "-differ?": _differ,
    "identical?": _equal,
    "max": _extreme("max", lambda order: order > 0),
    "min": _extreme("min", lambda order: order < 0),
    # arithmetic
    "+": _ADD,
    "-": _SUBTRACT,
    "*": _MULTIPLY,
    "/": _divide,
    "quot": _quot,
    "rem": _rem,
    "mod": _mod,
    "inc": lambda a: _ADD(a, 1),
    "dec": lambda a: _SUBTRACT(a, 1),
    "abs": _absolute,
    "zero?": _sign("zero?", lambda a: bool(a == 0)),
    "pos?": _sign("pos?", lambda a: bool(a > 0)),
    "neg?": _sign("neg?", lambda a: bool(a < 0)),
    "even?": _parity("even?", 0),
    "odd?": _parity("odd?", 1),
    "long": _long,
    "int": _long,
    "double": _double,
    "bigdec": _bigdec,
    "parse-long": _parse_long,
    "parse-double": _parse_double,
    "rand": Supplied(_rand),
    "rand-int": Supplied(_rand_int),
    "rand-nth": Supplied(_rand_nth),
    "random-uuid": Supplied(_random_uuid),
    "shuffle": Supplied(_shuffle),
    # logic
    "true?": lambda a: a is True,
    "false?": lambda a: a is False,
    "nil?": lambda a: a is None,
    "some?": lambda a: a is not None,
    "not": lambda a: not truthy(a),
    "and": _first_false,
    "or": _first_true,
    "boolean": truthy,
    "complement": _complement,
    "identity": lambda a: a,
    "ground": lambda a: a,
    "meta": lambda a: None,
    # types
    "type": _type,
    "number?": is_number,
    "int?": _is(int),
    "integer?": _is(int),
    "double?": _is(float),
    "float?": _is(float),
    "decimal?": _is(Decimal),
    "boolean?": _is(bool),
    "string?": _is(str),
    "keyword?": _is(Keyword),
    "symbol?": _is(Symbol),
    "inst?": _is(datetime),
    "uuid?": _is(UUID),
    "vector?": _is(tuple, list),
    "map?": lambda a: isinstance(a, dict),
    "set?": _is(set, frozenset),
    **COLLECTIONS,
    **TEXT,
}
