"""What texts and values from strangers cost: lateness, gaps of the event loop, chosen hashes.

``python -m benchmarks guards``. Each query has a timeout of 50 ms; how much later it ends, and how
long other tasks waited meanwhile, is what counts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import anyio

import datahike_async as d
from benchmarks.measure import Figure
from benchmarks.stalls import longest_gap
from datahike_async.tables import table

ROWS = 6000
TIMEOUT = 50
LATE, GAP, RATIO = 100.0, 50.0, 3.0
CHOSEN = 100_000
PRIME = 2**61 - 1
PAIRS = "[?a :k ?x] [?b :k ?x]"
RULES = "[[(reach ?a ?b) [?a :f ?b]] [(reach ?a ?b) [?a :f ?c] (reach ?c ?b)]]"
WIDE = "pull of 5,000 attributes"
GROW = """[[(grow ?a ?v) [?a :n 1] [(vector ?a ?a) ?v]]
           [(grow ?a ?w) (grow ?a ?v) [(concat ?v ?v) ?w]]]"""
MANY = [i * 7919 % 1_000_003 for i in range(1_000_000)]
LARGE = {
    "sort": "(sort ?c)",
    "set": "(set ?c)",
    "distinct": "(distinct ?c)",
    "frequencies": "(frequencies ?c)",
    "shuffle": "(shuffle ?c)",
    "reverse": "(reverse ?c)",
    "concat": "(concat [] ?c)",
    "partition": "(partition 3 ?c)",
    "equality": "(= ?c ?c)",
    "text": "(pr-str ?c)",
    "range": "(range 1000000)",
}

QUERIES: dict[str, tuple[str, list[Any]]] = {
    "comparison": ("[:find (count ?a) . :where [?a :n ?x] [?b :n ?y] [(< ?x ?y)]]", []),
    "join": (f"[:find (count ?a) . :with ?b :where {PAIRS}]", []),
    "product": ("[:find ?a ?b :where [?a :n] [?b :k]]", []),
    "order": (f"[:find ?a ?b :where {PAIRS} :order-by [?b ?a]]", []),
    "groups": (f"[:find ?a (sum ?y) :with ?b :where {PAIRS} [?b :n ?y]]", []),
    "negation": (f"[:find (count ?a) . :with ?b :where {PAIRS} (not [?a :f ?b])]", []),
    "closure": ("[:find (count ?a) . :with ?b :in $ % :where (reach ?a ?b)]", [RULES]),
    "function by row": (f"[:find (count ?z) . :where {PAIRS} [(str ?a ?b) ?z]]", []),
    "text pattern": ('[:find (count ?a) . :where [?a :s ?s] [(re-find "(a|aa)+$" ?s)]]', []),
    "input": ("[:find (count ?x) . :in $ [?x ...]]", [list(range(300_000))]),
    "nested pull": ("[:find (pull ?a [* {:f [* {:f [* {:f [*]}]}]}]) :where [?a :n]]", []),
    "doubling vectors": ("[:find (count ?v) . :in $ % :where (grow ?a ?v)]", [GROW]),
    "100,000 arguments": (f"[:find ?y . :where [(+ {'1 ' * 100_000}) ?y]]", []),
    WIDE: (
        f"[:find (pull ?a [{' '.join(f':a{i}' for i in range(5000))}]) :where [?a :a1]]",
        [],
    ),
    "deep pull": (f"[:find (pull ?a {'[:n {:f ' * 20}[:n]{'}]' * 20}) :where [?a :n]]", []),
    "3,000 in having": (
        "[:find ?x (count ?a) :where [?a :n ?x] :having "
        + " ".join(f"[(> (count ?a) -{i})]" for i in range(3000))
        + "]",
        [],
    ),
    "large input": ("[:find (count ?x) . :in $ ?x]", [MANY]),
    "map input": ("[:find (count ?x) . :in $ [[?x ?y]]]", [dict.fromkeys(MANY[::2], 1)]),
    **{
        f"{name} of a million": (f"[:find (count ?y) . :in $ ?c :where [{call} ?y]]", [MANY])
        for name, call in LARGE.items()
    },
    "1,500 patterns": (
        "[:find ?a0 :where " + " ".join(f"[?a{i} :f ?a{i + 1}]" for i in range(1500)) + "]",
        [],
    ),
}

_RANDOM = Random(7)
VALUES: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "long": (lambda i: (i << 45) - 2**62, lambda i: _RANDOM.randrange(-(2**63), 2**63)),
    "double": (
        lambda i: (i // 32 * 2 + 1) * 2.0 ** (61 * (i % 32 - 16)),
        lambda i: _RANDOM.random(),
    ),
    "uuid": (
        lambda i: uuid.UUID(int=PRIME * (i + 1) + 7),
        lambda i: uuid.UUID(int=_RANDOM.getrandbits(128)),
    ),
    "bigint": (lambda i: PRIME * (i + 8) + 7, lambda i: _RANDOM.getrandbits(80)),
    "bigdec": (lambda i: Decimal(PRIME * (i + 8) + 7), lambda i: Decimal(_RANDOM.getrandbits(80))),
    "tuple": (
        lambda i: tuple(PRIME * (i // 8**k % 8 - 4) + 7 for k in range(6)),
        lambda i: tuple(_RANDOM.randrange(2**60) for _ in range(6)),
    ),
}

# Of these a query's input has none of its own: they are written, then grouped and counted.
STORED: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "ref": (lambda i: i << 11, lambda i: _RANDOM.randrange(1, 2**28)),
    "boolean": (lambda i: i % 2 == 0, lambda i: _RANDOM.random() < 0.5),
}


def _database() -> d.Database:
    datoms: list[Any] = []
    for e in range(1, ROWS + 1):
        datoms += [(e, ":n", e * 7919 % ROWS), (e, ":k", e % 3)]
        datoms += [(e, ":s", f"name {e % 97} {'a' * 20}b")]
        datoms += [(e, ":f", e * m % ROWS + 1) for m in (31, 17)]
    refs = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
    return d.init_db(datoms, {":f": refs})


async def _late(db: d.Database) -> list[Figure]:
    out = []
    wide = d.init_db([(1, f":a{i}", i) for i in range(5000)])
    for name, (query, inputs) in QUERIES.items():
        inputs = [wide if name == WIDE else db, *inputs]
        took = 0.0

        async def call(query: str = query, inputs: Sequence[Any] = inputs) -> None:
            nonlocal took
            start = time.perf_counter()
            try:
                await d.q(query, *inputs, timeout=TIMEOUT)
            except (d.QueryCanceled, d.QueryError):
                took = (time.perf_counter() - start) * 1e3

        gap, _ = await longest_gap(call)
        out.append(Figure(f"{name}: late by", "ms", max(took - TIMEOUT, 0.0), LATE))
        out.append(Figure(f"{name}: longest gap", "ms", gap, GAP))
    return out


async def _chosen() -> list[Figure]:
    out = []
    for name, makers in VALUES.items():
        took = []
        for make in makers:
            values = [make(i) for i in range(CHOSEN)]
            start = time.perf_counter()
            await d.q(
                "[:find (count ?u) . :in [?u ...] [[?u ?w]]]", values, [(v, 1) for v in values]
            )
            took.append(time.perf_counter() - start)
        out.append(Figure(f"chosen {name}s to random ones", "x", took[0] / took[1], RATIO))
    return out


async def _stored() -> list[Figure]:
    out = []
    for name, makers in STORED.items():
        attribute = {
            ":db/ident": ":v",
            ":db/valueType": f":db.type/{name}",
            ":db/cardinality": ":db.cardinality/one",
            ":db/index": True,
        }
        empty = await d.empty_db(schema_flexibility="write").db_with([attribute])
        took = []
        for make in makers:
            maps = [{":db/id": i + 1, ":v": make(i)} for i in range(100, 100 + CHOSEN)]
            start = time.process_time()
            db = await empty.db_with(maps)
            groups = await d.q("[:find ?v (count ?e) :where [?e :v ?v]]", db)
            assert len(groups) <= CHOSEN
            took.append(time.process_time() - start)
        out.append(Figure(f"chosen {name}s to random ones, stored", "x", took[0] / took[1], RATIO))
    return out


async def _measure() -> list[Figure]:
    return [*await _late(_database()), *await _chosen(), *await _stored()]


def run() -> int:
    """Print every figure; return 1 where a bar is missed."""
    figures = anyio.run(_measure)
    rows = [
        (f.name, f"{f.value:.3g} {f.unit}", f"at most {f.bar:g} {f.unit}", f.value <= (f.bar or 0))
        for f in figures
    ]
    print(table(["what", "ours", "bar", "met"], rows))
    return 0 if all(row[-1] for row in rows) else 1
