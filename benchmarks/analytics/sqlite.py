"""The wide workloads on SQLite, in memory, with the indexes that its queries want."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from benchmarks.analytics import data
from benchmarks.analytics.peer import Call, serve
from benchmarks.analytics.plan import PULL
from benchmarks.peers import Workload

TYPES: Final = {"string": "text", "double": "real"}
INDEXES: Final = {
    "person": ["create unique index person_id on person(id)"],
    "member": ["create unique index member_id on member(id)"],
    "sale": [
        "create index sale_day on sale(day, amount)",
        "create index sale_amount on sale(amount)",
        "create index sale_note on sale(note)",
        "create index sale_returned on sale(returned, amount)",
    ],
}


def columns(table: data.Table, schema: dict[str, Any]) -> list[str]:
    """Return the declarations of a table's columns, the entity's id first."""
    out = ["e integer primary key"]
    for name in table.columns:
        kind = schema[name][":db/valueType"].removeprefix(":db.type/")
        out.append(f'"{name[1:]}" {TYPES.get(kind, "integer")} not null')
    return out


def lists(table: data.Table) -> list[list[Any]]:
    """Return the columns of a table as lists, the entities' ids first."""
    found = [table.e, *table.columns.values()]
    return [c if isinstance(c, list) else c.tolist() for c in found]


class SQLite:
    """One connection; its cache of statements keeps them prepared."""

    version = sqlite3.sqlite_version

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", cached_statements=1000)
        self._db.create_function("regexp", 2, _matches, deterministic=True)

    def make(self, name: str, count: int) -> None:
        schema = data.SCHEMAS[name]
        if name == "people":
            self._fill(data.people(count), schema)
        elif name == "star":
            star = data.star(count)
            for table in (star.products, star.stores, star.sales):
                self._fill(table, schema)
        else:
            graph = data.graph(count)
            self._fill(graph.members, schema)
            self._db.execute(
                "create table friend(a integer, b integer, primary key(a, b)) without rowid"
            )
            pairs = zip(graph.a.tolist(), graph.b.tolist(), strict=True)
            self._db.executemany("insert into friend values (?, ?)", pairs)
        self._db.commit()
        self._db.execute("analyze")

    def _fill(self, table: data.Table, schema: dict[str, Any]) -> None:
        self._db.execute(f"create table {table.name}({', '.join(columns(table, schema))})")
        marks = ", ".join("?" * (1 + len(table.columns)))
        rows = zip(*lists(table), strict=True)
        self._db.executemany(f"insert into {table.name} values ({marks})", rows)
        for index in INDEXES.get(table.name, []):
            self._db.execute(index)

    def prepared(self, work: Workload) -> Call | None:
        if work.query == PULL:
            return lambda: self._pulled(work.ids)
        text = work.texts.get("SQLite")
        return None if text is None else lambda: self._db.execute(text).fetchall()

    def _pulled(self, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Return maps of members with those of their friends: one query, then Python."""
        out: dict[int, dict[str, Any]] = {}
        query = (
            "select m.e, m.id, n.name, n.age from member m join friend f on f.a = m.e"
            f" join member n on n.e = f.b where m.e in ({','.join(map(str, ids))})"
        )
        for e, id_, name, age in self._db.execute(query):
            found = out.get(e)
            if found is None:
                found = out[e] = {":id": id_, ":friend": []}
            found[":friend"].append({":name": name, ":age": age})
        return list(out.values())

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        if work.query == PULL:
            return [(found,) for found in answer]
        if work.name == "entities by id":
            names = list(data.PEOPLE_SCHEMA)
            return [(row[0], a, v) for row in answer for a, v in zip(names, row[1:], strict=True)]
        return list(answer)


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


if __name__ == "__main__":
    serve(SQLite)
