"""The writer: names it cannot spell, subclasses, determinism, refusals, pretty printing."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.edn import Char, Keyword, Symbol, Tagged, read, write


class Color(str, enum.Enum):  # noqa: UP042 - the older form is the one whose str() misleads
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nil"),
        ([True, 1, 1.0, Decimal("1.50")], "[true 1 1.0 1.50M]"),
        ((1, "a"), '(1 "a")'),
        ({Keyword("a"): Symbol("b")}, "{:a b}"),
        ({"c", "a", "b"}, '#{"a" "b" "c"}'),
        (float("-inf"), "##-Inf"),
        ("a\n\x00\x7f", '"a\\n\\u0000\\u007f"'),
        (Char("\n"), "\\newline"),
        (Char("\x00"), "\\u0000"),
        (b"\x00\xff", '#datahike/bytes "AP8="'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '#inst "2026-01-02T03:04:05.000Z"'),
        (
            datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
            '#inst "2026-01-02T01:04:05.000006Z"',
        ),
        (Tagged("a/b", [1]), "#a/b [1]"),
        (Color.RED, '"red"'),
        (Level.HIGH, "3"),
        (np.int64(3), "3"),
        (np.float64(0.5), "0.5"),
        (np.bool_(True), "true"),
        (np.array([[1, 2], [3, 4]]), "[[1 2] [3 4]]"),
        (OrderedDict(a=1), '{"a" 1}'),
        (deque([1, 2]), "[1 2]"),
    ],
)
def test_forms(value, text):
    assert write(value) == text


@given(st.text(min_size=1, max_size=6))
def test_every_keyword_reads_back(text):
    if text != ":":
        keyword = Keyword(text)
        assert read(write(keyword)) is keyword
        assert read(write([keyword, 1])) == [keyword, 1]


@given(
    st.text(min_size=1, max_size=6)
    | st.sampled_from(["nil", "1a", "-1", "'a", "a/", ":a", "\ufeffa"])
)
def test_every_symbol_reads_back(text):
    symbol = Symbol(text)
    assert read(write(symbol)) is symbol
    assert read(write((symbol, 1))) == (symbol, 1)


@given(st.characters())
def test_every_character_reads_back(text):
    (made,) = read(write([Char(text)]))
    assert type(made) is Char
    assert str(made) == text


@given(st.text(st.characters(), max_size=8))
def test_every_string_without_halves_of_pairs_reads_back(text):
    # Two halves side by side are one character; a lone half stays what it is.
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert read(write(text)) == joined


def test_sets_print_alike_whatever_their_order():
    one, other = (set(items) for items in ([0, 8, 16], [0, 16, 8]))
    assert list(one) != list(other)
    assert write(one) == write(other) == "#{0 16 8}"
    wide = [{i * 10**40 for i in items} for items in ((1, 2, 3), (3, 2, 1))]
    assert len({write(items, pretty=True) for items in wide}) == 1


class NoOffset(tzinfo):
    def utcoffset(self, when):
        return None


@pytest.mark.parametrize(
    ("value", "error", "part"),
    [
        (datetime(2026, 1, 1), ValueError, "time zone"),
        (datetime(2026, 1, 1, tzinfo=NoOffset()), ValueError, "time zone"),
        (date(2026, 1, 1), TypeError, "no EDN form"),
        (Decimal("NaN"), ValueError, "no form"),
        (object(), TypeError, "no EDN form"),
        (1j, TypeError, "no EDN form"),
        (np.longdouble(1), TypeError, "no EDN form"),
        (Tagged("a b", 1), ValueError, "no tag"),
        (Tagged("_", 1), ValueError, "no tag"),
    ],
)
def test_what_has_no_form_is_refused(value, error, part):
    with pytest.raises(error, match=part):
        write([value])


def test_data_that_contains_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    for pretty in (False, True):
        with pytest.raises(ValueError, match="contains itself"):
            write(loop, pretty=pretty)


def test_pretty_breaks_only_what_is_too_long():
    short = {Keyword("a"): [1, 2]}
    assert write(short, pretty=True) == write(short)
    long = {Keyword(f"key{i}"): [f"value {j}" for j in range(12)] for i in range(3)}
    text = write(long, pretty=True)
    assert read(text) == long
    assert len(text.splitlines()) > 3
    assert max(map(len, text.splitlines())) <= 100
