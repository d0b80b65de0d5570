"""Every operator looks at the clock between pieces; what is too much for the event loop moves."""

from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.database import init_db
from datahike_async.edn import read
from datahike_async.errors import EdnError, QueryCanceled
from datahike_async.looks import PIECE, SMALL, STEP, looking, pieces, walked
from datahike_async.query.answer import shaping
from datahike_async.query.builtins import calls
from datahike_async.query.language import where
from datahike_async.query.language.parse import parse_query
from datahike_async.query.language.where import canonical, parse_clauses
from datahike_async.query.limits import watch
from datahike_async.query.limits.budget import Meter
from datahike_async.query.limits.watch import HERE, Elsewhere, Watch
from datahike_async.query.planning import walk

pytestmark = pytest.mark.anyio

N = 1200
REFS = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
DB = init_db(
    [(e, ":n", e * 7919 % N) for e in range(1, N + 1)]
    + [(e, ":k", e % 3) for e in range(1, N + 1)]
    + [(e, ":s", f"name {e % 97}") for e in range(1, N + 1)]
    + [(e, ":f", e * m % N + 1) for e in range(1, N + 1) for m in (31, 17)],
    {":f": REFS},
)
MANY = list(range(150_000))
RULES = """[[(reach ?a ?b) [?a :f ?b]] [(reach ?a ?b) [?a :f ?c] (reach ?c ?b)]
            [(two ?a ?b) [?a :k ?x] [?b :k ?x]]
            [(apart ?a ?b) [?a :k ?x] [?b :k ?x]]
            [(apart ?a ?b) (apart ?a ?c) [?c :f ?b] [?a :k 5]]]"""
PAIRS = "[?a :k ?x] [?b :k ?x]"

