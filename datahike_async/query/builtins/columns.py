"""Built-in functions on whole columns: comparisons, number predicates and plain arithmetic.

Each gives exactly what its counterpart in ``builtins`` gives value by value, or None where it
cannot say: mixed types, numbers beyond 64 bits, comparisons that doubles would blur.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.cores import in_pieces
from datahike_async.index.columns import CODED, FLOAT, INSTANT, INT, Column, micros
from datahike_async.looks import PIECE
from datahike_async.query.builtins.matching import asked, compared, of_texts, text_mask
from datahike_async.query.builtins.table import BUILTINS, COMPARISONS
from datahike_async.query.relations.relation import constant_mask, equal_mask

__all__ = ["column_of_call", "mask_of_call"]

Mask = npt.NDArray[np.bool_]

_EXACT: Final = 2**53
_LIMIT: Final = 2**63
_ORDERS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_FLIPPED: Final = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_SIGNS: Final[dict[str, Callable[[Any], Any]]] = {
    "zero?": lambda data: data == 0,
    "pos?": lambda data: data > 0,
    "neg?": lambda data: data < 0,
}
_PARITY: Final = {"even?": 0, "odd?": 1}
_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


def mask_of_call(name: str, args: Sequence[Any], count: int) -> Mask | None:
    """Return where a predicate holds for its arguments, Columns or constants."""
    name = name.removeprefix("clojure.core/")
    # Strings are asked for once each, however many rows there are.
    found = _texts_compared(name, args) if name in _ORDERS else text_mask(name, args)
    if found is not None or count <= PIECE:
        return _mask(name, args) if found is None else found
    out = np.empty(count, np.bool_)
    unknown = False

    def ask(start: int, stop: int) -> None:
        nonlocal unknown
        part = _mask(name, [a.slice(start, stop) if isinstance(a, Column) else a for a in args])
        if part is None:
            unknown = True
        else:
            out[start:stop] = part

    in_pieces(count, ask, each=2)
    return None if unknown else out


def _texts_compared(name: str, args: Sequence[Any]) -> Mask | None:
    if len(args) != 2:
        return None
    column, value = args
    if isinstance(value, Column):
        column, value, name = value, column, _FLIPPED[name]
    if not isinstance(column, Column) or column.kind != CODED or type(value) is not str:
        return None
    return _by_value(name, column, value)


def _mask(name: str, args: Sequence[Any]) -> Mask | None:
    if name in COMPARISONS and len(args) >= 2:
        if len(args) > 2 and name in ("!=", "not="):
            return None
        masks = [_compared(name, a, b) for a, b in pairwise(args)]
        found = [m for m in masks if m is not None]
        return np.logical_and.reduce(found) if len(found) == len(masks) else None
    if len(args) == 1 and isinstance(args[0], Column):
        column = args[0]
        if name in _SIGNS and column.kind in (INT, FLOAT):
            return np.asarray(_SIGNS[name](column.data))
        if name in _PARITY and column.kind == INT:
            return np.asarray(column.data & 1 == _PARITY[name])
    return None


def _compared(name: str, left: Any, right: Any) -> Mask | None:
    if not isinstance(left, Column):
        if not isinstance(right, Column):
            return None
        left, right, name = right, left, _FLIPPED.get(name, name)
    if name not in _ORDERS:
        same = isinstance(right, Column)
        mask = equal_mask(left, right) if same else constant_mask(left, right)
        return mask if name == "=" else ~mask
    order = _ORDERS[name]
    if not isinstance(right, Column):
        return _against(name, left, right)
    kinds = {left.kind, right.kind}
    if len(kinds) == 1 and left.kind in (INT, FLOAT, INSTANT):
        return np.asarray(order(left.data, right.data))
    if kinds == {INT, FLOAT} and _exact(left) and _exact(right):
        return np.asarray(order(left.data, right.data))
    return None


def _exact(column: Column) -> bool:
    """Whether comparing the numbers of a column as doubles loses nothing."""
    return column.kind == FLOAT or _largest(column) <= _EXACT


def _against(name: str, column: Column, value: Any) -> Mask | None:
    kind, order = type(value), _ORDERS[name]
    if column.kind == INT and kind is int:
        if -_LIMIT <= value < _LIMIT:
            return np.asarray(order(column.data, value))
        return np.full(len(column), order(0, value))
    if column.kind == INT and kind is float:
        return np.asarray(order(column.data, value)) if _exact(column) else None
    if column.kind == FLOAT and (kind is float or (kind is int and abs(value) <= _EXACT)):
        return np.asarray(order(column.data, value))
    if column.kind == INSTANT and kind is datetime and value.tzinfo is not None:
        return np.asarray(order(column.data, micros(value)))
    if column.kind == CODED:
        return _by_value(name, column, value)
    return None


def _by_value(name: str, column: Column, value: Any) -> Mask:
    """Compare each different value once."""
    if type(value) is str:
        order = _ORDERS[name]
        found = compared(column, (order, value))
        if found is not None:
            return found
        test = of_texts(column, lambda texts: map(order, texts, repeat(value)))
        marks = asked(column, test)
    else:
        holds = BUILTINS[name]
        marks = asked(column, lambda part: [bool(holds(v, value)) for v in part])
    return marks.view(np.bool_)


def column_of_call(name: str, args: Sequence[Any], count: int) -> Column | None:
    """Return the results of a function for its arguments, Columns or constants."""
    name = name.removeprefix("clojure.core/")
    if name in ("identity", "ground") and len(args) == 1:
        return args[0] if isinstance(args[0], Column) else None
    if name in ("inc", "dec") and len(args) == 1:
        name, args = ("+" if name == "inc" else "-"), (args[0], 1)
    if name not in _ARITHMETIC or len(args) != 2:
        return None
    kinds = [_number_kind(a) for a in args]
    if None in kinds or not any(isinstance(a, Column) for a in args):
        return None
    left, right = (a.data if isinstance(a, Column) else a for a in args)
    apply = _ARITHMETIC[name]
    if kinds == [INT, INT]:
        a, b = map(_largest, args)
        if (a * b if name == "*" else a + b) >= _LIMIT:
            return None
        return Column(INT, np.asarray(apply(left, right), np.int64))
    if any(k == INT and _largest(a) > _EXACT for a, k in zip(args, kinds, strict=True)):
        return None
    with np.errstate(all="ignore"):
        return Column(FLOAT, np.asarray(apply(left, right), np.float64))


def _number_kind(arg: Any) -> int | None:
    if isinstance(arg, Column):
        return arg.kind if arg.kind in (INT, FLOAT) else None
    return {int: INT, float: FLOAT}.get(type(arg))


def _largest(arg: Any) -> int:
    """Return the largest absolute value of an int, or of a column of ints."""
    if not isinstance(arg, Column):
        return abs(arg)  # type: ignore[no-any-return]
    if not len(arg):
        return 0
    return max(int(arg.data.max()), -int(arg.data.min()))
