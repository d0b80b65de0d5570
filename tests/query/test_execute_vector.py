"""Functions on whole columns give what they give value by value."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Column
from datahike_async.query.builtins.columns import column_of_call, mask_of_call
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.values.types import typed_key

NOW = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS: dict[str, list[Any]] = {
    "ints": [0, 1, -1, 5, 7, -8, 2**53],
    "large": [2**62, 2**63 - 1, -(2**63), 2**53 + 1, 0, 3, 1],
    "floats": [0.0, -0.0, 1.5, -2.5, math.inf, math.nan, 5.0],
    "texts": ["a", "b", "", "zz", "Ä", "a", "b"],
    "keywords": [Keyword(k) for k in ("a", "b", "x/a", "x/b", "y", "a", "zz")],
    "instants": [NOW + timedelta(microseconds=i) for i in (-3, -2, -1, 0, 1, 2, 3)],
    "truths": [True, False, True, True, False, False, True],
    "mixed": [1, 1.0, True, "1", Keyword("k"), NOW, (1, 2)],
}
CONSTANTS: list[Any] = [
    0, 5, -8, 2**53 + 1, 2**63, 2**70, 0.0, 1.5, 2.0**60, math.nan, "a", "m", Keyword("b"), True,
    NOW, datetime(2024, 1, 1),
]  # fmt: skip


def by_value(name: str, args: list[Any], count: int) -> list[Any]:
    rows = zip(*(a if isinstance(a, list) else [a] * count for a in args), strict=True)
    out = []
    for row in rows:
        try:
            out.append(BUILTINS[name](*row))
        except TypeError:
            out.append(False)
    return out


def as_columns(args: list[Any]) -> list[Any]:
    return [Column.of(a) if isinstance(a, list) else a for a in args]


@pytest.mark.parametrize("name", ["<", ">", "<=", ">=", "=", "not=", "!="])
def test_comparisons(name: str) -> None:
    answered = 0
    pairs = [[a, b] for a, b in itertools.product(COLUMNS.values(), repeat=2)]
    pairs += [[a, c] for a in COLUMNS.values() for c in CONSTANTS]
    pairs += [[c, a] for a in COLUMNS.values() for c in CONSTANTS]
    for args in pairs:
        mask = mask_of_call(name, as_columns(args), 7)
        if mask is not None:
            answered += 1
            assert mask.tolist() == by_value(name, args, 7), (name, args)
    assert answered > 60


def test_chains() -> None:
    ints = COLUMNS["ints"]
    for args in ([0, ints, 6], [ints, ints, 6], [-5, ints, 2.5]):
        mask = mask_of_call("<", as_columns(list(args)), 7)
        assert mask is not None
        assert mask.tolist() == by_value("<", list(args), 7)


@pytest.mark.parametrize("name", ["zero?", "pos?", "neg?", "even?", "odd?"])
def test_number_predicates(name: str) -> None:
    for values in COLUMNS.values():
        mask = mask_of_call(name, as_columns([values]), 7)
        if mask is not None:
            assert mask.tolist() == by_value(name, [values], 7)
    assert mask_of_call(name, as_columns([COLUMNS["ints"]]), 7) is not None


@pytest.mark.parametrize("name", ["+", "-", "*"])
def test_arithmetic(name: str) -> None:
    numbers = [COLUMNS[k] for k in ("ints", "large", "floats")] + [3, -1, 2.5, 2**62, 2**70]
    answered = 0
    for a, b in itertools.product(numbers, repeat=2):
        column = column_of_call(name, as_columns([a, b]), 7)
        if column is not None:
            answered += 1
            expected = [BUILTINS[name](x, y) for x, y in _rows(a, b)]
            assert [*map(typed_key, column.tolist())] == [*map(typed_key, expected)], (name, a, b)
    assert answered > 10


def _rows(a: Any, b: Any) -> Any:
    return zip(*(x if isinstance(x, list) else [x] * 7 for x in (a, b)), strict=True)


def test_steps() -> None:
    ints = Column.of([1, 2, -3])
    for name, expected in (("inc", [2, 3, -2]), ("dec", [0, 1, -4]), ("identity", [1, 2, -3])):
        column = column_of_call(name, [ints], 3)
        assert column is not None
        assert column.tolist() == expected
    assert column_of_call("inc", [Column.of([2**63 - 1])], 1) is None
    assert column_of_call("inc", [Column.of(["a"])], 1) is None