# What it is, the query, its inputs, and the least that its looks should count.
OPERATORS: dict[str, tuple[str, list[Any], int]] = {
    "comparison of a product": (
        "[:find (count ?a) . :where [?a :n ?x] [?b :n ?y] [(< ?x ?y)]]",
        [],
        N * N,
    ),
    "join": (f"[:find (count ?a) . :with ?b :where {PAIRS}]", [], N * N // 3),
    "product": ("[:find ?a ?b :where [?a :n] [?b :k]]", [], N * N),
    "order": (f"[:find ?a ?b :where {PAIRS} :order-by [?b ?a]]", [], 8 * N * N // 3),
    "groups": (f"[:find ?a (sum ?y) :with ?b :where {PAIRS} [?b :n ?y]]", [], N * N // 3),
    "negation": (f"[:find (count ?a) . :with ?b :where {PAIRS} (not [?a :f ?b])]", [], N * N // 3),
    "or": (
        f"[:find (count ?a) . :with ?b :where {PAIRS} (or-join [?a ?b] [?a :f ?b] [?b :f ?a])]",
        [],
        N * N // 20,
    ),
    "rule": ("[:find (count ?a) . :with ?b :in $ % :where (two ?a ?b)]", [RULES], N * N // 3),
    "closure": ("[:find (count ?a) . :with ?b :in $ % :where (reach ?a ?b)]", [RULES], N * N // 8),
    "fixpoint": ("[:find (count ?a) . :with ?b :in $ % :where (apart ?a ?b)]", [RULES], N * N // 3),
    "function on columns": (
        f"[:find (count ?z) . :with ?a ?b :where {PAIRS} [(+ ?a ?b) ?z]]",
        [],
        N * N // 3,
    ),
    "an input of many": ("[:find (count ?x) . :in $ [?x ...]]", [MANY], len(MANY)),
    "a relation of many": (
        "[:find (count ?x) . :in $ [[?x ?y]]]",
        [[(i, str(i)) for i in MANY]],
        len(MANY),
    ),
    "a source of tuples": (
        "[:find (count ?x) . :in $ $b :where [$b ?x ?y]]",
        [[(i, i * 1.5) for i in MANY]],
        len(MANY),
    ),
    "values of any type": (
        "[:find (count ?x) . :in $ [?x ...]]",
        [[i if i % 2 else str(i) for i in MANY]],
        len(MANY),
    ),
    "a nested pull": (
        "[:find (pull ?a [* {:f [:n {:f [:n]}]}]) :where [?a :k 1]]",
        [],
        N,
    ),
    "a long text": (
        "[:find ?a :where [?a :n ?x] " + " ".join(f"[(not= ?x {i})]" for i in range(3000)) + "]",
        [],
        3000,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
async def test_every_operator_is_done_in_pieces(
    name: str, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """Of all that is done something is looked at, and never more than a piece at a time."""
    query, inputs, least = OPERATORS[name]
    counts: list[int] = []
    look = Watch.look

    def counted(self: Watch, count: int) -> None:
        counts.append(count)
        look(self, count)

    monkeypatch.setattr(Watch, "look", counted)
    await d.q(query, DB, *inputs)
    assert sum(counts) >= least
    # Sorting a bucket counts four for each value, and a bucket is about half a piece.
    assert max(counts) <= 4 * PIECE


@pytest.mark.parametrize("name", OPERATORS)
async def test_every_operator_notices_that_its_time_is_over(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told so at a look in its midst, it does no more than to the next look."""
    query, inputs, _ = OPERATORS[name]
    monkeypatch.setattr(watch, "PIECE", 1)
    looks, after = 0, 0

    def time_of(self: Meter) -> None:
        nonlocal looks, after
        looks += 1
        if looks > 3:
            after += 1
            raise self._over("seconds", 1.0, "more time")

    monkeypatch.setattr(Meter, "time", time_of)
    with pytest.raises(QueryCanceled) as caught:
        await d.q(query, DB, *inputs, timeout=60_000)
    assert caught.value.error == ":query/canceled"
    assert after == 1


async def test_a_piece_that_is_too_much_begins_anew_in_a_thread() -> None:
    class Lent:
        lent = 0

        async def pause(self) -> None:
            pass

        async def in_thread(self, make: Any) -> Any:
            self.lent += 1
            return await make()

        def check(self) -> None:
            pass

    host = Lent()
    own = Watch(Meter(), host)
    began = 0

    def work(count: int) -> int:
        nonlocal began
        began += 1
        return sum(stop - start for start, stop in pieces(count))

    with own:
        assert await own.run(0, work, SMALL * 4) == SMALL * 4
        assert (began, host.lent) == (1, 0)
        assert await own.run(0, work, 20 * PIECE) == 20 * PIECE
        assert (began, host.lent) == (3, 1)
        assert sum(walked([1] * 1000)) == 1000
    assert looking.get() is None
    # Outside of such a piece it cannot begin anew, so it goes on.
    with own:
        assert work(20 * PIECE) == 20 * PIECE
    assert not isinstance(Elsewhere(), Exception)


async def test_the_time_of_patterns_ends_with_the_query() -> None:
    query = '[:find ?s . :in $ [?s ...] :where [(re-find "(a|aa)+$" ?s)]]'
    start = time.monotonic()
    with pytest.raises(QueryCanceled, match="timeout of 50 ms"):
        await d.q(query, DB, ["a" * 60 + f"b{i}" for i in range(300)], timeout=50)
    # A clause's own second would be over later; nothing but that is told apart here.
    assert time.monotonic() - start < 0.9


async def test_cancelling_ends_a_query_amid_an_operator() -> None:
    query = "[:find (count ?a) . :with ?b ?c :where [?a :k ?x] [?b :k ?x] [?c :k ?x]]"
    with anyio.move_on_after(0.05) as scope:
        await d.q(query, DB, budget={"rows": 10**9, "bytes": 10**12})
    assert scope.cancelled_caught


# -- long conjunctions -------------------------------------------------------------------------


def _chain(count: int) -> str:
    links = " ".join(f"[?a{i} :f ?a{i + 1}]" for i in range(count))
    return f"[:find ?a0 :where [?a0 :n -5] {links}]"


def _calls(count: int) -> str:
    return (
        "[:find ?b0 :where [?a :n ?b0] "
        + " ".join(f"[(inc ?b{i}) ?b{i + 1}]" for i in range(count))
        + "]"
    )


def _star(count: int) -> str:
    return "[:find ?a :where [?a :n 5] " + " ".join(f"[?a :f ?b{i}]" for i in range(count)) + "]"


def _ors(count: int) -> str:
    return (
        "[:find ?a :where [?a :n 5] "
        + " ".join(f"(or [?a :f ?b{i}] [?a :k ?b{i}])" for i in range(count))
        + "]"
    )


@pytest.mark.parametrize("make", [_chain, _calls, _star, _ors])
async def test_planning_a_long_conjunction_takes_near_linear_steps(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    considered = 0
    push, extended = walk.Walk._consider, walk.extended

    def counted(self: Any, i: int) -> None:
        nonlocal considered
        considered += 1
        push(self, i)

    def joined(near: Any, source: Any) -> Any:
        nonlocal considered
        considered += 1 + sum(len(values) for _, values in near)
        return extended(near, source)

    monkeypatch.setattr(walk.Walk, "_consider", counted)
    monkeypatch.setattr(walk, "extended", joined)
    steps = []
    for count in (200, 800):
        considered = 0
        await d.explain(make(count), DB)
        steps.append(considered)
    # Four times the clauses: some more than four times the steps, where all pairs were sixteen.
    assert steps[1] < 6 * steps[0]
    assert steps[1] < 20 * 800


async def test_checking_a_long_conjunction_takes_near_linear_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datahike_async.query.language.check import Checker

    asked = 0
    ready = Checker._ready

    def counted(self: Any, *args: Any) -> bool:
        nonlocal asked
        asked += 1
        return ready(self, *args)

    monkeypatch.setattr(Checker, "_ready", counted)
    names = [f"?v{1000 - i:04}" for i in range(301)]
    where = " ".join(f"[(inc {a}) {b}]" for a, b in pairwise(names))
    assert await d.q(f"[:find {names[-1]} . :in $ {names[0]} :where {where}]", DB, 1) == 301
    assert asked < 1500


def test_values_that_double_are_looked_at_once_wherever_they_are() -> None:
    from datahike_async.query.builtins.size import size_of

    value: Any = (1, 2)
    for _ in range(17):
        value = (value, value)
    assert size_of(value) > 40 * 2**17
    for _ in range(40):
        value = (value, value)
    with pytest.raises(ValueError, match="elements"):
        size_of(value)


async def test_bytes_have_a_budget_by_default_and_functions_count_in_it() -> None:
    assert d.Budget().bytes == 2**30
    query = "[:find (count ?y) . :in $ [?x ...] :where [(range 0 1000) ?r] [(conj ?r ?x) ?y]]"
    with pytest.raises(QueryCanceled, match="bytes"):
        await d.q(query, DB, list(range(300)), budget={"bytes": 5_000_000})


async def test_an_open_chain_keeps_no_more_than_its_ends() -> None:
    """Every entity has two links on: without forgetting the middle, rows double at every step."""
    links = " ".join(f"[?a{i} :f ?a{i + 1}]" for i in range(30))
    found = await d.q(f"[:find ?a30 :where [?a0 :n 5] {links}]", DB, budget={"rows": 20 * N})
    assert 0 < len(found) <= N


@pytest.mark.parametrize("what", ["query", "rules", "pull"])
async def test_texts_of_many_megabytes_are_refused_before_they_are_read(what: str) -> None:
    blank = " " * 10_000_000
    with pytest.raises(EdnError, match="limit is 1000000"):
        if what == "query":
            await d.q(f"[:find ?a :where {blank} [?a :n]]", DB)
        elif what == "rules":
            await d.q("[:find ?a :in $ % :where (r ?a)]", DB, f"[[(r ?a) {blank} [?a :n]]]")
        else:
            await d.pull(DB, f"[:n {blank}]", 1)


async def test_levels_of_clauses_are_put_in_order_in_steps_that_grow_with_their_text() -> None:
    """Each clause is put down once, and not once for each clause that it is in."""

    def counted(depth: int) -> int:
        inner = "[?e :n 1] [?e :k 2]"
        for i in range(depth):
            inner = f"(or (and {inner} [?e :n {i}]) [?e :k {i}])"
        text = parse_clauses(read(f"[{inner}]"))
        said = 0

        def counting(clause: Any) -> str:
            nonlocal said
            made = repr(clause)
            said += len(made)
            return made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, "_text", counting)
            canonical(text)
        return said

    assert counted(80) < 2.5 * counted(40)


async def most_between_turns(text: str) -> int:
    """Return the most that a query counts for on the event loop from one turn to the next."""
    most = here = 0
    look, pause = Watch.look, Watch.pause

    def looked(self: Watch, count: int) -> None:
        nonlocal most, here
        if not self.inside:
            here += count
            most = max(most, here)
        try:
            look(self, count)
        except Elsewhere:
            here = 0
            raise

    async def paused(self: Watch) -> None:
        nonlocal here
        here = 0
        await pause(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "look", looked)
        patch.setattr(Watch, "pause", paused)
        patch.setattr(watch, "_STRETCH", 0.0)
        assert await d.q(text, DB)
    return most


async def test_clauses_in_clauses_are_checked_and_carried_out_in_turns() -> None:
    def tree(depth: int) -> str:
        if not depth:
            return "[?e :n 0]"
        return f"(or (and {tree(depth - 1)} [?e :k {depth}]) {tree(depth - 1)})"

    most = await most_between_turns(f"[:find ?e :where {tree(10)}]")
    assert most < 8 * HERE


async def test_pulls_beside_one_another_take_turns() -> None:
    pulls = "(pull ?e [*]) " * 60
    most = await most_between_turns(f"[:find {pulls} :where [?e :k 1]]")
    assert most < 4 * HERE


async def test_a_wide_answer_of_maps_is_made_elsewhere() -> None:
    text = f"[:find {'?e ' * 600} :keys {' '.join(f'k{i}' for i in range(600))} :where [?e :k 1]]"
    threads: list[int] = []
    make = shaping._maps

    def made(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return make(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shaping, "_maps", made)
        assert len(await d.q(text, DB)) == N // 3
    assert threads
    assert threading.get_ident() not in threads


async def test_the_arguments_of_a_long_call_are_put_down_for_few_rows_at_once() -> None:
    def told(*args: Any) -> int:
        return len(args)

    seen: list[int] = []
    made = calls._Calls.made

    def counting(self: Any, rows: list[Any]) -> None:
        seen.append(sum(map(len, rows)))
        made(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls._Calls, "made", counting)
        text = f"[:find (count ?e) . :in $ ?f :where [?e :n ?x] [(?f ?x {'1 ' * 2000}) ?y]]"
        assert await d.q(text, DB, told) == N
    assert max(seen) <= 20_000


@pytest.mark.parametrize(
    "text",
    [
        f"[:find {'?e ' * 600} :keys {' '.join(f'k{i}' for i in range(600))} :where [?e :n]]",
        f"[:find ?e :in $ {' '.join(f'?i{i}' for i in range(600))} :where [?e :n]]",
    ],
    ids=["keys", "inputs"],
)
def test_names_that_should_differ_are_not_each_compared_with_all_others(text: str) -> None:
    searched = 0

    def told(frame: Any, event: str, arg: Any) -> None:
        nonlocal searched
        if event == "c_call" and isinstance(getattr(arg, "__self__", None), list):
            searched += arg.__name__ in ("count", "index")

    sys.setprofile(told)
    try:
        parse_query(text)
    finally:
        sys.setprofile(None)
    assert searched < 10


@pytest.mark.parametrize("text", ["[" + "[1 2 3] " * 100 + "]", "[" + "1 " * 400 + "]"])
def test_reading_counts_every_element_for_what_it_takes(text: str) -> None:
    counted = 0

    def look(count: int) -> None:
        nonlocal counted
        counted += count

    token = looking.set(look)
    try:
        read(text)
    finally:
        looking.reset(token)
    assert counted >= 400 * 4 * STEP


async def test_a_list_that_holds_one_list_again_and_again_is_stopped_in_time() -> None:
    value: list[Any] = [1]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(QueryCanceled):
        await d.q("[:find ?x :in ?x]", value, timeout=50)
