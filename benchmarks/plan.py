"""The workloads of the query engine, and the bars it is held to.

A bar is a ratio to a peer of the same run. That of a rule is how much faster than DataScript on
node Datahike on the JVM was, when both could be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.data import people
from benchmarks.peers import Workload

QUERIES = {
    "q1": '[:find ?e :where [?e :name "Ivan"]]',
    "q2": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]',
    "q3": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a] [?e :sex "male"]]',
    "q4": '[:find ?e ?l ?a :where [?e :name "Ivan"] [?e :last-name ?l] [?e :age ?a]'
    ' [?e :sex "male"]]',
    "qpred1": "[:find ?e ?s :where [?e :salary ?s] [(> ?s 50000)]]",
    "qpred2": "[:find ?e ?s :in $ ?min :where [?e :salary ?s] [(> ?s ?min)]]",
    "group": "[:find ?n (avg ?s) (count ?e) :where [?e :name ?n] [?e :salary ?s]]",
}
JOINS = {
    "value join": '[:find ?e1 ?l ?a :where [?e :name "Ivan"] [?e :age ?a] [?e1 :age ?a]'
    " [?e1 :last-name ?l]]",
    "not": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a] (not [?e :sex "male"])]',
    "or-join": '[:find ?e ?a :where (or-join [?e] [?e :name "Ivan"]'
    ' (and [?e :name "Petr"] [?e :sex "male"])) [?e :age ?a]]',
    "not-join": "[:find ?e ?s :where [?e :salary ?s]"
    ' (not-join [?s] [?i :name "Ivan"] [?i :salary ?s])]',
}
RULES = """[[(follows ?x ?y) [?x :follows ?y]]
            [(follows ?x ?y) [?x :follows ?t] (follows ?t ?y)]]"""
CLOSURE = "[:find ?e ?e2 :in $ % :where (follows ?e ?e2)]"
POINTS = {
    "point query, 1 clause": "[:find ?e . :in $ ?u :where [?e :uid ?u]]",
    "point query, 2 clauses": "[:find ?n . :in $ ?u :where [?e :uid ?u] [?e :name ?n]]",
}
PULLS = {
    "pull, 781 entities, 1 attribute": "[:name {:follows ...}]",
    "pull, 781 entities, 5 attributes": "[:db/id :last-name :sex :age :salary {:follows ...}]",
}
COZO = {
    "q1": '?[e] := *name:byv{v:"Ivan",e}',
    "q2": '?[e,a] := *name:byv{v:"Ivan",e}, *age{e,v:a}',
    "q3": '?[e,a] := *name:byv{v:"Ivan",e}, *age{e,v:a}, *sex{e,v:"male"}',
    "q4": '?[e,l,a] := *name:byv{v:"Ivan",e}, *last{e,v:l}, *age{e,v:a}, *sex{e,v:"male"}',
    "qpred1": "?[e,s] := *salary{e,v:s}, s>50000",
    "qpred2": "?[e,s] := *salary{e,v:s}, s>$m",
    "group": "?[n,mean(s),count(e)] := *name{e,v:n}, *salary{e,v:s}",
    "value join": '?[f,l,a] := *name:byv{v:"Ivan",e}, *age{e,v:a}, *age:byv{v:a,e:f},'
    " *last{e:f,v:l}",
    "not": '?[e,a] := *name:byv{v:"Ivan",e}, *age{e,v:a}, not *sex{e,v:"male"}',
    "or-join": 'p[e] := *name:byv{v:"Ivan",e}\np[e] := *name:byv{v:"Petr",e}, *sex{e,v:"male"}\n'
    "?[e,a] := p[e], *age{e,v:a}",
    "not-join": 'i[s] := *name:byv{v:"Ivan",e}, *salary{e,v:s}\n?[e,s] := *salary{e,v:s}, not i[s]',
    "rules": "f[x,y] := *follows[x,y]\nf[x,y] := *follows[x,t], f[t,y]\n?[x,y] := f[x,y]",
    "point query, 1 clause": "?[e] := *uid[$u,e]",
    "point query, 2 clauses": "?[n] := *uid[$u,e], *name[e,n]",
}


@dataclass(frozen=True)
class Bar:
    """A ratio to a peer that must be reached, and one that is aimed at."""

    peer: str
    least: float
    aim: float | None = None


def _bars(least: dict[str, float], aim: float | None = None) -> dict[str, Bar]:
    """Return bars to DataScript; an ``aim`` is a multiple of the bar."""
    return {name: Bar("DataScript", x, aim and round(aim * x, 1)) for name, x in least.items()}


RULE_BARS = {
    "rules wide-3x3": round(1.18 / 0.13, 1),
    "rules wide-5x3": round(9.4 / 1.05, 1),
    "rules wide-7x3": round(141 / 13.8, 1),
    "rules wide-4x6": round(31.5 / 3.46, 1),
    "rules wide-3x6": round(3.9 / 0.44, 1),
    "rules long-10x3": round(3.5 / 0.22, 1),
    "rules long-30x3": round(30 / 1.25, 1),
    "rules long-30x5": round(39 / 2.02, 1),
}
BARS: dict[str, Bar] = {
    **_bars({"q1": 48, "q2": 20, "q3": 25, "q4": 33, "qpred1": 19, "qpred2": 19}),
    **_bars({"big q1": 67, "big q2": 40, "big q3": 37, "big q4": 54}),
    **_bars({"big qpred1": 26, "big qpred2": 26}),
    **_bars(RULE_BARS, 2),
    **dict.fromkeys(JOINS, Bar("DataScript", 10, 100)),
    **dict.fromkeys(PULLS, Bar("DataScript", 3, 10)),
    "group": Bar("Cozo", 3, 100),
    "pull of 1,000": Bar("DataScript", 3, 20),
    "point query, 1 clause": Bar("Cozo", round(22 / 25, 2), round(22 / 15, 2)),
}
"""For a query: of its lazy result."""
SET_BARS = _bars({"q1": 16, "q2": 11, "q3": 13, "q4": 19, "qpred1": 10, "qpred2": 10})


def _cozo(name: str) -> dict[str, str]:
    return {"Cozo": COZO[name]}


def plan(count: int, *, big: bool) -> list[Workload]:
    """Return all workloads, with ``count`` people; ``big`` adds those over ten times as many."""
    some = tuple(row[0] for row in people(count)[:1000])

    def query(name: str, data: str, prefix: str = "", **options: int) -> Workload:
        inputs = (50000,) if name == "qpred2" else ()
        text, parameters = (QUERIES | JOINS)[name], {"m": 50000} if inputs else {}
        return Workload(
            prefix + name, data, "query", text, inputs, (), _cozo(name), parameters, **options
        )

    out = [query(name, "people") for name in QUERIES]
    out += [query(name, "people", samples=5) for name in JOINS]
    out += [
        Workload(
            f"rules {graph}", graph, "query", CLOSURE, (RULES,), texts=_cozo("rules"), samples=7
        )
        for graph in [name.removeprefix("rules ") for name in RULE_BARS]
    ]
    out += [
        Workload(name, "people with uid", "point", text, ids=some, texts=_cozo(name))
        for name, text in POINTS.items()
    ]
    out.append(
        Workload("pull of 1,000", "people", "pull many", "[:name :last-name :age]", (), some)
    )
    out += [Workload(name, "wide-4x5", "pull", text, ids=(1,)) for name, text in PULLS.items()]
    if big:
        out += [query(name, "big", "big ", samples=7, warm=1500) for name in QUERIES]
    return out
