"""Query text from strangers: it reaches no more than is registered, and its work has bounds."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import Any

import pytest

from datahike_async import api
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import DatahikeError, QueryCanceled, QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.api import q
from datahike_async.query.builtins.regexes import MAX_PATTERN, PATTERNS
from datahike_async.query.builtins.size import MAX_ITEMS, MAX_TEXT
from datahike_async.query.builtins.supply import Supply, TooSlow
from datahike_async.query.builtins.table import BUILTINS

pytestmark = pytest.mark.anyio

NAMES = [
    "eval",
    "exec",
    "open",
    "compile",
    "getattr",
    "__import__",
    "__class__",
    "__builtins__",
    "builtins/eval",
    "builtins.eval",
    "clojure.core/eval",
    "clojure.core/clojure.core/str",
    "os/system",
    "os.system",
    "os/path.join",
    "subprocess/run",
    ".method",
    ".upper",
    ".__class__",
    ".__init__",
    "str.upper",
    "str/upper",
    "datahike_async/connect",
    "datahike_async.query.builtins.table/BUILTINS",
    "clojure.java.shell/sh",
    "slurp",
    "spit",
    "resolve",
    "load-string",
    "read-string",
    "java.lang.System/exit",
    "System/exit",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clause", ["[({} ?x) ?y]", "[({} ?x)] [(str ?x) ?y]"])
async def test_names_reach_nothing(name: str, clause: str) -> None:
    with pytest.raises(DatahikeError) as caught:
        await q(f"[:find ?y . :in ?x :where {clause.format(name)}]", "true")
    assert isinstance(caught.value, QueryError)
    # As data a symbol is the same name.
    with pytest.raises(QueryError):
        form = [[Symbol(name), Symbol("?x")], Symbol("?y")]
        query = {":find": [Symbol("?y")], ":in": [Symbol("?x")], ":where": [form]}
        await q(query, "true")


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_aggregates_reach_nothing(name: str) -> None:
    with pytest.raises(QueryError):
        await q(f"[:find ({name} ?x) . :in [?x ...]]", ["true"])
    with pytest.raises(QueryError):
        await q(f"[:find (aggregate {name} ?x) . :in [?x ...]]", ["true"])


@pytest.mark.parametrize("given", ["os/system", "str", "__class__", 5, Keyword("str"), b"str"])
async def test_a_value_is_no_function(given: Any) -> None:
    for where in ("[(?f ?x) ?y]", "[(?f ?x)] [(str ?x) ?y]"):
        with pytest.raises(QueryError) as caught:
            await q(f"[:find ?y . :in ?f ?x :where {where}]", given, "true")
        assert caught.value.error == ":query/where"
        # The same bound row by row.
        with pytest.raises(QueryError):
            await q(f"[:find ?y . :in [?f ...] ?x :where {where}]", [given, "a"], "true")
    with pytest.raises(QueryError):
        await q("[:find (aggregate ?f ?x) . :in ?f [?x ...]]", given, ["true"])


async def test_a_symbol_as_a_value_names_registered_functions_alone() -> None:
    query = "[:find ?y . :in ?f ?x :where [(?f ?x) ?y]]"
    assert await q(query, Symbol("str"), 5) == "5"
    with pytest.raises(QueryError):
        await q(query, Symbol("os/system"), "true")
    register_function("os/system", lambda text: f"told {text}")
    try:
        assert await q(query, Symbol("os/system"), "true") == "told true"
    finally:
        unregister_function("os/system")


async def test_attributes_of_what_was_given_are_out_of_reach() -> None:
    for name in ("path", "?m.path", ".-path", "?m/path"):
        with pytest.raises(QueryError):
            await q(f'[:find ?y . :in ?m :where [({name} ?m "x") ?y]]', os)


# -- patterns ----------------------------------------------------------------------------------

# Each needs exponential or cubic time, on forty characters or a few thousand.
SLOW = [
    (r"(a|aa)+$", "a" * 60 + "b"),
    (r"(?:(a+)+)+\1$", "a" * 60 + "b"),
    (r"(.*?,){40}P", "1," * 4000),
]


@pytest.mark.parametrize(("pattern", "text"), SLOW)
@pytest.mark.parametrize("ask", [q, api.q], ids=["here", "in a thread"])
async def test_slow_patterns_are_stopped_over_all_rows(pattern: str, text: str, ask: Any) -> None:
    query = "[:find ?n :in ?p [[?n ?s]] :where [(re-find ?p ?s)]]"
    rows = [(n, f"{text}{n}") for n in range(300)]
    with pytest.raises(QueryCanceled, match=r"patterns.*budget of 1 s") as caught:
        await ask(query, pattern, rows)
    assert caught.value.error == ":query/canceled"
    assert caught.value.data[":budget"] == "patterns"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("re-find", ("{p}", "{s}")),
        ("re-matches", ("{p}", "{s}")),
        ("re-seq", ("{p}", "{s}")),
        ("clojure.string/split", ("{s}", "{p}")),
        ("clojure.string/replace", ("{s}", "{p}", "")),
        ("clojure.string/replace-first", ("{s}", "{p}", "")),
    ],
)
def test_every_function_of_patterns_is_stopped(name: str, args: tuple[str, ...]) -> None:
    pattern = BUILTINS["re-pattern"](r"(x|xx)+$")
    function = PATTERNS[name].handed(Supply(seconds=0.05))  # type: ignore[attr-defined]
    with pytest.raises(QueryCanceled, match=r"budget of 0\.05 s"):
        function(*({"{p}": pattern, "{s}": "x" * 60 + "b"}.get(a, a) for a in args))


def test_patterns_take_turns_on_the_event_loop() -> None:
    def match(timeout: float, concurrent: bool) -> tuple[float, bool]:
        return timeout, concurrent

    def late(timeout: float, concurrent: bool) -> None:
        raise TimeoutError

    supply = Supply(turns=True)
    for _ in range(3):
        supply.here()
        timeout, concurrent = supply.run(match)
        assert timeout < 0.1
        assert not concurrent
        with pytest.raises(TooSlow):
            supply.run(late)
        supply.elsewhere()
        timeout, concurrent = supply.run(match)
        assert timeout > 0.5
        assert concurrent
    with pytest.raises(QueryCanceled):
        supply.run(late)


def test_all_functions_of_patterns_are_looked_at() -> None:
    assert len(PATTERNS) == 7


async def test_slow_patterns_in_a_rule_have_one_budget() -> None:
    rules = """[[(r ?x ?s) [(even? ?x)] [(re-find "(x|xx)+$" ?s)]]
                [(r ?x ?s) [(odd? ?x)] [(re-find "(x|xx)+$" ?s)]]]"""
    query = "[:find ?x ?s :in % [[?x ?s]] :where (r ?x ?s)]"
    with pytest.raises(QueryCanceled, match="patterns"):
        await q(query, rules, [(n, "x" * 60 + str(n)) for n in range(50)])


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * (MAX_PATTERN + 1),
        "a{1000000}",
        "(?:a{200}){200}",
        "(?:(?:[ab]{50}){50}){50}",
        "(?:a{200}[)]){200}",
        "(?x)(?:a{200}#)\n){200}",
        "(?:a{200}(?#)){200}",
        "(?:a{200}[[:alpha:])][[:alpha:](]){200}",
        "(?V1)(?:a{200}[[a])]x(]){200}",
        "(?R)",
        "(a(?1)?b)",
        "(?P<n>a(?&n)?)",
        "(?P<n>a(?P>n)?)",
        "(" * 450 + ")" * 450,
        "(" * 900,
        "a{99999999999999999999}",
        "[",
        r"\L<names>",
        "(?<=a",
    ],
)
async def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(QueryError, match="pattern") as caught:
        await q("[:find ?g . :in ?p ?s :where [(re-find ?p ?s) ?g]]", pattern, "ab")
    assert caught.value.error == ":query/where"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", None),
        (r"(?:\d{1,3}\.){3}\d{1,3}", "10.0.0.255"),
        (r"(?:[a-z]{50}){100}", "abcde" * 1000),
        (r"\(?Rule\)?", "(Rule)"),
        (r"(?<year>\d{4})-(?<month>\d{2})", "2024-12"),
        (r"\p{Lu}\p{L}*", "Ärger"),
    ],
)
def test_patterns_that_are_taken(pattern: str, text: str | None) -> None:
    text = text or "0f14d0ab-9605-4a62-a9e4-5ed26688389b"
    found = BUILTINS["re-matches"](pattern, text)
    assert (found[0] if isinstance(found, tuple) else found) == text


def test_compiled_patterns_of_python() -> None:
    assert BUILTINS["re-find"](re.compile("B", re.I), "abc") == "b"
    assert BUILTINS["re-find"](re.compile("^b.c", re.M | re.S), "a\nb\nc") == "b\nc"
    with pytest.raises(TypeError):
        BUILTINS["re-find"](re.compile(b"b"), "abc")


def test_many_groups_on_a_long_text() -> None:
    pattern = "(" * 30 + "a" + ")" * 30 + "*"
    assert BUILTINS["re-find"](pattern, "aa")[0] == "aa"
    with pytest.raises(ValueError, match="groups"):
        BUILTINS["re-find"](pattern, "a" * MAX_TEXT)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("a,b,,c,,", ","), ["a", "b", "", "c"]),
        (("a,b,c", ",", 2), ["a", "b,c"]),
        (("a,b,c", ",", 1), ["a,b,c"]),
        (("a,b,,", ",", -1), ["a", "b", "", ""]),
        (("abc", ""), ["a", "b", "c"]),
        (("a1b22c", "[0-9]+"), ["a", "b", "c"]),
        (("", ","), [""]),
        ((",a", ","), ["", "a"]),
        (("a(b)", r"(\()"), ["a", "b)"]),
    ],
)
def test_split(args: tuple[Any, ...], expected: list[str]) -> None:
    assert BUILTINS["clojure.string/split"](*args) == expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [("$2$1", "xbaba"), ("\\$1", "x$1$1"), ("<$0>", "x<ab><ab>"), ("\\\\", "x\\\\"), ("", "x")],
)
def test_replacement(new: str, expected: str) -> None:
    pattern = BUILTINS["re-pattern"]("(a)(b)")
    assert BUILTINS["clojure.string/replace"]("xabab", pattern, new) == expected


def test_replacement_by_a_group_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="group"):
        BUILTINS["clojure.string/replace"]("a", BUILTINS["re-pattern"]("a"), "$1")
    with pytest.raises(ValueError, match="group"):
        BUILTINS["clojure.string/replace"]("a", BUILTINS["re-pattern"]("a"), "$")


# -- results that grow -------------------------------------------------------------------------


def _chain(call: str, start: str, times: int) -> str:
    """Return a query in which every clause feeds its result to the next."""
    names = [f"?v{i}" for i in range(times + 1)]
    steps = [f"[({call.replace('@', a)}) {b}]" for a, b in pairwise(names)]
    return f"[:find (count {names[-1]}) . :where [(ground {start}) ?v0] {' '.join(steps)}]"


@pytest.mark.parametrize(
    ("call", "start"),
    [
        ("str @ @", '"ab"'),
        ("pr-str @ @", '"ab"'),
        ("clojure.string/join @ [@ @ @]", '"ab"'),
        ('clojure.string/replace @ "a" @', '"aba"'),
        ("vector @ @", "1"),
        ("tuple @ @", "1"),
        ("hash-map @ @", '"a"'),
        ("list @ @ @", "1"),
        ("* @ @", "12345678901"),
        ("* @ @ @", "12345678901"),
    ],
)
async def test_results_that_double_are_stopped(call: str, start: str) -> None:
    with pytest.raises(QueryError):
        await q(_chain(call, start, 45))


async def test_ranges_over_many_rows_are_stopped() -> None:
    query = "[:find (count ?r) . :in [?n ...] :where [(range ?n) [?r ...]]]"
    with pytest.raises(QueryCanceled, match="results") as caught:
        await q(query, [MAX_ITEMS - n for n in range(60)])
    assert caught.value.error == ":query/canceled"


@pytest.mark.parametrize("call", ["long ?x", "quot ?x 1", "mod ?x 7", "int ?x"])
async def test_decimals_of_many_digits_become_no_ints(call: str) -> None:
    with pytest.raises(QueryError, match=r"bits|Overflow|Invalid"):
        await q(f'[:find ?y . :where [(bigdec "1e999999") ?x] [({call}) ?y]]')


async def test_errors_show_long_values_short() -> None:
    with pytest.raises(QueryError) as caught:
        await q("[:find ?y . :in ?x :where [(inc ?x) ?y]]", "a" * 100_000)
    assert len(str(caught.value)) < 1000
