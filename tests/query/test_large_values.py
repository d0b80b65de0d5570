"""Values of very many elements: functions look at the clock in their midst, and move elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import datahike_async as d
from datahike_async.database import empty_db
from datahike_async.errors import QueryCanceled, QueryError, shown
from datahike_async.looks import PIECE
from datahike_async.query.builtins import size as builtins_size
from datahike_async.query.builtins.calls import _Calls
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.limits import watch
from datahike_async.query.limits.budget import Meter
from datahike_async.query.limits.watch import Elsewhere, Watch
from datahike_async.values.order import LONG, compare
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

pytestmark = pytest.mark.anyio

N = 60_000
DB = empty_db()
INTS = [(i * 7919) % N for i in range(N)]
MIXED = [i if i % 2 else str(i) for i in INTS]
TEXTS = [str(i % 1000) for i in INTS]
MAP = {i: i for i in INTS}
SET = set(INTS)
TEXT = "ab c" * (N // 4)


def key(value: Any) -> Any:
    return value


_WHOLE = "sort reverse vec set distinct dedupe frequencies shuffle rest butlast seq flatten"
# Each function of whose calls one takes as long as its argument is.
CALLS: dict[str, Any] = {
    **{f"({name} ?c)": INTS for name in _WHOLE.split()},
    "(sort ?c) mixed": MIXED,
    "(distinct ?c) texts": TEXTS,
    "(range 60000)": 0,
    "(repeat 60000 ?c)": 0,
    **{f"({name} 50000 ?c)": INTS for name in ("take", "drop-last", "take-last")},
    "(drop 5 ?c)": INTS,
    "(subvec ?c 5)": INTS,
    "(partition 2 ?c)": INTS,
    "(partition-all 2 1 ?c)": INTS[:20_000],
    "(conj ?c 1)": INTS,
    "(cons 1 ?c)": INTS,
    "(concat ?c ?c)": INTS,
    "(into #{} ?c)": INTS,
    "(interleave ?c ?c)": INTS,
    "(interpose 0 ?c)": INTS,
    "(clojure.string/join ?c)": TEXTS,
    "(pr-str ?c)": INTS,
    "(pr-str ?c) set": SET,
    "(= ?c ?c)": INTS,
    "(= ?c ?c) set": SET,
    "(< ?c ?c)": INTS,
    "(compare ?c ?c)": MIXED,
    "(contains? ?c -1)": SET,
    "(get ?c -1 0)": MAP,
    "(keys ?c)": MAP,
    "(vals ?c)": MAP,
    "(merge ?c ?c)": MAP,
    "(assoc ?c 1 2)": MAP,
    "(dissoc ?c 1)": MAP,
    "(select-keys ?c [1 2])": MAP,
    "(zipmap ?c ?c)": INTS,
    "(group-by ?f ?c)": INTS,
    "(sort-by ?f ?c)": INTS,
    "(clojure.set/map-invert ?c)": MAP,
    "(clojure.set/union ?c ?c)": SET,
    "(clojure.set/intersection ?c ?c)": SET,
    "(clojure.set/difference ?c ?c)": SET,
    "(clojure.set/subset? ?c ?c)": SET,
    "(disj ?c 1)": SET,
    "(vec ?c) set": SET,
    "(frequencies ?c) text": TEXT,
}


def asked(name: str) -> tuple[str, tuple[Any, ...]]:
    call = name[: name.rindex(")") + 1]
    return f"[:find (count ?y) . :in $ ?c ?f :where [{call} ?y]]", (DB, CALLS[name], key)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_on_a_large_value_is_looked_at_and_made_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {True: 0, False: 0}
    look, made = Watch.look, _Calls.made
    threads: list[int] = []
    within = False

    def looked(self: Watch, count: int) -> None:
        if within:
            counted[self.inside] += count
        look(self, count)

    def calling(self: _Calls, rows: Any) -> None:
        nonlocal within
        within = True
        threads.append(threading.get_ident())
        try:
            made(self, rows)
        finally:
            within = False

    monkeypatch.setattr(Watch, "look", looked)
    monkeypatch.setattr(_Calls, "made", calling)
    monkeypatch.setattr(watch, "PIECE", 1 << 12)
    monkeypatch.setattr(watch, "HERE", 1 << 13)
    query, inputs = asked(name)
    await d.q(query, *inputs)
    # Begun on the event loop, given up there, and made in a thread to its end.
    assert len(set(threads)) == 2
    assert counted[False] <= 64 * N
    assert counted[True] >= 10_000


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_on_a_large_value_notices_that_the_time_is_over(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told so at a look in its midst, it does no more than to the next look."""
    monkeypatch.setattr(watch, "PIECE", 1)
    after = 0
    made = _Calls.made
    within = False

    def calling(self: _Calls, rows: Any) -> None:
        nonlocal within
        within = True
        made(self, rows)

    def time_of(self: Meter) -> None:
        nonlocal after
        if within:
            after += 1
            raise self._over("seconds", 1.0, "more time")

    monkeypatch.setattr(_Calls, "made", calling)
    monkeypatch.setattr(Meter, "time", time_of)
    query, inputs = asked(name)
    with pytest.raises(QueryCanceled):
        await d.q(query, *inputs, timeout=60_000)
    assert after == 1


