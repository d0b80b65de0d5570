"""Built-in functions on numbers: arithmetic, bits, conversions, and some of ``clojure.math``.

Ints have no bounds but the one of ``builtins_size``; bits are those of Clojure's long, 64 of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, DivisionByZero, InvalidOperation
from fractions import Fraction
from functools import reduce
from typing import Any, Final
from uuid import UUID

from datahike_async.errors import shown
from datahike_async.query.builtins.size import int_of, size_of

__all__ = ["NUMBERS", "is_number", "number_types", "numbers"]

number_types: Final = frozenset({int, float, Decimal, Fraction})


def is_number(value: Any) -> bool:
    """Whether a value is a number: an int, double, decimal or ratio, and no boolean."""
    return type(value) in number_types


def numbers(name: str, args: tuple[Any, ...]) -> None:
    """Raise TypeError where an argument is no number."""
    for a in args:
        if type(a) not in number_types:
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
        numbers(name, args)
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
    numbers("/", args)
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
    numbers(name, (a, b))
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
        numbers(name, (value,))
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
    numbers("abs", (value,))
    return abs(value)


def _long(value: Any) -> int:
    numbers("long", (value,))
    return int_of(value)


def _double(value: Any) -> float:
    numbers("double", (value,))
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


def _parse_boolean(text: Any) -> bool | None:
    if not isinstance(text, str):
        raise TypeError(f"(parse-boolean …) takes a string, not {shown(text)}")
    return {"true": True, "false": False}.get(text)


def _parse_uuid(text: Any) -> UUID | None:
    if not isinstance(text, str):
        raise TypeError(f"(parse-uuid …) takes a string, not {shown(text)}")
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


# -- bits --------------------------------------------------------------------------------------

_WORD: Final = 2**64


def _word(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"bits are those of an int, not of {shown(value)}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{shown(value)} has more than 64 bits")
    return value


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= 2**63 else value


def _bits(function: Callable[[int, int], int]) -> Callable[..., int]:
    def call(first: Any, second: Any, *others: Any) -> int:
        return reduce(function, map(_word, (second, *others)), _word(first))

    return call


def _bit(function: Callable[[int, int], Any]) -> Callable[[Any, Any], Any]:
    """Return a function of an int and a number of bits, which counts modulo 64 as in Java."""

    def call(value: Any, n: Any) -> Any:
        found = function(_word(value), _word(n) % 64)
        return found if type(found) is bool else _signed(found)

    return call


# -- mathematics -------------------------------------------------------------------------------


def _math(name: str, function: Callable[..., float]) -> Callable[..., float]:
    """Return a function of doubles that gives NaN or an infinity where Java's does."""

    def call(value: Any) -> float:
        numbers(name, (value,))
        try:
            return float(function(float(value)))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return call


def _log(function: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: -math.inf if x == 0 else function(x)


def _kept(function: Callable[[float], float]) -> Callable[[float], float]:
    """Return what rounds finite doubles and leaves the others as they are."""
    return lambda x: math.copysign(function(x), x) if math.isfinite(x) else x


def _pow(base: Any, exponent: Any) -> float:
    numbers("pow", (base, exponent))
    x, y = float(base), float(exponent)
    if abs(x) == 1 and not math.isfinite(y):
        return math.nan
    try:
        found = x**y if x or y >= 0 else math.inf
    except OverflowError:
        odd = math.isfinite(y) and y % 2 == 1
        return -math.inf if x < 0 and odd else math.inf
    return found if isinstance(found, float) else math.nan


def _round(value: Any) -> int:
    numbers("round", (value,))
    if value != value:
        return 0
    top = 2**63 - 1
    if value in (math.inf, -math.inf):
        return top if value > 0 else -top - 1
    return max(min(math.floor(Fraction(value) + Fraction(1, 2)), top), -top - 1)


def _ratio(name: str, part: str) -> Callable[[Any], int]:
    def call(value: Any) -> int:
        if type(value) is not Fraction:
            raise TypeError(f"({name} …) takes a ratio, not {shown(value)}")
        return int(getattr(value, part))

    return call


def _is_double(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    def call(value: Any) -> bool:
        numbers("NaN?", (value,))
        return type(value) is float and test(value)

    return call


_M: Final = "clojure.math/"

NUMBERS: Final[dict[str, Callable[..., Any]]] = {
    "+": _ADD,
    "-": _SUBTRACT,
    "*": _MULTIPLY,
    "/": _divide,
    "+'": _ADD,
    "-'": _SUBTRACT,
    "*'": _MULTIPLY,
    "quot": _quot,
    "rem": _rem,
    "mod": _mod,
    "inc": lambda a: _ADD(a, 1),
    "dec": lambda a: _SUBTRACT(a, 1),
    "inc'": lambda a: _ADD(a, 1),
    "dec'": lambda a: _SUBTRACT(a, 1),
    "abs": _absolute,
    "zero?": _sign("zero?", lambda a: bool(a == 0)),
    "pos?": _sign("pos?", lambda a: bool(a > 0)),
    "neg?": _sign("neg?", lambda a: bool(a < 0)),
    "even?": _parity("even?", 0),
    "odd?": _parity("odd?", 1),
    "NaN?": _is_double(math.isnan),
    "infinite?": _is_double(math.isinf),
    "long": _long,
    "int": _long,
    "bigint": _long,
    "double": _double,
    "float": _double,
    "bigdec": _bigdec,
    "numerator": _ratio("numerator", "numerator"),
    "denominator": _ratio("denominator", "denominator"),
    "parse-long": _parse_long,
    "parse-double": _parse_double,
    "parse-boolean": _parse_boolean,
    "parse-uuid": _parse_uuid,
    "bit-and": _bits(lambda a, b: a & b),
    "bit-or": _bits(lambda a, b: a | b),
    "bit-xor": _bits(lambda a, b: a ^ b),
    "bit-and-not": _bits(lambda a, b: a & ~b),
    "bit-not": lambda a: ~_word(a),
    "bit-test": _bit(lambda a, n: bool(a >> n & 1)),
    "bit-set": _bit(lambda a, n: a | 1 << n),
    "bit-clear": _bit(lambda a, n: a & ~(1 << n)),
    "bit-flip": _bit(lambda a, n: a ^ 1 << n),
    "bit-shift-left": _bit(lambda a, n: a << n),
    "bit-shift-right": _bit(lambda a, n: a >> n),
    "unsigned-bit-shift-right": _bit(lambda a, n: a % _WORD >> n),
    _M + "sqrt": _math("sqrt", math.sqrt),
    _M + "cbrt": _math("cbrt", math.cbrt),
    _M + "exp": _math("exp", math.exp),
    _M + "log": _math("log", _log(math.log)),
    _M + "log10": _math("log10", _log(math.log10)),
    _M + "floor": _math("floor", _kept(math.floor)),
    _M + "ceil": _math("ceil", _kept(math.ceil)),
    _M + "signum": _math("signum", lambda x: math.copysign(1.0, x) if x and x == x else x),
    _M + "pow": _pow,
    _M + "round": _round,
}
