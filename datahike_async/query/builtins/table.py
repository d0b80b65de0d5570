"""The functions that query text can call: Clojure's names, on canonical Python values.

Only what is in this table, or was registered by name, can be called. A result of None drops the
row, as in Datahike; a comparison of values that have no common order is false. Values of the wrong
type raise TypeError: the engine makes that "no" in a predicate and an error in a function.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import shown
from datahike_async.index.columns import micros
from datahike_async.looks import STEP, tally
from datahike_async.query.builtins.data import COLLECTIONS
from datahike_async.query.builtins.maps import MAPS
from datahike_async.query.builtins.numbers import NUMBERS, is_number, number_types, numbers
from datahike_async.query.builtins.size import size_of
from datahike_async.query.builtins.supply import Supplied, Supply
from datahike_async.query.builtins.text import TEXT
from datahike_async.query.builtins.walk import check_order, each
from datahike_async.values.order import compare
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

__all__ = ["BUILTINS", "COMPARISONS", "comparable", "is_number", "truthy"]

_ORDERED: Final = frozenset({str, datetime, Keyword, Symbol, UUID, bytes, tuple, list, bool, Char})


def truthy(value: Any) -> bool:
    """Whether a value counts as true: all but nil and false."""
    return value is not None and value is not False


def comparable(a: Any, b: Any) -> bool:
    """Whether two values have a common order: two numbers, or two of one type."""
    kind = type(a)
    if kind in number_types:
        return type(b) in number_types
    return type(b) is kind and kind in _ORDERED


# -- comparisons -------------------------------------------------------------------------------


def _ordered(name: str, holds: Callable[[int], bool]) -> Callable[..., bool]:
    def check(*args: Any) -> bool:
        for a, b in pairwise(each(args)):
            # NaN stands in no order, not even with itself.
            if not comparable(a, b) or a != a or b != b:
                return False
            # Numbers compare by value alone: 1 and 1.0 tie, though they are not equal.
            order = (a > b) - (a < b) if type(a) in number_types else compare(a, b)
            if not holds(order):
                return False
        return True

    check.__name__ = name
    return check


def _equal(*args: Any) -> bool:
    first = typed_key(args[0])
    return all(typed_key(a) == first for a in each(args[1:]))


def _different(*args: Any) -> bool:
    return not _equal(*args)


def _same_number(*args: Any) -> bool:
    numbers("==", args)
    return all(a == b for a, b in pairwise(each(args)))


_LESS: Final = _ordered("<", lambda order: order < 0)
_GREATER: Final = _ordered(">", lambda order: order > 0)


def _extreme(name: str, better: Callable[[int], bool]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        best = args[0]
        for a in each(args[1:]):
            if not comparable(a, best):
                raise TypeError(f"({name} …) takes values of one type")
            if better(compare(a, best)):
                best = a
        return best

    run.__name__ = name
    return run


def _compare(a: Any, b: Any) -> int:
    for value in (a, b):
        check_order(value)
    return compare(a, b)


def _differ(*args: Any) -> bool:
    half = len(args) // 2
    return not _equal(list(args[:half]), list(args[half:]))


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
    numbers("rand", top)
    return float(supply.random.random() * (top[0] if top else 1))


def _rand_int(supply: Supply, top: Any) -> int:
    if type(top) is not int:
        raise TypeError(f"(rand-int …) takes an int, not {shown(top)}")
    size_of(top)
    return supply.random.randrange(top) if top > 0 else -supply.random.randrange(1 - top)


def _random_uuid(supply: Supply) -> UUID:
    return UUID(int=supply.random.getrandbits(128), version=4)


def _rand_nth(supply: Supply, collection: Any) -> Any:
    items = collection if isinstance(collection, (list, tuple)) else COLLECTIONS["vec"](collection)
    if not items:
        raise IndexError("(rand-nth …) takes a collection that is not empty")
    return items[supply.random.randrange(len(items))]


def _shuffle(supply: Supply, collection: Any) -> list[Any]:
    items: list[Any] = COLLECTIONS["vec"](collection)
    tally(STEP * len(items))  # all at once, for what begins anew afterwards draws other numbers
    for i in each(range(len(items) - 1)):
        j = supply.random.randrange(i, len(items))
        items[i], items[j] = items[j], items[i]
    return items


def _inst_ms(value: Any) -> int:
    if type(value) is not datetime:
        raise TypeError(f"(inst-ms …) takes an instant, not {shown(value)}")
    return micros(value) // 1000


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
    "compare": _compare,
    "-differ?": _differ,
    "identical?": _equal,
    "max": _extreme("max", lambda order: order > 0),
    "min": _extreme("min", lambda order: order < 0),
    # chance
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
    "char?": _is(Char),
    "bytes?": _is(bytes),
    "ratio?": _is(Fraction),
    "rational?": _is(int, Fraction, Decimal),
    "nat-int?": lambda a: type(a) is int and a >= 0,
    "pos-int?": lambda a: type(a) is int and a > 0,
    "neg-int?": lambda a: type(a) is int and a < 0,
    "ident?": _is(Keyword, Symbol),
    "simple-ident?": lambda a: type(a) in (Keyword, Symbol) and a.namespace is None,
    "qualified-ident?": lambda a: type(a) in (Keyword, Symbol) and a.namespace is not None,
    "simple-keyword?": lambda a: type(a) is Keyword and a.namespace is None,
    "qualified-keyword?": lambda a: type(a) is Keyword and a.namespace is not None,
    "simple-symbol?": lambda a: type(a) is Symbol and a.namespace is None,
    "qualified-symbol?": lambda a: type(a) is Symbol and a.namespace is not None,
    "any?": lambda a: True,
    "inst?": _is(datetime),
    "inst-ms": _inst_ms,
    "uuid?": _is(UUID),
    "vector?": _is(tuple, list),
    "sequential?": _is(tuple, list),
    "coll?": lambda a: isinstance(a, (tuple, list, dict, set, frozenset, ValueSet)),
    "associative?": lambda a: isinstance(a, (tuple, list, dict)),
    "map?": lambda a: isinstance(a, dict),
    "set?": _is(set, frozenset, ValueSet),
    **NUMBERS,
    **COLLECTIONS,
    **MAPS,
    **TEXT,
}
