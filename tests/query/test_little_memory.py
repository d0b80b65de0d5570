"""Attributes that memory has no room for: the same answers, part by part, or an error."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import datahike_async as d
from datahike_async.edn.types import Symbol
from datahike_async.index.columns import Column
from datahike_async.index.protocol import Order
from datahike_async.index.source import fetched
from datahike_async.memory import Memory, memory_of
from datahike_async.query.limits.budget import Budget, Meter
from datahike_async.query.reading import parts
from datahike_async.query.relations.relation import Relation
from datahike_async.query.running import gather
from datahike_async.query.running.gather import Gathered
from datahike_async.values.types import typed_key

pytestmark = pytest.mark.anyio

MIB = 2**20
COUNT = 7_000
LIMIT = MIB
TEXTS = ":text", ":name"


def people() -> list[dict[str, Any]]:
    return [
        {
            ":db/id": -1 - i,
            ":id": i,
            ":name": f"name {i % 9}",
            ":age": i % 90,
            ":score": (i % 700) * 1.1,
            ":text": f"text {i * 7919 % COUNT:05} of someone",
            ":boss": -1 - (i * 31 % COUNT),
            ":tag": [i % 5, 7],
        }
        for i in range(COUNT)
    ]


SCHEMA = [
    {
        ":db/ident": name,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": f":db.cardinality/{'many' if name == ':tag' else 'one'}",
        **({":db/unique": ":db.unique/identity"} if name == ":id" else {}),
    }
    for name, kind in (
        (":id", "long"),
        (":name", "string"),
        (":age", "long"),
        (":score", "double"),
        (":text", "string"),
        (":boss", "ref"),
        (":tag", "long"),
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people") / "db"


def store(folder: Path) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(folder)}}


@pytest.fixture
async def limited(folder: Path) -> AsyncIterator[Any]:
    """A database that is opened anew, with little memory; some of it lies in the memtable."""
    if not folder.exists():
        async with d.connect(store(folder), create=True, initial_tx=SCHEMA) as conn:
            await conn.transact(people())
            await conn.transact([{":db/id": [":id", 5], ":age": 77, ":text": "text new"}])
    async with d.connect(store(folder), memory_limit=LIMIT) as conn:
        yield conn.db()


@pytest.fixture
def whole(limited: Any) -> Any:
    """The same with all the memory there is."""
    snapshot = limited.snapshot
    trees = snapshot.trees
    free = type(trees)(
        trees.factory,
        trees.config,
        trees.current,
        trees.temporal,
        trees.max_eid,
        trees.max_tx,
        memory_of(None),
    )
    view = type(limited.view)(type(snapshot).over(snapshot, free))
    view.snapshot.mem, view.snapshot.n, view.snapshot.m = snapshot.mem, snapshot.n, snapshot.m
    return d.Database(view)


QUERIES = {
    "q4": '[:find ?e ?a ?s :where [?e :name "name 3"] [?e :age ?a] [?e :score ?s] [?e :tag 2]]',
    "count": "[:find (count ?e) . :where [?e :text]]",
    "group": "[:find ?n (sum ?a) (count ?e) (avg ?s) (min ?t) (max ?s)"
    " :where [?e :name ?n] [?e :age ?a] [?e :score ?s] [?e :text ?t]]",
    "sums of doubles": "[:find ?n (sum ?s) :with ?e :where [?e :score ?s] [?e :name ?n]]",
    "distinct values": "[:find (sum ?a) (count ?a) :where [?e :age ?a]]",
    "of all values": "[:find ?n (median ?s) :with ?e :where [?e :name ?n] [?e :score ?s]]",
    "having": "[:find ?a (count ?e) :where [?e :age ?a] :having [(> (count ?e) 66)]]",
    "prefix": '[:find ?e ?t :where [?e :text ?t] [(clojure.string/starts-with? ?t "text 012")]]',
    "pattern": '[:find (count ?e) . :where [?e :text ?t] [(re-find "5{2}.*some" ?t)]]',
    "not": '[:find (count ?e) . :where [?e :text ?t] (not [?e :name "name 1"])]',
    "or": "[:find (count ?e) . :where (or [?e :age 3] [?e :score 7.7])]",
    "refs": "[:find (count ?e) . :where [?e :boss ?b] [?b :age 3]]",
    "many": "[:find ?g (count ?e) :where [?e :tag ?g]]",
    "values": '[:find ?f :where [?e :text "text 00007 of someone"] [?e :age ?a] [?f :age ?a]]',
    "absent": "[:find (count ?e) . :where [?e :text ?t] [(get-else $ ?e :age 0) ?a] [(< ?a 9)]]",
    "any attribute": "[:find ?a (count ?e) :where [?e ?a]]",
    "history of one": "[:find ?a :in $ ?i :where [?e :id ?i] [?e :age ?a]]",
    "rule": "[:find (count ?e) . :in $ % :where (old ?e)]",
}
RULES = "[[(old ?e) [?e :age ?a] [(> ?a 80)]]]"


def bag(found: Any) -> Any:
    if not hasattr(found, "__len__"):
        return found
    return sorted((typed_key(tuple(row)) for row in found), key=repr)


@pytest.mark.parametrize(
    ("name", "past"),
    [*((name, False) for name in QUERIES), *((name, True) for name in ("q4", "group", "prefix"))],
)
async def test_answers_are_those_of_much_memory(
    limited: Any, whole: Any, name: str, past: bool
) -> None:
    inputs = {"history of one": [5], "rule": [RULES]}.get(name, [])
    at = limited.max_tx - 1
    ours, theirs = (limited.as_of(at), whole.as_of(at)) if past else (limited, whole)
    found = await d.q(QUERIES[name], ours, *inputs)
    assert bag(found) == bag(await d.q(QUERIES[name], theirs, *inputs))
    assert bag(found) not in (None, [])


@pytest.mark.parametrize("name", ["q4", "group", "prefix", "pattern", "any attribute"])
async def test_what_is_read_in_parts_is_not_kept(limited: Any, whole: Any, name: str) -> None:
    peaks = []
    for db in (limited, limited, whole):
        tracemalloc.start()
        await d.q(QUERIES[name], db)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert limited.snapshot.trees.columns.nbytes <= memory_of(LIMIT).columns
    # The first time things are imported and made that stay.
    assert peaks[1] <= LIMIT
    assert 2 * peaks[1] < peaks[2]


async def test_each_node_is_read_once(limited: Any) -> None:
    """Parts of attributes that are joined by entity are of the same entities.

    Where one ends amid a leaf, the next reads that again.
    """
    plan = await limited.explain(QUERIES["group"], analyze=True)
    assert all("parts" in step["operator"] for step in plan.data())
    alone = 0
    for name in (":name", ":age", ":score", ":text"):
        one = await limited.explain(f"[:find (count ?e) . :where [?e {name}]]", analyze=True)
        alone += one.data()[0]["nodes"]
    # A leaf at each end, of each attribute, and no more.
    assert sum(step["nodes"] for step in plan.data()) <= 2 * alone + 2 * 4


async def test_what_cannot_be_less_is_an_error_that_says_what_to_do(limited: Any) -> None:
    for query in (
        "[:find ?e ?t :where [?e :text ?t]]",
        "[:find ?t ?s :where [?e :text ?t] [?e :score ?s]]",
    ):
        with pytest.raises(d.QueryCanceled, match="set a larger :memory-limit") as caught:
            await d.q(query, limited)
        assert caught.value.data[":budget"] == "memory"
        assert caught.value.data[":clause"] in ("[?e :text ?t]", "[?e :score ?s]")


async def test_what_is_too_much_has_not_taken_several_times_that(limited: Any) -> None:
    """Rows of parts that cannot be the same are not compared, only kept until they are too many."""
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        with pytest.raises(d.QueryCanceled) as caught:
            await d.q("[:find ?e ?a ?v :where [?e ?a ?v]]", limited)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert caught.value.data[":clause"] == "[?e ?a ?v]"
    assert peaks[1] <= LIMIT // 2


E, T = Symbol("?e"), Symbol("?t")


def part(*rows: tuple[int, str]) -> Relation:
    es, ts = zip(*rows, strict=True)
    return Relation({E: Column.of(es), T: Column.of(ts)}, len(rows))


@pytest.mark.parametrize("apart", [(E,), ()])
def test_a_part_whose_gathering_begins_anew_is_gathered_once(
    apart: tuple[Symbol, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_FEW", 0)
    gathered = Gathered(Meter(Budget()), apart)
    gathered.add(part((1, "a"), (2, "b")))
    with monkeypatch.context() as patch:
        patch.setattr(Meter, "holds", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gathered.add(part((3, "c")))
    gathered.add(part((3, "c")))
    found = gathered.relation([E, T])
    pairs = zip(found.columns[E].tolist(), found.columns[T].tolist(), strict=True)
    assert sorted(pairs) == [(1, "a"), (2, "b"), (3, "c")]


async def test_there_is_room_for_what_is_small(limited: Any) -> None:
    """Then columns are put together and kept, as they are where memory has no limit."""
    operators = {}
    for memory in (memory_of(LIMIT), memory_of(64 * MIB)):
        limited.snapshot.trees.memory = memory
        plan = await limited.explain(QUERIES["count"], analyze=True)
        operators[memory.columns] = plan.data()[0]["operator"]
    assert list(operators.values()) == ["AEVT parts", "AEVT column"]


async def test_entities_among_values_of_all_kinds_are_found() -> None:
    names = [(e, ":id", e - 1 if e % 2 else f"name {e}") for e in range(2, 300)]
    small, large = (d.init_db(names) for _ in range(2))
    small.snapshot.trees.memory = Memory(None, 2, 2**30)
    query = "[:find ?e ?v ?f :where [?e :id ?v] [?v ?w ?f]]"
    found = await d.q(query, small)
    assert bag(found) == bag(await d.q(query, large))
    assert (5, 4, "name 4") in set(found)


async def test_the_nodes_of_several_parts_come_in_one_wave(limited: Any, whole: Any) -> None:
    view = limited.view
    a = view.schema.by_key[":text"].id
    limits = await parts.ranges(view, a)
    source: Any = view.snapshot.trees.current[Order.AEVT].source
    # Where a leaf that two groups of parts have in common stays.
    source.cache.limit = 4 * MIB
    waves: list[int] = []
    token = fetched.set(waves)
    try:
        found = await parts.selected(view, a, lambda _: None, None)
    finally:
        fetched.reset(token)
    assert found.v.tolist() == (await whole.datoms("aevt", ":text")).columns().v.tolist()
    leaves = sum(waves)
    assert min(leaves, len(limits)) >= 12
    # One, two, and then four parts at once.
    assert len(waves) <= len(limits) // 4 + 3
    assert max(waves) <= 6
