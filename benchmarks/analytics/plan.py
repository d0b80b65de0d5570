"""The wide workloads: each query once for us, and the best way that each peer has for the same.

A bar is a ratio: what the named peer once took to what was then wanted of ours.
Where no peer can do the same, the fixed loop of `measure` stands in for it, which takes `LOOP_MS`
on the machine that the figures are from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.analytics.data import FIRST_ID
from benchmarks.peers import Workload
from benchmarks.plan import Bar

LOOP: Final = "loop"
LOOP_MS: Final = 10.0

DEPTH: Final = """[[(reach ?a ?b ?n) [?a :friend ?b] [(ground 1) ?n]]
 [(reach ?a ?b ?n) (reach ?a ?c ?m) [(< ?m 3)] [?c :friend ?b] [(+ ?m 1) ?n]]]"""
PREFIX: Final = "amber"
PATTERN: Final = "er.*7 [a-m]"
FROM_DAY, TO_DAY = 100, 130


@dataclass(frozen=True)
class Sizes:
    """How many entities each kind of data has."""

    people: int = 140_000
    graph: int = 100_000
    star: int = 1_000_000
    loads: int = 200_000

    def scaled(self, factor: float) -> Sizes:
        """Return sizes that are ``factor`` times these."""
        return Sizes(*(max(1, int(n * factor)) for n in vars(self).values()))


def _wanted(peer: str, theirs: float, ours: float) -> Bar:
    return Bar(peer, round(theirs / ours, 3))


BARS: Final = {
    "entities by id": _wanted("SQLite", 0.3, 4),
    "friends of friends": _wanted("SQLite", 3.1, 5),
    "common neighbours": _wanted("SQLite", 3, 10),
    "reach in 3 steps": _wanted("SQLite", 19, 15),
    "triangles": _wanted("DuckDB", 250, 400),
    "star": _wanted("DuckDB", 8, 40),
    "not": _wanted("DuckDB", 1.6, 8),
    "range of days": _wanted("DuckDB", 2.3, 6),
    "order, offset, limit": _wanted("DuckDB", 49, 60),
    "starts-with": _wanted("DuckDB", 4, 60),
    "re-find": _wanted("DuckDB", 17, 300),
    "pull of friends": _wanted("SQLite", 401, 400),
    "load": Bar("SQLite", 0.27),
    "load, unique id": _wanted("SQLite", 870, 3_000),
    "load of a table, unique id": _wanted("SQLite", 870, 1_500),
    "point query as of, first": _wanted(LOOP, LOOP_MS, 8),
    "point query as of": _wanted(LOOP, LOOP_MS, 0.15),
    "point query in history": _wanted(LOOP, LOOP_MS, 0.3),
    "point query since": _wanted(LOOP, LOOP_MS, 0.3),
    "full load, turn p50": _wanted("SQLite", 1.1, 2),
    "full load, turn p99": _wanted("SQLite", 1.5, 6),
}
POINT: Final = "[:find ?a . :in $ ?i :where [?e :id ?i] [?e :age ?a]]"
PULL: Final = "[:id {:friend [:name :age]}]"


def _sample(seed: int, count: int, size: int) -> list[int]:
    """Return ``count`` distinct entity ids of ``size``, or all of them."""
    rng = np.random.default_rng(seed)
    found: list[int] = (rng.permutation(size)[:count] + 1).tolist()
    return found


def _values(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def plan(sizes: Sizes) -> list[Workload]:
    """Return the queries, those over the same data one after another."""
    return [*_people(sizes.people), *_graph(sizes.graph), *_star(sizes.star)]


def _people(count: int) -> list[Workload]:
    ids = [e + FIRST_ID for e in _sample(1, 100, count)]
    return [
        Workload(
            "entities by id",
            "people",
            "query",
            "[:find ?e ?a ?v :in $ [?i ...] :where [?e :id ?i] [?e ?a ?v]]",
            (ids,),
            texts={"SQLite": f"select * from person where id in ({_values(ids)})"},
        )
    ]


def _graph(count: int) -> list[Workload]:
    hundred = [e + FIRST_ID for e in _sample(2, 100, count)]
    ten = hundred[:10]
    pairs = [
        [e + FIRST_ID, (e + 2) % count + 1 + FIRST_ID] for e in _sample(3, 300, count)
    ]  # neighbours, or they had nobody in common
    rows = ",".join(f"({i},{j})" for i, j in pairs)
    lists = ",".join(f"[{i},{j}]" for i, j in pairs)
    sparql = "PREFIX p: <http://x/> SELECT DISTINCT"
    return [
        Workload(
            "friends of friends",
            "graph",
            "query",
            "[:find ?i ?c :in $ [?i ...] :where [?a :id ?i] [?a :friend ?b] [?b :friend ?c]]",
            (hundred,),
            texts={
                **_sql(
                    "select distinct m.id, g.b from member m join friend f on f.a = m.e"
                    f" join friend g on g.a = f.b where m.id in ({_values(hundred)})"
                ),
                "mnestic": f"i[i] <- [{','.join(f'[{i}]' for i in hundred)}]\n"
                "?[i, c] := i[i], *id[i, a], *friend[a, b], *friend[b, c]",
                "fluree": f"{sparql} ?i ?c WHERE {{ VALUES ?i {{ {' '.join(map(str, hundred))} }}"
                " ?a p:id ?i . ?a p:friend ?b . ?b p:friend ?c }",
            },
        ),
        Workload(
            "common neighbours",
            "graph",
            "query",
            "[:find ?i ?j ?c :in $ [[?i ?j] ...] :where [?a :id ?i] [?b :id ?j]"
            " [?a :friend ?c] [?b :friend ?c]]",
            (pairs,),
            texts={
                **_sql(
                    f"with pair(i, j) as (values {rows}) select i, j, f.b from pair"
                    " join member m on m.id = i join member n on n.id = j"
                    " join friend f on f.a = m.e join friend g on g.a = n.e and g.b = f.b"
                ),
                "mnestic": f"pair[i, j] <- [{lists}]\n"
                "?[i, j, c] := pair[i, j], *id[i, a], *id[j, b], *friend[a, c], *friend[b, c]",
                "fluree": f"{sparql} ?i ?j ?c WHERE {{ VALUES (?i ?j) {{"
                f" {' '.join(f'({i} {j})' for i, j in pairs)} }}"
                " ?a p:id ?i . ?b p:id ?j . ?a p:friend ?c . ?b p:friend ?c }",
            },
        ),
        Workload(
            "reach in 3 steps",
            "graph",
            "query",
            "[:find ?i ?b (min ?n) :in $ % [?i ...] :where [?a :id ?i] (reach ?a ?b ?n)]",
            (DEPTH, ten),
            texts={
                **_sql(
                    "with recursive reach(i, e, n) as (select id, e, 0 from member"
                    f" where id in ({_values(ten)}) union select i, b, n + 1 from reach"
                    " join friend on a = e where n < 3)"
                    " select i, e, min(n) from reach where n > 0 group by i, e"
                ),
                "mnestic": f"i[i] <- [{','.join(f'[{i}]' for i in ten)}]\n"
                "r[i, b, min(n)] := i[i], *id[i, a], *friend[a, b], n = 1\n"
                "r[i, b, min(n)] := r[i, c, m], m < 3, *friend[c, b], n = m + 1\n"
                "?[i, b, n] := r[i, b, n]",
            },
        ),
        Workload(
            "triangles",
            "graph",
            "query",
            "[:find (count ?a) :with ?b ?c :where [?a :friend ?b] [?b :friend ?c] [?a :friend ?c]]",
            texts={
                **_sql(
                    "select count(*) from friend f join friend g on g.a = f.b"
                    " join friend h on h.a = f.a and h.b = g.b"
                ),
                "mnestic": "?[count(a)] := *friend[a, b], *friend[b, c], *friend[a, c]",
            },
            samples=5,
        ),
        Workload(
            "pull of friends",
            "graph",
            "pull many",
            PULL,
            ids=tuple(_sample(4, 10_000, count)),
            samples=5,
        ),
    ]


def _star(count: int) -> list[Workload]:
    offset = count // 2

    def query(name: str, text: str, sql: str, *, ordered: bool = False, **more: Any) -> Workload:
        texts = _sql(sql) | more.pop("texts", {})
        return Workload(name, "star", "query", text, texts=texts, ordered=ordered, **more)

    return [
        query(
            "star",
            "[:find ?c ?r (sum ?m) :with ?f :where [?f :product ?p] [?p :category ?c]"
            " [?f :store ?s] [?s :region ?r] [?f :amount ?m] :order-by [2 :desc] :limit 10]",
            "select category, region, sum(amount) from sale join product p on p.e = product"
            " join store s on s.e = store group by 1, 2 order by 3 desc limit 10",
            ordered=True,
        ),
        query(
            "not",
            "[:find (count ?f) :where [?f :amount ?m] (not [?f :returned true])]",
            "select count(*) from sale where amount is not null and not returned",
        ),
        query(
            "range of days",
            "[:find ?d (sum ?m) :with ?f :where [?f :day ?d]"
            f" [(<= {FROM_DAY} ?d)] [(< ?d {TO_DAY})] [?f :amount ?m]]",
            "select day, sum(amount) from sale"
            f" where day >= {FROM_DAY} and day < {TO_DAY} group by day",
        ),
        query(
            "order, offset, limit",
            f"[:find ?m ?f :where [?f :amount ?m] :order-by [?m ?f] :offset {offset} :limit 20]",
            f"select amount, e from sale order by amount, e limit 20 offset {offset}",
            ordered=True,
        ),
        query(
            "starts-with",
            "[:find (count ?f) :where [?f :note ?n]"
            f' [(clojure.string/starts-with? ?n "{PREFIX}")]]',
            f"select count(*) from sale where starts_with(note, '{PREFIX}')",
            texts={"SQLite": f"select count(*) from sale where note glob '{PREFIX}*'"},
        ),
        query(
            "re-find",
            f'[:find (count ?f) :where [?f :note ?n] [(re-pattern "{PATTERN}") ?p]'
            " [(re-find ?p ?n)]]",
            f"select count(*) from sale where regexp_matches(note, '{PATTERN}')",
            texts={"SQLite": f"select count(*) from sale where note regexp '{PATTERN}'"},
            samples=5,
        ),
    ]


def notes() -> list[Workload]:
    """Return what looks through strings, for a peer that has the strings alone."""
    return [
        Workload(work.name, "notes", work.kind, work.query, samples=5, warm=500)
        for work in _star(1)
        if work.name in ("starts-with", "re-find")
    ]


def _sql(text: str) -> dict[str, str]:
    """Return what SQLite and DuckDB say alike."""
    return {"SQLite": text, "DuckDB": text}
