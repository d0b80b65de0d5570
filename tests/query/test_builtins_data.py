"""Built-in functions on collections, numbers and their kinds; and that each name has its test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from datahike_async.database import init_db
from datahike_async.edn.types import Char, FrozenMap, Keyword, Symbol
from datahike_async.errors import QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.api import q
from datahike_async.query.builtins.aggregates import AGGREGATES
from datahike_async.query.builtins.size import MAX_ITEMS
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.language.builtin_rules import BUILTIN_RULES
from datahike_async.query.reading.lookups import DATABASE
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet
from tests.query import test_builtins

K, S = Keyword, Symbol
NAN, INF = math.nan, math.inf
ID = UUID("0f14d0ab-9605-4a62-a9e4-5ed26688389b")
NOON = datetime(2020, 1, 1, 12, 0, 0, 5000, tzinfo=UTC)
TOP = 2**63 - 1

CASES: list[tuple[str, tuple[Any, ...], Any]] = [
    # parts of collections
    ("seq", ([],), None),
    ("seq", ("ab",), ["a", "b"]),
    ("seq", ({},), None),
    ("empty", ((1, 2),), []),
    ("empty", ({1: 2},), {}),
    ("empty", ({1},), ValueSet()),
    ("empty", ("ab",), None),
    ("first", ([],), None),
    ("rest", ([1, 2, 3],), [2, 3]),
    ("rest", (None,), []),
    ("next", ([1],), None),
    ("next", ([1, 2],), [2]),
    ("butlast", ([1, 2, 3],), [1, 2]),
    ("butlast", ([],), None),
    ("take", (2, [1, 2, 3]), [1, 2]),
    ("take", (-1, [1, 2, 3]), []),
    ("take", (9, "ab"), ["a", "b"]),
    ("drop", (2, [1, 2, 3]), [3]),
    ("drop", (-1, [1, 2]), [1, 2]),
    ("take-last", (2, [1, 2, 3]), [2, 3]),
    ("take-last", (0, [1, 2, 3]), []),
    ("take-last", (9, [1]), [1]),
    ("drop-last", ([1, 2, 3],), [1, 2]),
    ("drop-last", (2, [1, 2, 3]), [1]),
    ("drop-last", (9, [1]), []),
    ("subvec", ([1, 2, 3], 1), [2, 3]),
    ("subvec", ([1, 2, 3], 1, 2), [2]),
    ("peek", ([1, 2],), 2),
    ("peek", ([],), None),
    ("vec", ({1},), [1]),
    ("vec", (None,), []),
    ("partition", (2, [1, 2, 3, 4, 5]), [[1, 2], [3, 4]]),
    ("partition", (2, 1, [1, 2, 3]), [[1, 2], [2, 3]]),
    ("partition-all", (2, [1, 2, 3]), [[1, 2], [3]]),
    ("partition-all", (2, 1, [1, 2]), [[1, 2], [2]]),
    # new collections
    ("conj", ([1], 2, 3), [1, 2, 3]),
    ("conj", (None, 1), [1]),
    ("conj", ({1}, 1, 2), ValueSet({1, 2})),
    ("conj", ({"a": 1}, ["b", 2]), {"a": 1, "b": 2}),
    ("conj", ({"a": 1}, {"a": 2}), {"a": 2}),
    ("cons", (0, [1]), [0, 1]),
    ("cons", (0, None), [0]),
    ("concat", ([1], None, (2, 3), "a"), [1, 2, 3, "a"]),
    ("concat", (), []),
    ("into", ([1], {2}), [1, 2]),
    ("into", ({}, [["a", 1]]), {"a": 1}),
    ("repeat", (3, "a"), ["a", "a", "a"]),
    ("repeat", (-1, "a"), []),
    ("flatten", ([1, [2, [3, []]], "ab"],), [1, 2, 3, "ab"]),
    ("flatten", (5,), []),
    ("interleave", ([1, 2, 3], ["a", "b"]), [1, "a", 2, "b"]),
    ("interpose", (0, [1, 2]), [1, 0, 2]),
    ("interpose", (0, []), []),
    ("dedupe", ([1, 1, 1.0, 2, 1],), [1, 1.0, 2, 1]),
    ("distinct?", (1, 2, 1.0), True),
    ("distinct?", (1, 2, 1), False),
    # maps
    ("assoc", ({"a": 1}, "b", 2, "a", 3), {"a": 3, "b": 2}),
    ("assoc", (None, "a", 1), {"a": 1}),
    ("assoc", ([1, 2], 1, 9, 2, 3), [1, 9, 3]),
    ("dissoc", ({"a": 1, "b": 2}, "a", "z"), {"b": 2}),
    ("dissoc", ({1: "x"}, True, 1.0), {1: "x"}),
    ("merge", ({"a": 1}, None, {"a": 2, "b": 3}), {"a": 2, "b": 3}),
    ("merge", (None, None), None),
    ("select-keys", ({"a": 1, "b": 2}, ["a", "z"]), {"a": 1}),
    ("find", ({"a": None}, "a"), ["a", None]),
    ("find", ({"a": 1}, "b"), None),
    ("get-in", ({"a": [{"b": 5}]}, ["a", 0, "b"]), 5),
    ("get-in", ({"a": 1}, ["b", "c"], 7), 7),
    ("get-in", ({"a": 1}, []), {"a": 1}),
    ("zipmap", (["a", "b", "c"], [1, 2]), {"a": 1, "b": 2}),
    ("key", (["a", 1],), "a"),
    ("val", (["a", 1],), 1),
    ("clojure.set/map-invert", ({"a": 1},), {1: "a"}),
    ("hash-map", (["a"], 1), {("a",): 1}),
    ("hash-map", ({"a": [1]}, 1), {FrozenMap({"a": (1,)}): 1}),
    # by key
    ("sort-by", (K("n"), [{K("n"): 2}, {K("n"): 1}, {}]), [{}, {K("n"): 1}, {K("n"): 2}]),
    ("sort-by", (len, ["bbb", "a", "cc"]), ["a", "cc", "bbb"]),
    ("group-by", (K("n"), [{K("n"): 2}, {K("n"): 1}]), {2: [{K("n"): 2}], 1: [{K("n"): 1}]}),
    ("group-by", (len, ["a", "b", "cc"]), {1: ["a", "b"], 2: ["cc"]}),
    ("frequencies", (["a", "b", "a"],), {"a": 2, "b": 1}),
    ("min-key", (len, "aa", "b", "c"), "c"),
    ("max-key", (len, "aa", "b", "cc"), "cc"),
    ("max-key", (K("n"), {K("n"): 1}), {K("n"): 1}),
    # sets
    ("hash-set", (1, 2, 1), ValueSet({1, 2})),
    ("disj", ({1, 2}, 1, 3), ValueSet({2})),
    ("clojure.set/union", ({1}, {2}, None), ValueSet({1, 2})),
    ("clojure.set/union", (), ValueSet()),
    ("clojure.set/intersection", ({1, 2}, {2, 3}), ValueSet({2})),
    ("clojure.set/intersection", ({1}, {True}), ValueSet()),
    ("clojure.set/difference", ({1, 2, 3}, {2}, {3}), ValueSet({1})),
    ("clojure.set/subset?", ({1}, {1, 2}), True),
    ("clojure.set/superset?", ({1}, {1, 2}), False),
    # numbers
    ("+'", (TOP, 1), 2**63),
    ("-'", (1, 2), -1),
    ("*'", (TOP, 2), 2**64 - 2),
    ("inc'", (1,), 2),
    ("dec'", (1,), 0),
    ("bigint", (1.9,), 1),
    ("float", (1,), 1.0),
    ("numerator", (Fraction(2, 3),), 2),
    ("denominator", (Fraction(2, 3),), 3),
    ("NaN?", (NAN,), True),
    ("NaN?", (1,), False),
    ("infinite?", (-INF,), True),
    ("parse-boolean", ("true",), True),
    ("parse-boolean", ("yes",), None),
    ("parse-uuid", (str(ID),), ID),
    ("parse-uuid", ("5",), None),
    ("parse-uuid", ("z" * 36,), None),
    ("bit-and", (12, 10, 8), 8),
    ("bit-or", (12, 3), 15),
    ("bit-xor", (12, 10), 6),
    ("bit-and-not", (12, 4), 8),
    ("bit-not", (0,), -1),
    ("bit-test", (4, 2), True),
    ("bit-test", (4, 1), False),
    ("bit-set", (0, 63), -(2**63)),
    ("bit-clear", (-1, 63), TOP),
    ("bit-flip", (5, 0), 4),
    ("bit-shift-left", (1, 62), 2**62),
    ("bit-shift-left", (1, 64), 1),
    ("bit-shift-left", (1, 63), -(2**63)),
    ("bit-shift-right", (-8, 1), -4),
    ("unsigned-bit-shift-right", (-1, 60), 15),
    ("clojure.math/sqrt", (9,), 3.0),
    ("clojure.math/sqrt", (-1,), NAN),
    ("clojure.math/cbrt", (-8,), -2.0),
    ("clojure.math/exp", (0,), 1.0),
    ("clojure.math/exp", (1000,), INF),
    ("clojure.math/log", (1,), 0.0),
    ("clojure.math/log", (0,), -INF),
    ("clojure.math/log10", (100,), 2.0),
    ("clojure.math/floor", (-1.5,), -2.0),
    ("clojure.math/floor", (INF,), INF),
    ("clojure.math/ceil", (1.2,), 2.0),
    ("clojure.math/ceil", (NAN,), NAN),
    ("clojure.math/signum", (-3,), -1.0),
    ("clojure.math/signum", (0,), 0.0),
    ("clojure.math/pow", (2, 10), 1024.0),
    ("clojure.math/pow", (10, 400), INF),
    ("clojure.math/pow", (-10, 401), -INF),
    ("clojure.math/pow", (-8, 0.5), NAN),
    ("clojure.math/pow", (0, -1), INF),
    ("clojure.math/pow", (1, INF), NAN),
    ("clojure.math/round", (2.5,), 3),
    ("clojure.math/round", (-2.5,), -2),
    ("clojure.math/round", (0.49999999999999994,), 0),
    ("clojure.math/round", (NAN,), 0),
    ("clojure.math/round", (1e300,), TOP),
    ("clojure.math/round", (-INF,), -(2**63)),
    ("inst-ms", (NOON,), 1577880000005),
    ("int", (2.9,), 2),
    # texts
    ("clojure.string/capitalize", ("hELLO",), "Hello"),
    ("clojure.string/lower-case", ("ABC",), "abc"),
    ("clojure.string/reverse", ("abc",), "cba"),
    ("clojure.string/ends-with?", ("abc", "bc"), True),
    ("clojure.string/last-index-of", ("abab", "b"), 3),
    ("clojure.string/last-index-of", ("abab", "z"), None),
    ("clojure.string/index-of", ("abab", "a", 1), 2),
    ("clojure.string/index-of", ("abab", "a", -9), 0),
    ("clojure.string/trim", (" a\t",), "a"),
    ("clojure.string/triml", (" a ",), "a "),
    ("clojure.string/trimr", (" a ",), " a"),
    ("clojure.string/trim-newline", (" a \r\n",), " a "),
    # made before
    ("array-map", ("a", 1), {"a": 1}),
    ("list", (1, 2), (1, 2)),
    ("keys", ({"a": 1},), ["a"]),
    ("keys", ({},), None),
    ("vals", ({"a": 1},), [1]),
    ("reverse", ([1, 2],), [2, 1]),
    ("meta", ([1],), None),
    # kinds
    ("boolean?", (False,), True),
    ("boolean?", (0,), False),
    ("integer?", (1,), True),
    ("integer?", (True,), False),
    ("double?", (1.0,), True),
    ("float?", (1,), False),
    ("decimal?", (Decimal(1),), True),
    ("symbol?", (S("a"),), True),
    ("symbol?", (K("a"),), False),
    ("uuid?", (ID,), True),
    ("uuid?", (str(ID),), False),
    ("map?", ({},), True),
    ("map?", ([],), False),
    ("set?", ({1},), True),
    ("set?", ([1],), False),
    ("vector?", ([1],), True),
    ("vector?", ("a",), False),
    ("char?", (Char("a"),), True),
    ("char?", ("a",), False),
    ("bytes?", (b"a",), True),
    ("ratio?", (Fraction(1, 2),), True),
    ("rational?", (1.5,), False),
    ("rational?", (Decimal(1),), True),
    ("nat-int?", (0,), True),
    ("nat-int?", (True,), False),
    ("pos-int?", (0,), False),
    ("pos-int?", (1,), True),
    ("neg-int?", (-1,), True),
    ("neg-int?", (-1.0,), False),
    ("ident?", (S("a"),), True),
    ("simple-ident?", (K("a"),), True),
    ("qualified-ident?", (K("a"),), False),
    ("simple-keyword?", (K("a/b"),), False),
    ("qualified-keyword?", (K("a/b"),), True),
    ("simple-symbol?", (S("a"),), True),
    ("qualified-symbol?", (K("a/b"),), False),
    ("any?", (None,), True),
    ("coll?", ("ab",), False),
    ("coll?", ({},), True),
    ("sequential?", ([],), True),
    ("sequential?", ({1},), False),
    ("associative?", ({},), True),
    ("associative?", ({1},), False),
]


@pytest.mark.parametrize(
    ("name", "args", "expected"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_result(name: str, args: tuple[Any, ...], expected: Any) -> None:
    found = BUILTINS[name](*args)
    assert type(found) is type(expected)
    assert typed_key(found) == typed_key(expected)


WRONG: list[tuple[str, tuple[Any, ...]]] = [
    ("take", ("2", [1])),
    ("take", (1, 5)),
    ("rest", (5,)),
    ("subvec", ("abc", 1)),
    ("subvec", ([1], "1")),
    ("partition", ("2", [1])),
    ("conj", ("ab", 1)),
    ("conj", ({"a": 1}, 5)),
    ("concat", ([1], 5)),
    ("repeat", ("3", 1)),
    ("assoc", (5, 1, 2)),
    ("dissoc", ([1], 0)),
    ("select-keys", ({}, 5)),
    ("sort-by", ("n", [1])),
    ("group-by", (BUILTINS["re-find"], [1])),
    ("disj", ([1], 1)),
    ("clojure.set/union", ([1], {1})),
    ("bit-and", (1, 1.0)),
    ("bit-and", (True, 1)),
    ("bit-shift-left", (1, "1")),
    ("clojure.math/sqrt", ("4",)),
    ("clojure.math/round", (True,)),
    ("numerator", (1,)),
    ("parse-uuid", (5,)),
    ("inst-ms", (5,)),
    ("rand", ("a",)),
    ("rand-int", (1.5,)),
    ("complement", (BUILTINS["re-find"],)),
    ("clojure.string/index-of", ("a", "a", "1")),
    ("clojure.string/split", ("a", "a", "1")),
]
BAD: list[tuple[str, tuple[Any, ...]]] = [
    ("subvec", ([1], 2)),
    ("subvec", ([1, 2], 1, 0)),
    ("partition", (0, [1])),
    ("partition-all", (1, 0, [1])),
    ("assoc", ({}, 1)),
    ("assoc", ([1], 3, 1)),
    ("hash-map", (1, "a", 1.0, "b")),
    ("frequencies", ([1, True],)),
    ("key", ([],)),
    ("rand-nth", ([],)),
    ("bit-and", (2**63, 1)),
    # what would be too large
    ("repeat", (10**9, 1)),
    ("concat", ([0] * MAX_ITEMS, [1])),
    ("interpose", (0, [0] * MAX_ITEMS)),
    ("interleave", ([0] * MAX_ITEMS, [0] * MAX_ITEMS)),
    ("partition", (2000, 1, [0] * 10_000)),
    ("flatten", ([[[0] * 1000] * 1000] * 2,)),
    ("*", (2**40_000, 2**40_000)),
]


@pytest.mark.parametrize(
    ("name", "args"), WRONG, ids=[f"{n}-{i}" for i, (n, _) in enumerate(WRONG)]
)
def test_wrong_types(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        BUILTINS[name](*args)


@pytest.mark.parametrize(("name", "args"), BAD)
def test_bad_values(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, IndexError)):
        BUILTINS[name](*args)


# -- in queries --------------------------------------------------------------------------------

MIXED: list[Any] = [1, 2.5, "a", K("k"), True, NOON, ID, None, [1, 2], {"a": 1}, {1}, b"x", -3]
PREDICATES = sorted(
    name
    for name in BUILTINS
    if name.endswith("?") and name not in ("distinct?", "every?", "-differ?")
)


@pytest.mark.anyio
@pytest.mark.parametrize("name", PREDICATES)
async def test_predicates_say_yes_or_no_to_anything(name: str) -> None:
    wide = name.rpartition("/")[2] in (
        *("starts-with?", "ends-with?", "includes?", "contains?", "before?", "after?"),
        *("identical?", "bit-test?", "subset?", "superset?"),
    )
    form = f"[({name} ?c {'?x' if wide else ''})]"
    for value in MIXED:
        query = f"[:find ?i . :in ?i [[?c ?x]] :where {form}]"
        if value is None:
            assert BUILTINS["nil?"](value)
            continue
        assert await q(query, 1, [[value, value]]) in (1, None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ("[(complement even?) ?odd] [(?odd ?n)]", {1, 3}),
        ("[(clojure.core/complement odd?) ?even] [(?even ?n)]", {2}),
        ("[(vector ?n 2) ?v] [(sort ?v) ?s] [(first ?s) ?f] [(= ?f 1)]", {1}),
        ("[(get-else $ ?n :name nil) ?x]", None),
        ("[(bit-and ?n 1) ?b] [(= ?b 0)]", {2}),
        ("[(repeat ?n 1) [?x ...]]", {1, 2, 3}),
        ("[(range ?n) ?r] [(empty? ?r)]", set()),
        ("[(rest [?n]) ?r] [(empty? ?r)]", {1, 2, 3}),
        ("[(< 0 ?n 3)]", {1, 2}),
        ('[(< "a" ?n)]', set()),
        ('[(str ?n) ?s] [(<= "1" ?s "2")]', {1, 2}),
        ('[(before? #inst "2019" #inst "2020" #inst "2021")] [(> 2 ?n)]', {1}),
        ("[(sort-by :a [{:a 2} {:a 1}]) [?m]] [(get ?m :a) ?n]", {1}),
    ],
)
async def test_in_where(clauses: str, expected: set[int] | None) -> None:
    db = init_db([(n, ":n", n) for n in (1, 2, 3)])
    query = f"[:find [?n ...] :where [_ :n ?n] {clauses}]"
    if expected is None:
        with pytest.raises(QueryError, match="nil") as caught:
            await db.q(query)
        assert caught.value.error == ":query/where"
    else:
        assert set(await db.q(query)) == expected


@pytest.mark.anyio
@pytest.mark.parametrize("wait", [False, True])
async def test_functions_and_predicates_as_inputs(wait: bool) -> None:
    def twice(n: int) -> int:
        return 2 * n

    async def later(n: int) -> int:
        return 2 * n

    f = later if wait else twice
    for name in ("?f", "f", "my/f"):
        query = f"[:find [?y ...] :in {name} [?x ...] :where [({name} ?x) ?y]]"
        assert sorted(await q(query, f, [1, 2])) == [2, 4]
        query = f"[:find [?x ...] :in {name} [?x ...] :where [({name} ?x)]]"
        assert sorted(await q(query, f, [1, 2])) == [1, 2]
    register_function("my/twice", f)
    try:
        query = "[:find [?y ...] :in [?x ...] :where [(my/twice ?x) ?y] [(my/twice ?y)]]"
        assert sorted(await q(query, [1, 2])) == [2, 4]
    finally:
        unregister_function("my/twice")


# -- every name --------------------------------------------------------------------------------

ELSEWHERE = {"re-pattern", "rand", "rand-int", "rand-nth", "random-uuid", "shuffle", "complement"}


def test_every_function_has_a_case() -> None:
    cases = {case[0] for case in (*CASES, *test_builtins.CASES)}
    assert set(BUILTINS) - cases == ELSEWHERE


def _documented() -> Mapping[str, set[str]]:
    """Return the names in the tables of the reference, by heading."""
    text = (Path(__file__).parents[2] / "docs/reference/query-functions.md").read_text("utf-8")
    found: dict[str, set[str]] = {}
    for part in text.split("\n## ")[1:]:
        names = found.setdefault(part.partition("\n")[0], set())
        for line in part.splitlines():
            if line.startswith("| `"):
                cell = line.split(" | ")[0].removeprefix("| ")
                names.update(name.strip("`") for name in cell.split(" "))
    return found


def test_the_reference_names_what_there_is() -> None:
    tables = dict(_documented())
    assert tables.pop("Aggregates") == set(AGGREGATES)
    assert tables.pop("Rules") == set(BUILTIN_RULES)
    named = [name for names in tables.values() for name in names]
    assert sorted(named) == sorted({*BUILTINS, *DATABASE, "q"})


def test_the_reference_says_what_the_rules_say() -> None:
    text = (Path(__file__).parents[2] / "docs/reference/query-functions.md").read_text("utf-8")
    for name, (head, _, meaning) in BUILTIN_RULES.items():
        assert f"| `{name}` | `{head}` | {meaning} |" in text
