"""The wide workloads on DuckDB, in memory: its columns are scanned by all cores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import polars

from benchmarks.analytics.frames import tables
from benchmarks.analytics.peer import Call, serve
from benchmarks.peers import Workload


class DuckDB:
    """One connection; each query is a statement that was prepared."""

    version = duckdb.__version__

    def __init__(self) -> None:
        self._db = duckdb.connect(":memory:")
        self._count = 0

    def make(self, name: str, count: int) -> None:
        for table, frame in tables(name, count).items():
            self._create(table, frame)
        if name == "graph":
            self._db.execute("create unique index member_id on member(id)")

    def _create(self, table: str, frame: polars.DataFrame) -> None:
        self._db.register("given", frame)
        self._db.execute(f"create table {table} as select * from given")
        self._db.unregister("given")

    def prepared(self, work: Workload) -> Call | None:
        text = work.texts.get("DuckDB")
        if text is None:
            return None
        self._count += 1
        name = f"statement{self._count}"
        self._db.execute(f"prepare {name} as {text}")
        return lambda: self._db.execute(f"execute {name}").fetchall()

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        return list(answer)


if __name__ == "__main__":
    serve(DuckDB)
