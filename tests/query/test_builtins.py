"""Built-in functions: Clojure's semantics on Python values, alone and in queries."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.database import init_db
from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import QueryError
from datahike_async.query.builtins.regexes import MAX_PATTERN
from datahike_async.query.builtins.size import MAX_TEXT
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

K = Keyword
EARLY = datetime(2020, 1, 1, tzinfo=UTC)
LATE = datetime(2021, 1, 1, tzinfo=UTC)
NAN, INF = math.nan, math.inf

CASES: list[tuple[str, tuple[Any, ...], Any]] = [
    # equality looks at the type, == does not
    ("=", (1, 1), True),
    ("=", (1, 1.0), False),
    ("=", (1, True), False),
    ("=", (0, False), False),
    ("=", ("a", K("a")), False),
    ("=", ("a", Char("a")), False),
    ("=", (Decimal("1.0"), 1.0), False),
    ("=", (1, 1, 1), True),
    ("=", (1, 1, 2), False),
    ("=", (1,), True),
    ("=", ([1, 2], (1, 2)), True),
    ("=", ([1, 2], [1, 2.0]), False),
    ("=", ({1}, {True}), False),
    ("=", (None, None), True),
    ("!=", (1, 1.0), True),
    ("not=", (1, 1), False),
    ("==", (1, 1.0), True),
    ("==", (1, Decimal(1), Fraction(1)), True),
    ("==", (1, 2), False),
    ("==", (2**53 + 1, float(2**53)), False),
    ("-differ?", (1, 2, 1, 2), False),
    ("-differ?", (1, 2, 2, 1), True),
    # order
    ("<", (1, 2, 3), True),
    ("<", (1, 3, 2), False),
    ("<", (1, 1.0), False),
    ("<=", (1, 1.0, 2), True),
    ("<", (1,), True),
    ("<", (1, "a"), False),
    (">", ("a", 1), False),
    (">=", (None, None), False),
    ("<", (1, True), False),
    ("<", ("a", "b"), True),
    ("<", (K("a/b"), K("b/a")), True),
    (">", (LATE, EARLY), True),
    ("before?", (EARLY, LATE), True),
    ("after?", (EARLY, LATE), False),
    ("<", (NAN, 1.0), False),
    (">=", (NAN, NAN), False),
    ("<", (2**53, float(2**53) + 2), True),
    ("<", (Decimal("1.5"), 2), True),
    ("<", (Fraction(1, 2), Decimal("0.75")), True),
    ("<", ((1, 2), (1, 3)), True),
    ("<", (b"a", b"b"), True),
    ("<", (UUID(int=1), UUID(int=2)), True),
    ("compare", ("a", "b"), -1),
    ("compare", (3, 3), 0),
    ("max", (1, 3, 2), 3),
    ("min", ("b", "a"), "a"),
    # arithmetic
    ("+", (), 0),
    ("+", (1,), 1),
    ("+", (1, 2, 3.5), 6.5),
    ("+", (Decimal("1.5"), 1), Decimal("2.5")),
    ("+", (Decimal("1.5"), 1.0), 2.5),
    ("+", (2**63 - 1, 1), 2**63),
    ("-", (5,), -5),
    ("-", (5, 2, 1), 2),
    ("*", (), 1),
    ("*", (2, 3, 4), 24),
    ("/", (6, 3), 2),
    ("/", (1, 4), 0.25),
    ("/", (4,), 0.25),
    ("/", (1.0, 0), INF),
    ("/", (-1.0, 0), -INF),
    ("/", (1.0, -0.0), -INF),
    ("quot", (7, 2), 3),
    ("quot", (-7, 2), -3),
    ("quot", (7, -2), -3),
    ("quot", (7.5, 2), 3.0),
    ("quot", (Decimal("7.5"), 2), Decimal(3)),
    ("rem", (7, 3), 1),
    ("rem", (-7, 3), -1),
    ("rem", (7, -3), 1),
    ("mod", (7, 3), 1),
    ("mod", (-7, 3), 2),
    ("mod", (7, -3), -2),
    ("mod", (-6, 3), 0),
    ("mod", (-7.5, 2), 0.5),
    ("quot", (10**30, 10**29), 10),
    ("inc", (1,), 2),
    ("dec", (1.5,), 0.5),
    ("abs", (-3,), 3),
    ("zero?", (0.0,), True),
    ("zero?", (1,), False),
    ("pos?", (0,), False),
    ("neg?", (-0.5,), True),
    ("even?", (-2,), True),
    ("odd?", (-3,), True),
    ("long", (-2.7,), -2),
    ("double", (2,), 2.0),
    ("bigdec", (0.1,), Decimal("0.1")),
    ("parse-long", ("-12",), -12),
    ("parse-long", ("1.5",), None),
    ("parse-long", ("9" * 30,), None),
    ("parse-double", ("1.5e2",), 150.0),
    ("parse-double", ("x",), None),
    # logic and types
    ("true?", (1,), False),
    ("false?", (False,), True),
    ("nil?", (None,), True),
    ("some?", (False,), True),
    ("not", (0,), False),
    ("not", (None,), True),
    ("and", (1, False, 2), False),
    ("and", (1, 2), 2),
    ("and", (), True),
    ("or", (None, False), False),
    ("or", (None, 0), 0),
    ("or", (), None),
    ("identity", (0,), 0),
    ("ground", ([1],), [1]),
    ("boolean", (0,), True),
    ("identical?", (1, 1.0), False),
    ("number?", (True,), False),
    ("int?", (True,), False),
    ("string?", (Char("a"),), False),
    ("string?", (K("a"),), False),
    ("keyword?", (K("a"),), True),
    ("inst?", (EARLY,), True),
    ("type", (1,), K("db.type/long")),
    # collections
    ("vector", (1, "a"), [1, "a"]),
    ("tuple", (1, 2), (1, 2)),
    ("untuple", ((1, 2),), [1, 2]),
    ("set", ([1, 2, 2],), ValueSet({1, 2})),
    ("hash-map", ("a", 1), {"a": 1}),
    ("range", (3,), [0, 1, 2]),
    ("range", (3, 0, -1), [3, 2, 1]),
    ("count", ("abc",), 3),
    ("count", (None,), 0),
    ("count", ({"a": 1},), 1),
    ("empty?", ([],), True),
    ("empty?", ([0],), False),
    ("empty?", (None,), True),
    ("not-empty", ("",), None),
    ("not-empty", ("a",), "a"),
    ("contains?", ([5, 6], 1), True),
    ("contains?", ([5, 6], 5), False),
    ("contains?", ([5, 6], -1), False),
    ("contains?", ({1, 2}, 1.0), False),
    ("contains?", ({"a": None}, "a"), True),
    ("contains?", (None, 1), False),
    ("get", ({"a": 1}, "a"), 1),
    ("get", ({1: "x"}, True), None),
    ("get", ([5], 3, "d"), "d"),
    ("get", ([5], -1), None),
    ("nth", ([5, 6], 1), 6),
    ("nth", ([5], 7, None), None),
    ("first", ([],), None),
    ("second", ([1, 2],), 2),
    ("last", ((1, 2),), 2),
    ("sort", ([3, 1, 2],), [1, 2, 3]),
    ("distinct", ([1, True, 1, 1.0],), [1, True, 1.0]),
    # text
    ("str", ("a", 1, None, K("b/c"), True), "a1:b/ctrue"),
    ("str", ((1, "x"),), '(1 "x")'),
    ("str", ([1, "x"],), '[1 "x"]'),
    ("pr-str", ("a", None), '"a" nil'),
    ("print-str", ("a", None), "a nil"),
    ("println-str", ("a",), "a\n"),
    ("prn-str", ("a",), '"a"\n'),
    ("name", (K("a/b"),), "b"),
    ("name", ("s",), "s"),
    ("namespace", (K("a/b"),), "a"),
    ("namespace", (K("b"),), None),
    ("keyword", ("a", "b"), K("a/b")),
    ("keyword", ("a",), K("a")),
    ("symbol", (K("a/b"),), Symbol("a/b")),
    ("subs", ("hello", 1), "ello"),
    ("subs", ("hello", 1, 3), "el"),
    ("subs", ("hello", 5), ""),
    ("re-find", ("b+", "abbc"), "bb"),
    ("re-find", ("(a)(b)?", "ac"), ("a", "a", None)),
    ("re-find", ("z", "abc"), None),
    ("re-matches", ("ab", "abc"), None),
    ("re-matches", ("ab.", "abc"), "abc"),
    ("re-seq", ("[0-9]+", "1 22 x3"), ["1", "22", "3"]),
    ("re-seq", ("z", "abc"), None),
    ("clojure.string/upper-case", ("aß",), "ASS"),
    ("clojure.string/blank?", (" \t",), True),
    ("clojure.string/blank?", (None,), True),
    ("clojure.string/starts-with?", ("hello", "he"), True),
    ("clojure.string/includes?", ("hello", "z"), False),
    ("clojure.string/index-of", ("hello", "l"), 2),
    ("clojure.string/index-of", ("hello", "z"), None),
    ("clojure.string/replace", ("a.a", ".", "-"), "a-a"),
    ("clojure.string/replace-first", ("aaa", "a", "b"), "baa"),
    ("clojure.string/split", ("a,b,,", ","), ["a", "b"]),
    ("clojure.string/split-lines", ("a\r\nb",), ["a", "b"]),
    ("clojure.string/join", (", ", [1, "a"]), "1, a"),
    ("clojure.string/join", (["a", "b"],), "ab"),
]


@pytest.mark.parametrize(
    ("name", "args", "expected"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_result(name: str, args: tuple[Any, ...], expected: Any) -> None:
    found = BUILTINS[name](*args)
    assert type(found) is type(expected)
    assert typed_key(found) == typed_key(expected)


def test_not_a_number_is_what_comes_of_zero_by_zero() -> None:
    assert math.isnan(BUILTINS["/"](0.0, 0))


def test_random_numbers_stay_in_range() -> None:
    assert all(0 <= BUILTINS["rand"]() < 1 for _ in range(50))
    assert all(0 <= BUILTINS["rand"](5) < 5 for _ in range(50))
    assert {BUILTINS["rand-int"](3) for _ in range(200)} == {0, 1, 2}


def test_complement_turns_a_function_around() -> None:
    assert BUILTINS["complement"](BUILTINS["even?"])(3) is True


def test_patterns_with_groups_replace_as_in_java() -> None:
    pattern = BUILTINS["re-pattern"]("(a)(b)")
    assert BUILTINS["clojure.string/replace"]("xabab", pattern, "$2$1") == "xbaba"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("+", (1, "a")),
        ("+", (1, True)),
        ("-", ()),
        ("==", (1, "a")),
        ("zero?", ("a",)),
        ("even?", (2.0,)),
        ("max", (1, "a")),
        ("count", (5,)),
        ("first", (5,)),
        ("name", (5,)),
        ("namespace", ("a",)),
        ("subs", (5, 1)),
        ("subs", ("abc", "1")),
        ("re-find", ("a", 5)),
        ("range", (1.5,)),
        ("range", ()),
        ("contains?", (5, 1)),
        ("clojure.string/upper-case", (5,)),
        ("clojure.string/includes?", (["a"], "a")),
        ("complement", (5,)),
        ("parse-long", (5,)),
    ],
)
def test_wrong_types_raise_type_error(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        BUILTINS[name](*args)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("/", (1, 0)),
        ("quot", (1, 0)),
        ("mod", (1, 0)),
        ("rem", (1, 0)),
        ("subs", ("abc", 2, 1)),
        ("subs", ("abc", -1)),
        ("subs", ("abc", 0, 4)),
        ("nth", ([1], 1)),
        ("nth", ([1], -1)),
        ("range", (10**9,)),
        ("range", (0, 5, 0)),
        ("hash-map", (1,)),
        ("re-find", ("(", "a")),
        ("re-find", ("a" * (MAX_PATTERN + 1), "a")),
        ("re-find", ("a", "a" * (MAX_TEXT + 1))),
        ("bigdec", ("x",)),
    ],
)
def test_bad_values_raise(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, IndexError, ZeroDivisionError)):
        BUILTINS[name](*args)


INTS = st.integers(-(10**12), 10**12)


@given(INTS, INTS.filter(bool))
def test_division_of_ints_adds_up(a: int, b: int) -> None:
    quotient, rest, modulo = (BUILTINS[f](a, b) for f in ("quot", "rem", "mod"))
    assert quotient * b + rest == a
    assert abs(rest) < abs(b)
    assert rest == 0 or (rest < 0) == (a < 0)
    assert modulo == 0 or (modulo < 0) == (b < 0)
    assert (modulo - a) % b == 0


VALUES = st.one_of(
    st.integers(-3, 3),
    st.booleans(),
    st.sampled_from([0.0, 1.0, -1.5, math.nan, math.inf]),
    st.sampled_from(["a", "b", K("a"), K("b/a"), EARLY, LATE, None, (1, 2), (1, True)]),
)


@given(VALUES, VALUES)
def test_comparisons_fit_together(a: Any, b: Any) -> None:
    less, greater, equal = (BUILTINS[f](a, b) for f in ("<", ">", "="))
    assert less == BUILTINS[">"](b, a)
    assert not (less and greater)
    assert not (equal and (less or greater))
    assert BUILTINS["!="](a, b) is not equal
    if less or greater:
        assert BUILTINS["<="](a, b) is less
        assert BUILTINS[">="](a, b) is greater


# -- in queries --------------------------------------------------------------------------------

DB = init_db(
    [
        (1, ":v", 1),
        (2, ":v", True),
        (3, ":v", 1.0),
        (4, ":v", "1"),
        (5, ":v", K("one")),
        (6, ":v", 7),
    ]
)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("[(= ?v 1)]", {1}),
        ("[(= 1.0 ?v)]", {3}),
        ("[(= ?v true)]", {2}),
        ("[(!= ?v 1)]", {2, 3, 4, 5, 6}),
        ("[(== ?v 1)]", {1, 3}),
        ("[(< ?v 5)]", {1, 3}),
        ("[(> ?v 0 -1)]", {1, 3, 6}),
        ("[(odd? ?v)]", {1, 6}),
        ('[(re-find "[0-9]" ?v)]', {4}),
        ("[(keyword? ?v)]", {5}),
        ('[(clojure.string/starts-with? ?v "1")]', {4}),
        ("[(clojure.core/number? ?v)]", {1, 3, 6}),
        ('[(str ?v) ?s] [(= ?s "1")]', {1, 4}),
        ("[(get {7 :found} ?v) ?x]", {6}),
    ],
)
async def test_in_where(clause: str, expected: set[int]) -> None:
    found = await DB.q(f"[:find [?e ...] :where [?e :v ?v] {clause}]")
    assert set(found) == expected


@pytest.mark.anyio
async def test_a_function_of_the_wrong_type_is_an_error_that_names_it() -> None:
    with pytest.raises(QueryError, match="inc") as caught:
        await DB.q("[:find ?x :where [_ :v ?v] [(inc ?v) ?x]]")
    assert caught.value.error == ":query/where"


@pytest.mark.anyio
async def test_an_unknown_function_names_its_neighbour() -> None:
    with pytest.raises(QueryError, match=r"odd\?") as caught:
        await DB.q("[:find ?v :where [_ :v ?v] [(oddd? ?v)]]")
    assert caught.value.error == ":query/where"
