"""Predicates on columns of strings say what they say string by string."""

from __future__ import annotations

import re
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryCanceled
from datahike_async.index.columns import Column
from datahike_async.looks import PIECE
from datahike_async.query.builtins import columns, matching
from datahike_async.query.builtins.columns import mask_of_call
from datahike_async.query.builtins.matching import bounded, pattern_mask
from datahike_async.query.builtins.regexes import compiled, source_of
from datahike_async.query.builtins.supply import Supply
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.running import functions

ALPHABET = "ab1 _\n\0.é\U0001f600\ud800\udc00\U0010ffff"
TEXTS = st.lists(st.text(ALPHABET, max_size=6), min_size=1, max_size=30)
PATTERNS = [
    "", "a", "ab1", "^a", "a$", "^$", ".", "a.b", "a.*b", r"\d+", r"\w{2}\b", "[ab]{1,3}1?", "[^a]",
    "(a|b)1", "a|b1|é", "(?:a|(b|_)) ", r"\.", "a+?b", r"\s\S", "é+", "[a-b1]+_", "a{0}b", "a{2,}",
    "(a)", "a*a*b", r"\Da", "\U0001f600", "(?i)AB1", "(?i)é|b$", "(?m)^1", "(?s)a.b", "(?a)é",
]  # fmt: skip
GUARDED = [
    "(a+)+", "(a|b)*", r"(a)\1", "(?=a)b", "(?x)a b", "(?<!a)b", "a++", "[[:alpha:]]", r"\p{L}",
    "a{1}{2}", "[a||b]", "(a)?", "a{e}", "]", "a{", "(?:a", "a)", "*", r"\Ka", r"\N{DIGIT ONE}",
]  # fmt: skip


@pytest.mark.parametrize("name", ["starts-with?", "ends-with?", "includes?"])
@settings(max_examples=20)
@given(texts=TEXTS, part=st.text(ALPHABET, max_size=3))
def test_parts_of_strings_are_found_as_by_value(name: str, texts: list[str], part: str) -> None:
    name = "clojure.string/" + name
    mask = mask_of_call(name, [Column.of(texts), part], len(texts))
    assert mask is not None
    assert mask.tolist() == [BUILTINS[name](text, part) for text in texts]


@pytest.mark.parametrize("name", ["<", "<=", ">", ">="])
@settings(max_examples=20)
@given(texts=TEXTS, value=st.text(ALPHABET, max_size=3))
def test_strings_compare_as_by_value(name: str, texts: list[str], value: str) -> None:
    mask = mask_of_call(name, [Column.of(texts), value], len(texts))
    assert mask is not None
    assert mask.tolist() == [BUILTINS[name](text, value) for text in texts]


