"""The wide workloads on fluree, in this process: the graph as triples, in SPARQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import fluree

from benchmarks.analytics import data
from benchmarks.analytics.peer import Call, serve
from benchmarks.peers import Workload

BASE: Final = "http://x/"


class Fluree:
    """A ledger in a folder, indexed; reads go through its cache."""

    version = version("fluree")

    def __init__(self) -> None:
        self._ledger: Any = None

    def make(self, name: str, count: int) -> None:
        if name != "graph":
            return
        graph = data.graph(count)
        friends: dict[int, list[str]] = {}
        for a, b in zip(graph.a.tolist(), graph.b.tolist(), strict=True):
            friends.setdefault(a, []).append(f"p:{b}")
        lines = [f"@prefix p: <{BASE}> ."]
        for e, id_ in zip(graph.members.e.tolist(), graph.members.columns[":id"], strict=True):
            named = f" ; p:friend {', '.join(friends[e])}" if e in friends else ""
            lines.append(f"p:{e} p:id {id_}{named} .")
        folder = Path(tempfile.mkdtemp())
        (folder / "graph.ttl").write_text("\n".join(lines))
        self._ledger = fluree.connect(str(folder / "db")).create("graph")
        self._ledger.insert(folder / "graph.ttl")

    def prepared(self, work: Workload) -> Call | None:
        text = work.texts.get("fluree")
        return None if text is None else lambda: list(self._ledger.query(text))

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        return [[str(value).removeprefix(BASE) for value in row] for row in answer]


if __name__ == "__main__":
    serve(Fluree)
