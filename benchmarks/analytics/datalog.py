"""The wide workloads on mnestic, the kept fork of Cozo, in memory: the graph, as its relations."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from mnestic import CozoDbPy

from benchmarks.analytics import data
from benchmarks.analytics.peer import Call, serve
from benchmarks.peers import Workload


class Mnestic:
    """A database in memory."""

    version = version("mnestic")

    def __init__(self) -> None:
        self._db = CozoDbPy("mem", "", "{}")

    def make(self, name: str, count: int) -> None:
        if name != "graph":
            return
        graph = data.graph(count)
        for create in (":create id {i: Int => a: Int}", ":create friend {a: Int, b: Int}"):
            self._db.run_script(create, {}, False)
        ids = zip(graph.members.columns[":id"].tolist(), graph.members.e.tolist(), strict=True)
        edges = zip(graph.a.tolist(), graph.b.tolist(), strict=True)
        for relation, heads, rows in (("id", ["i", "a"], ids), ("friend", ["a", "b"], edges)):
            given = {"headers": heads, "rows": list(map(list, rows))}
            self._db.import_relations({relation: given})

    def prepared(self, work: Workload) -> Call | None:
        text = work.texts.get("mnestic")
        if text is None:
            return None
        return lambda: self._db.run_script(text, {}, True)["rows"]

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        return list(answer)


if __name__ == "__main__":
    serve(Mnestic)