def test_many_strings_are_compared_with_no_call_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "asked", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(columns, "asked", lambda *_: pytest.fail("asked"))
    texts = [f"{i % 7} {i}" for i in range(5 * PIECE // 4)]
    column = Column.of(texts)
    for part in ("0 1", "3", "6 99"):
        mask = mask_of_call("clojure.string/starts-with?", [column, part], len(texts))
        assert mask is not None
        assert mask.tolist() == [text.startswith(part) for text in texts]
    mask = mask_of_call("<", [column, "3 5"], len(texts))
    assert mask is not None
    assert mask.tolist() == [text < "3 5" for text in texts]


@pytest.mark.parametrize("name", ["re-find", "re-matches"])
@pytest.mark.parametrize("source", PATTERNS)
@settings(max_examples=20)
@given(texts=TEXTS)
def test_patterns_with_a_bound_match_as_by_value(name: str, source: str, texts: list[str]) -> None:
    found = pattern_mask(name, [source, Column.of(texts)], Supply())
    assert found is not None
    assert not len(found[1])
    assert found[0].tolist() == [BUILTINS[name](source, text) is not None for text in texts]


@pytest.mark.parametrize("source", GUARDED)
def test_patterns_without_a_bound_are_left_to_the_guarded_functions(source: str) -> None:
    assert bounded(source) is None
    assert pattern_mask("re-find", [source, Column.of(["a"])], Supply()) is None


@given(source=st.text("ab.*+?{},12()|[]^$\\d-:", max_size=12), text=st.text("ab1", max_size=8))
def test_what_has_a_bound_matches_nothing_without_its_needle(source: str, text: str) -> None:
    bound = bounded(source)
    if bound is None:
        return
    try:
        found = compiled(source).search(text, timeout=5)
    except ValueError:
        return
    assert found is None or bound.needle in text
    if bound.plain:
        assert (found is not None) is (bound.needle in text)


def test_the_bound_grows_with_what_a_pattern_repeats() -> None:
    assert bounded("note 12") == ("note 12", True, 7, 1)
    assert bounded(r"no \d+ of") == ("no ", False, 3 + 1 + 1 + 3, 2)
    assert bounded("(ab|a)(b|c)") == ("", False, 11 * 4, 1)
    assert bounded("a?b?") == ("", False, 4 * 4, 1)
    lengths = [b.length for b in map(bounded, ["a", "a*", "a*a*", "a*a*a*"]) if b is not None]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4


def test_long_texts_are_left_undecided_where_they_hold_the_needle() -> None:
    texts = ["xa1", "x" * 10**6 + "a1", "y" * 10**6, "xb", ""]
    found = pattern_mask("re-find", ["x.*a1", Column.of(texts)], Supply())
    assert found is not None
    assert found[0].tolist() == [True, False, False, False, False]
    assert found[1].tolist() == [1]
    for name in ("starts-with?", "ends-with?", "includes?"):
        mask = mask_of_call("clojure.string/" + name, [Column.of(texts), "x"], 5)
        assert mask is not None
        assert mask.tolist() == [BUILTINS["clojure.string/" + name](t, "x") for t in texts]


def test_what_is_no_string_has_no_part_and_matches_nothing() -> None:
    mixed = Column.of(["ab", Keyword("ab"), b"ab", "b"])
    mask = mask_of_call("clojure.string/includes?", [mixed, "a"], 4)
    assert mask is not None
    assert mask.tolist() == [True, False, False, False]
    found = pattern_mask("re-find", ["b$", mixed], Supply())
    assert found is not None
    assert found[0].tolist() == [True, False, False, True]


def test_a_different_string_is_matched_once_and_only_where_the_needle_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    real = matching._mark

    def counted(test: Any, text: str, longest: int) -> int:
        calls.append(text)
        return real(test, text, longest)

    monkeypatch.setattr(matching, "_mark", counted)
    column = Column.of(["note 1", "note 2", "page 1"] * 500)
    found = pattern_mask("re-find", [r"note \d", column], Supply())
    assert found is not None
    assert int(found[0].sum()) == 1000
    assert calls == ["note 1", "note 2"]


def test_the_time_of_bounded_patterns_is_the_clause_s() -> None:
    texts = [f"{i}" for i in range(1000)]
    with pytest.raises(QueryCanceled) as caught:
        pattern_mask("re-find", [r"\d+x", Column.of(texts)], Supply(seconds=1e-5))
    assert "the patterns of one clause" in str(caught.value)


@pytest.mark.anyio
async def test_queries_match_short_texts_on_columns_and_long_ones_row_by_row() -> None:
    rows = [(1, "no 5 of"), (2, "x" * 10**5 + "no 7 of"), (3, "none"), (4, "no x of")]
    query = '[:find [?e ...] :in [[?e ?s]] :where [(re-find "no \\\\d+ of" ?s)]]'
    assert sorted(await d.q(query, rows)) == [1, 2]
    spans = '[:find [?e ...] :in [[?e ?s]] :where [(re-find "(no |x)+5" ?s)]]'
    assert await d.q(spans, rows) == [1]


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        ("a", "a"),
        (re.compile("a"), "a"),
        (regex.compile("a"), "a"),
        (compiled("a", "i"), "(?i)(?i)a"),
        (re.compile("a", re.I | re.M), "(?im)a"),
        (re.compile("a", re.A), "(?a)a"),
        (regex.compile("a", regex.S), "(?s)a"),
        (regex.compile("a", regex.BESTMATCH), None),
        (regex.compile("(?r)a"), None),
        (re.compile(b"a"), None),
        (5, None),
    ],
)
def test_a_compiled_pattern_is_matched_as_its_text(pattern: Any, source: str | None) -> None:
    assert source_of(pattern) == source
    if source is not None:
        found = pattern_mask("re-find", [pattern, Column.of(["xa", "A", "b"])], Supply())
        expected = [BUILTINS["re-find"](pattern, text) is not None for text in ("xa", "A", "b")]
        assert (None if found is None else found[0].tolist()) in (None, expected)


@pytest.mark.anyio
async def test_a_value_that_is_alone_is_no_column_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a pattern made once nor a list of one is repeated beside each row of a column."""
    seen: list[list[Any]] = []
    real = functions.pattern_mask

    def noted(name: str, args: Any, supply: Supply) -> Any:
        seen.append(list(args))
        return real(name, args, supply)

    monkeypatch.setattr(functions, "pattern_mask", noted)
    schema = {":n": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/one"}}
    db = d.init_db([(i, ":n", f"note {i}") for i in range(1, 100)], schema)
    found = await d.q('[:find ?e :where [?e :n ?x] [(re-pattern "e 7") ?p] [(re-find ?p ?x)]]', db)
    assert {e for (e,) in found} == {7, *range(70, 80)}
    query = "[:find ?e ?p ?z :in $ [?p ...] :where [?e :n ?x] [(re-find ?p ?x)] [(str ?x ?p) ?z]]"
    assert set(await d.q(query, db, ["9"])) == {
        (e, "9", f"note {e}9") for e in range(1, 100) if "9" in str(e)
    }
    assert [isinstance(pattern, Column) for pattern, _ in seen] == [False, False]
    assert len(await d.q(query, db, ["9", "8"])) == 38
    assert isinstance(seen[-1][0], Column)
    # Pairs of two columns and a value that is alone.
    query = "[:find ?a ?b :in $ [?y ...] :where [?a :n ?x] [?b :n ?z] [(< ?x ?y ?z)]]"
    assert len(await d.q(query, db, ["note 5"])) == 44 * 54