async def test_a_function_of_the_caller_is_never_called_twice_for_a_row() -> None:
    seen: list[int] = []

    def told(value: int, many: Any) -> int:
        seen.append(value)
        return len(BUILTINS["sort"](many))

    query = "[:find (count ?x) . :in $ [?x ...] ?c ?f :where [(?f ?x ?c) ?y]]"
    assert await d.q(query, DB, [1, 2, 3], MIXED, told) == 3
    assert sorted(seen) == [1, 2, 3]


async def test_a_seed_gives_the_same_chance_for_a_large_value() -> None:
    from random import Random

    query = "[:find ?y . :in $ ?c :where [(shuffle ?c) ?y]]"
    first = await d.q(query, DB, INTS, rng=Random(5))
    assert first == await d.q(query, DB, INTS, rng=Random(5))
    assert sorted(first) == sorted(INTS)
    assert first != INTS


def test_large_values_are_handled_as_small_ones_are() -> None:
    call = BUILTINS.__getitem__
    assert call("sort")(INTS) == sorted(INTS)
    assert call("sort")(TEXTS) == sorted(TEXTS)
    assert call("sort")(MIXED)[: N // 2] == sorted(x for x in MIXED if type(x) is int)
    pairs = [(i % 7, str(i)) for i in INTS]
    assert call("sort-by")(lambda pair: pair[0], pairs) == sorted(pairs, key=lambda pair: pair[0])
    assert call("dedupe")([1, 1, 1.0, True, 1, 1]) == [1, 1.0, True, 1]
    assert call("frequencies")(TEXTS) == {str(i): N // 1000 for i in range(1000)}
    assert len(call("clojure.set/union")(SET, {-1})) == N + 1
    assert call("clojure.set/difference")(SET, SET) == set()
    assert call("into")({}, list(MAP.items())) == MAP
    assert call("contains?")(ValueSet(SET), 5)
    assert not call("contains?")(ValueSet(SET), 5.0)
    assert call("get")({"a": 1, "b": 2}, "b") == 2
    assert call("take")(3, INTS) == INTS[:3]
    assert call("take-last")(3, INTS) == INTS[-3:]
    assert call("take-last")(0, INTS) == []
    assert call("last")("abc") == "c"


def test_keys_of_large_values_tell_them_apart() -> None:
    n = 2 * LONG + 1  # more than two pieces of a key
    ints = [(i * 7919) % n for i in range(n)]
    mixed, some, pairs = MIXED[:n], set(ints), {i: i for i in ints}
    values: list[Any] = [
        ints, [*ints[:-1], -1], [float(i) for i in ints], mixed, some, some | {-1}, pairs,
        {**pairs, 1: 0},
    ]  # fmt: skip
    keys, again = [*map(typed_key, values)], [*map(typed_key, values)]
    for i, a in enumerate(keys):
        for k, b in enumerate(again):
            assert (a == b) is (i == k)
    assert typed_key(tuple(mixed)) == typed_key(list(mixed))
    assert hash(typed_key(tuple(mixed))) == hash(typed_key(list(mixed)))
    assert typed_key(set(ints)) == typed_key(ValueSet(reversed(ints)))
    assert typed_key(dict(reversed(pairs.items()))) == typed_key(pairs)


def test_long_sequences_compare_as_short_ones_do() -> None:
    long = list(range(3 * LONG))
    assert compare(long, tuple(long)) == 0
    assert compare([*long, 1], long) == 1
    assert compare([*long[:-1], -1], long) == -1
    assert compare([*long[:-1], "a"], long) == 1
    assert BUILTINS["sort"]([long, [*long[:-1], 0]]) == [[*long[:-1], 0], long]


async def test_large_maps_and_sets_are_not_put_in_order() -> None:
    for value in (MAP, SET):
        with pytest.raises(QueryError, match="have no order"):
            await d.q("[:find ?y . :in $ ?c :where [(compare ?c ?c) ?y]]", DB, value)
        with pytest.raises(QueryError, match="have no order"):
            await d.q("[:find ?y . :in $ ?c :where [(vector ?c ?c) ?v] [(sort ?v) ?y]]", DB, value)


def test_what_an_error_shows_of_a_large_value_takes_no_time() -> None:
    class Counted(int):
        seen = 0

        def __repr__(self) -> str:
            Counted.seen += 1
            return "1"

    text = shown([[Counted()] * 1000] * 1000)
    assert text == ("[[" + "1, " * 100)[:159] + "…"
    assert Counted.seen < 1000
    assert shown({1: (2, 3)}) == "{1: (2, 3)}"
    assert shown("x" * 10_000) == "'" + "x" * 158 + "…"


def test_elsewhere_is_no_failure_of_what_was_called() -> None:
    assert not issubclass(Elsewhere, Exception)


async def test_few_rows_of_nested_values_are_told_apart_elsewhere() -> None:
    """A vector of vectors, each of which it holds twice, is walked as often as it is there."""
    inside: list[bool] = []
    look = Watch.look

    def looked(self: Watch, count: int) -> None:
        inside.append(self.inside)
        look(self, count)

    rules = """[[(grow ?a ?v) [(vector ?a ?a) ?v]]
                [(grow ?a ?w) (grow ?a ?v) [(vector ?v ?v) ?w]]]"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "look", looked)
        patch.setattr(builtins_size, "MAX_ITEMS", 100_000)
        with pytest.raises(QueryError, match="more than 100000 elements"):
            await d.q("[:find (count ?v) . :in $ % ?a :where (grow ?a ?v)]", DB, rules, 1)
    assert inside.count(True) > inside.count(False)


async def test_a_call_has_so_many_arguments_at_most() -> None:
    text = "[:find ?y . :where [(+ {}) ?y]]"
    assert await d.q(text.format("1 " * 4096), DB) == 4096
    with pytest.raises(QueryError, match=r"call of \+ has 4097 arguments"):
        await d.q(text.format("1 " * 4097), DB)


async def test_a_pull_of_many_attributes_is_looked_at_in_its_midst() -> None:
    count = 300
    db = d.init_db([(e, f":a{i}", i) for i in range(count) for e in (1, 2)])
    pattern = [f":a{i}" for i in range(count)]
    counts: list[int] = []
    look = Watch.look

    def looked(self: Watch, count: int) -> None:
        counts.append(count)
        look(self, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "look", looked)
        assert len((await d.pull(db, pattern, 1)) or {}) == count
        reading = sum(counts)
        counts.clear()
        assert len(await d.pull_many(db, [":a1"], [1, 2] * 5)) == 10
        few = sum(counts)
        counts.clear()
        await d.pull_many(db, pattern, [1, 2] * 5)
    assert reading > 100 * count
    # The copies of what was asked for again are large, though there are few.
    assert sum(counts) > few + 8 * 8 * count


async def test_a_map_as_input_is_bound_in_pieces() -> None:
    counts: list[int] = []
    look = Watch.look

    def looked(self: Watch, count: int) -> None:
        counts.append(count)
        look(self, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "look", looked)
        query = "[:find (count ?x) . :in $ [[?x ?y]]]"
        assert await d.q(query, DB, list(MAP.items())) == N
        pairs = sum(counts)
        assert await d.q(query, DB, MAP) == N
    # What there is more to do than with pairs is looked at, too.
    assert sum(counts) - pairs >= pairs + 3 * N


async def test_an_iterator_is_gone_over_on_its_thread_and_others_have_their_turns() -> None:
    threads: set[int] = set()
    others = at_the_end = 0

    def values() -> Iterator[int]:
        nonlocal at_the_end
        for i in range(300_000):
            threads.add(threading.get_ident())
            yield i
        at_the_end = others

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        assert await d.q("[:find (count ?x) . :in [?x ...]]", values()) == 300_000
        tasks.cancel_scope.cancel()
    assert threads == {threading.get_ident()}
    assert at_the_end > 1


@pytest.mark.parametrize("count", [3, PIECE + 3])
async def test_an_array_is_a_collection_of_its_values(count: int) -> None:
    rows = np.arange(2 * count).reshape(count, 2)
    assert await d.q("[:find (sum ?x) . :in [?x ...]]", rows[:, 0]) == sum(range(0, 2 * count, 2))
    assert await d.q("[:find (sum ?y) . :in [[_ ?y]]]", rows) == sum(range(1, 2 * count, 2))
    with pytest.raises(d.QueryError, match="Cannot bind value 7"):
        await d.q("[:find ?x :in [?x ...]]", np.array(7))


async def test_many_predicates_of_having_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    db = d.init_db([(1, ":n", 1), (2, ":n", 2)])
    clauses = " ".join(f"[(> (count ?e) -{i})]" for i in range(200))
    paused = 0
    pause = Watch.pause

    async def counted(self: Watch) -> None:
        nonlocal paused
        paused += 1
        await pause(self)

    monkeypatch.setattr(Watch, "pause", counted)
    found = await d.q(f"[:find ?n (count ?e) :where [?e :n ?n] :having {clauses}]", db)
    assert sorted(found) == [(1, 1), (2, 1)]
    assert paused >= 200
