"""The reader's finer points: tokens, limits, names, keys of maps and elements of sets."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest

from datahike_async.edn import Char, FrozenMap, Keyword, Symbol, Tagged, read, read_all, write
from datahike_async.errors import EdnError


def exactly(a: object, b: object) -> bool:
    """Compare the printed forms, which tell types apart."""
    return type(a) is type(b) and write(a) == write(b)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("nil", None),
        ("true", True),
        ("[]", []),
        ("()", ()),
        ("{}", {}),
        ("#{}", frozenset()),
        ("[[[]]]", [[[]]]),
        ("[1,2,,3]", [1, 2, 3]),
        ("[1;one\n2]", [1, 2]),
        ('["a""b"]', ["a", "b"]),
        ("[:a:b]", [Keyword("a:b")]),
        ("(a(b)c)", (Symbol("a"), (Symbol("b"),), Symbol("c"))),
        ("1.", 1.0),
        ("1E+2", 100.0),
        ("-0.0", -0.0),
        ("1e2M", Decimal("1E+2")),
        ("1/3", Fraction(1, 3)),
        ("4/2", 2),
        ("-1/3", Fraction(-1, 3)),
        ("##Inf", math.inf),
        ("##-Inf", -math.inf),
        ("##NaN", math.nan),
        ("-", Symbol("-")),
        ("+", Symbol("+")),
        ("-a", Symbol("-a")),
        ("->a", Symbol("->a")),
        ("...", Symbol("...")),
        (".", Symbol(".")),
        ("a'", Symbol("a'")),
        ("?e", Symbol("?e")),
        ("a//", Symbol("a//")),
        (":a/b/c", Keyword("a/b/c")),
        (":1", Keyword("1")),
        ("'x", (Symbol("quote"), Symbol("x"))),
        ("\\a", Char("a")),
        ("\\(", Char("(")),
        ("[\\a\\b]", [Char("a"), Char("b")]),
        ("\\u00e9", Char("é")),
        ("\\u", Char("u")),
        ("\\o", Char("o")),
        ("\\o101", Char("A")),
        ("\\\\", Char("\\")),
        ("\\;", Char(";")),
        ("\\😀", Char("😀")),
        ('"\\101\\/"', "A/"),
        ('"a\nb"', "a\nb"),
        ('"\\ud83d"', "\ud83d"),
        ("#_[1 #_2] 3", 3),
        ("[#_ a ;b\n #_ c]", []),
        ("{:a #_ 1 2}", {Keyword("a"): 2}),
        ("#my/tag {:a 1}", Tagged("my/tag", {Keyword("a"): 1})),
        ("#a #b 1", Tagged("a", Tagged("b", 1))),
        ("#:p {:a 1 b 2 :q/c 3 \"d\" 4}", {
            Keyword("p/a"): 1, Symbol("p/b"): 2, Keyword("q/c"): 3, "d": 4,
        }),
        ("\ufeff[1]", [1]),
        ('#uuid "00000000-0000-0000-0000-0000000000aB"', UUID(int=0xAB)),
        ('#datahike/bytes "AP8="', b"\x00\xff"),
        ('#datahike/keyword "a b"', Keyword("a b")),
    ],
)  # fmt: skip
def test_tokens(source, value):
    assert exactly(read(source), value)


@pytest.mark.parametrize(
    ("source", "when"),
    [
        ("2026", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-02", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-03T04", datetime(2026, 2, 3, 4, tzinfo=UTC)),
        ("2026-02-03T04:05Z", datetime(2026, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-02-03T04:05:06.1234567899", datetime(2026, 2, 3, 4, 5, 6, 123456, UTC)),
        ("2026-02-03T04:05:06.1-00:30", datetime(2026, 2, 3, 4, 35, 6, 100000, UTC)),
        ("2026-12-31T23:59:60Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_instants_may_be_partial(source, when):
    assert read(f'#inst "{source}"') == when
    assert read(f'#inst "{source}"').tzinfo is UTC


@pytest.mark.parametrize(
    ("source", "column", "part"),
    [
        ("1x", 1, "no number"),
        (".5", 1, "no number"),
        ("-.5", 1, "no number"),
        ("1.5N", 1, "no number"),
        ("1٣", 1, "no number"),
        ("1/0", 1, "divides by zero"),
        ("9" * 5000, 1, "4000 digits"),
        ("1/" + "9" * 5000, 1, "4000 digits"),
        ("1e999999999999999999999999M", 1, "exponent"),
        ("::a", 1, "no symbol or keyword"),
        (":/a", 1, "no symbol or keyword"),
        ("a/", 1, "no symbol or keyword"),
        ("[# a]", 2, "no symbol or keyword"),
        ("\\u12", 1, "one character"),
        ("\\a1", 1, "one character"),
        ("\\newlines", 1, "one character"),
        ("\\o777", 1, "one character"),
        ("\\oxx", 1, "one character"),
        ('"ab\\u12"', 4, "unknown escape"),
        ('"\\777"', 2, "unknown escape"),
        ("##Foo", 1, "symbolic value"),
        ("^{:a 1} b", 1, "cannot read"),
        ("@a", 1, "cannot read"),
        ("#_", 1, "discard"),
        ("[1 #_]", 4, "discard"),
        ("[1 #a]", 4, "followed by an element"),
        ("(')", 2, "followed by an element"),
        ("#:a [1]", 1, "followed by a map"),
        ("#:a/b{:c 1}", 1, "names no namespace"),
        ("#::a{:c 1}", 1, "names no namespace"),
        ("#:{:c 1}", 1, "names no namespace"),
        ("#:a{:b 1 :a/b 2}", 1, "duplicate key :a/b"),
        ('#inst "2026-13"', 1, "month"),
        ('#inst "2026-01-01T00:00:60Z"', 1, "second"),
        ('#inst "2026-01-01T00:00:00+01:99"', 1, "offset"),
        ('#inst "0001-01-01T00:00:00+01:00"', 1, "bad value"),
        ('#inst "٢٠٢٦"', 1, "RFC 3339"),
        ('#uuid "{0000000-0000-0000-0000-00000000000}"', 1, "8-4-4-4-12"),
        ('#datahike/bytes "é"', 1, "bad value"),
        ("#datahike/bytes 5", 1, "base64"),
        ('#datahike/keyword ""', 1, "a name"),
    ],
)
def test_what_is_wrong_is_named(source, column, part):
    with pytest.raises(EdnError, match=part) as caught:
        read(source)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("#{1 1}", "duplicate element 1"),
        ("#{1 1.0}", "1 and 1.0 cannot be told apart"),
        ("#{[1] [true]}", r"\(1,\) and \(True,\) cannot be told apart"),
        ("#{#{1} #{true}}", "cannot be told apart"),
        ("{1 :a true :b}", "1 and True cannot be told apart"),
        ("{[1] :a (1) :b}", r"duplicate key \(1,\)"),
        ("#{{:a [1]} {:a (1)}}", "duplicate element"),
        ("#{##NaN ##NaN}", "duplicate element nan"),
    ],
)
def test_sets_and_maps_lose_nothing_silently(source, part):
    with pytest.raises(EdnError, match=part):
        read(source)


def test_characters_and_strings_stay_apart_in_sets():
    assert read('#{\\a "a"}') == {Char("a"), "a"}
    assert len(read('#{\\a "a" :a a}')) == 4


def test_collections_in_sets_and_keys_are_frozen():
    (only,) = read("#{{:a [1 {:b #{2}}]}}")
    assert type(only) is FrozenMap
    assert only == {Keyword("a"): (1, {Keyword("b"): {2}})}
    assert hash(only) == hash(FrozenMap(only))
    assert read("{{:a 1} 2}") == {FrozenMap({Keyword("a"): 1}): 2}
    assert read(write(only)) == only
    with pytest.raises(TypeError, match="does not change"):
        only["x"] = 1
    with pytest.raises(TypeError, match="does not change"):
        only |= {"x": 1}
    with pytest.raises(TypeError, match="does not change"):
        only.update(x=1)


def test_readers_may_replace_built_in_ones_and_return_anything():
    assert read('#inst "x"', readers={"inst": str.upper}) == "X"
    assert read('#uuid "00000000-0000-0000-0000-000000000001"', readers={"a": int}).int == 1
    assert read("[#a 1]", readers={"a": lambda v: bytearray(v)}) == [bytearray(1)]
    with pytest.raises(EdnError, match="has no hash"):
        read("#{#a 1}", readers={"a": lambda v: bytearray(v)})


def test_read_all_takes_what_is_there():
    assert read_all("") == []
    assert read_all(" ; nothing\n #_ x ") == []
    assert read_all("1 [2] ;three\n :d") == [1, [2], Keyword("d")]
    with pytest.raises(EdnError, match="unmatched delimiter ]"):
        read_all("1 ] 2")


@pytest.mark.parametrize("opening", ["[", "(", "{", "#{", "#a ", "#_ ", "'", "#:a{:b ", "[#{"])
def test_depth_is_bounded_whatever_nests(opening):
    for limit in (200, 10**9):
        with pytest.raises(EdnError, match="nested") as caught:
            read(opening * 100_000, max_depth=limit)
        assert caught.value.line == 1


def test_the_depth_limit_is_exact():
    assert read("[" * 10 + "]" * 10, max_depth=10)
    with pytest.raises(EdnError, match="deeper than 10"):
        read("[" * 11 + "]" * 11, max_depth=10)


def test_lines_and_columns_count_from_one():
    with pytest.raises(EdnError, match="unmatched") as caught:
        read('["a\nb" ;c\n\n  )]')
    assert (caught.value.line, caught.value.column) == (4, 3)
    assert str(caught.value).startswith("line 4, column 3: ")
