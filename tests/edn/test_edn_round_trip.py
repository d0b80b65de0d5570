"""Whatever is written reads back as it was, types included."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.edn import Char, FrozenMap, Keyword, Symbol, Tagged, read, read_all, write
from datahike_async.errors import EdnError
from datahike_async.values.types import typed_key

names = st.from_regex(r"[a-z*!?<>=][a-z0-9*!?<>=.\-]{0,6}", fullmatch=True)
qualified = st.builds(lambda a, b: f"{a}/{b}", names, names) | names
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.fractions().filter(lambda f: f.denominator != 1)
    | text
    | qualified.map(Keyword)
    | qualified.filter(lambda n: n not in ("nil", "true", "false")).map(Symbol)
    | st.characters(exclude_categories=["Cs", "Z", "Cc"]).map(Char)
    | st.uuids()
    | st.datetimes(timezones=st.just(UTC))
    | st.binary(max_size=12)
)
plain_keys = st.integers() | text | qualified.map(Keyword) | st.uuids()
hashable = st.recursive(
    plain_keys,
    lambda inner: (
        st.lists(inner, max_size=2).map(tuple)
        | st.frozensets(inner, max_size=2)
        | st.dictionaries(inner, inner, max_size=2).map(FrozenMap)
    ),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | st.builds(Tagged, names.map("my/".__add__), inner)
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, Tagged):
        return a.tag == b.tag and same(a.value, b.value)
    if isinstance(a, float):
        # There is one NaN, without a sign.
        return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


@given(values)
def test_round_trip(value):
    assert same(read(write(value)), value)
    assert same(read(write(value, pretty=True)), value)


@given(st.text(alphabet='()[]{}#"\\:;_^~@,ab1.- \n?/', max_size=40))
def test_any_text_reads_or_says_where_it_is_wrong(source):
    try:
        read_all(source)
    except EdnError as error:
        assert error.line >= 1
        assert error.column >= 1
        assert error.error == ":edn/syntax"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("[1 +2 -3 4N]", [1, 2, -3, 4]),
        ("(1.5 -0.25e3 1M 2.50M)", (1.5, -250.0, Decimal(1), Decimal("2.50"))),
        ('"a\\n\\t\\"\\\\\\u00e9"', 'a\n\t"\\é'),
        ('"\\ud83d\\ude00"', "😀"),
        ("\\newline", Char("\n")),
        ("\\u0041", Char("A")),
        ("#_ 1 2 ; end", 2),
        ("[#_ #_ 1 2 3]", [3]),
        ('#inst "2026"', datetime(2026, 1, 1, tzinfo=UTC)),
        ('#inst "2026-02-03T04:05:06.789+01:30"', datetime(2026, 2, 3, 2, 35, 6, 789000, UTC)),
        ("#:person{:name 1 :_/id 2}", {Keyword("person/name"): 1, Keyword("id"): 2}),
        ("{[1 2] 3}", {(1, 2): 3}),
        ("foo/bar", Symbol("foo/bar")),
        ("/", Symbol("/")),
    ],
)
def test_forms(source, value):
    assert same(read(source), value)


@pytest.mark.parametrize(
    ("source", "line", "column", "part"),
    [
        ("[1 2", 1, 1, "] is expected"),
        ("[1\n  (2]", 2, 5, "unmatched"),
        ("{:a}", 1, 1, "even number"),
        ("{:a 1 :a 2}", 1, 1, "duplicate key :a"),
        ("#{1 1}", 1, 1, "duplicate element"),
        ("#{1 true}", 1, 1, "cannot be told apart"),
        ('"abc', 1, 1, "not closed"),
        ('"a\\q"', 1, 3, "unknown escape"),
        ("1 2", 1, 3, "another one"),
        ("", 1, 1, "no element"),
        ("#inst 5", 1, 1, "RFC 3339"),
        ('#uuid "x"', 1, 1, "36 characters"),
        ("01", 1, 1, "no number"),
        (":", 1, 1, "keyword"),
    ],
)
def test_errors_say_where_and_what(source, line, column, part):
    with pytest.raises(EdnError, match=part) as caught:
        read(source)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_limits():
    with pytest.raises(EdnError, match="nested deeper than 200"):
        read("[" * 100_000)
    with pytest.raises(EdnError, match="limit is 10"):
        read("[1 2 3 4 5 6]", max_size=10)


def test_readers():
    assert read("#my/tag [1 2]", readers={"my/tag": sum}) == 3
    with pytest.raises(EdnError, match="bad value for #my/tag"):
        read("#my/tag x", readers={"my/tag": lambda v: int(repr(v))})


def test_names_are_interned_and_typed():
    assert Keyword(":a/b") is Keyword("a/b")
    assert Keyword("a/b") != Symbol("a/b")
    assert (Keyword("a/b").namespace, Keyword("a/b").name) == ("a", "b")
    assert typed_key(Char("a")) != typed_key("a")
    with pytest.raises(ValueError, match="time zone"):
        write(datetime(2026, 1, 1))
