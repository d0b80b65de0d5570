"""Rows of six columns into files: ours with history, SQLite with an index a column, DuckDB."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import datahike_async as d
from benchmarks.analytics import data
from benchmarks.analytics.sqlite import columns, lists
from benchmarks.measure import Timing, calibration

BATCH: Final = 20_000
REPEATS: Final = 2
NAMES: Final = (":id", ":name", ":city", ":age", ":salary", ":score")

Load = Callable[[Path, data.Table, bool], Awaitable[int]]
"""Load a table into a new folder; with a unique id or without. Returns the rows that it has."""
Fill = Callable[[d.Connection, data.Table], Awaitable[None]]


async def maps(conn: d.Connection, table: data.Table) -> None:
    """Load maps in transactions of `BATCH`."""
    for first in range(0, len(table.e), BATCH):
        await conn.transact(table.maps(first, first + BATCH))


async def whole_table(conn: d.Connection, table: data.Table) -> None:
    """Load the columns, each row for the entity of its unique id."""
    await d.load(conn, table.columns, identity=":id")


async def ours(folder: Path, table: data.Table, unique: bool, fill: Fill = maps) -> int:
    """Load into files, with history."""
    schema = {name: data.PEOPLE_SCHEMA[name] for name in NAMES}
    if not unique:
        schema[":id"] = data.attribute("long")
    attributes = [{":db/ident": name, **rest} for name, rest in schema.items()]
    config = {"store": {"backend": "file", "path": str(folder / "db")}}
    async with d.connect(config, create=True) as conn:
        await conn.transact(attributes)
        await fill(conn, table)
        found: int = await d.q("[:find (count ?e) . :where [?e :id ?i]]", conn.db())
    return found


async def sqlite(folder: Path, table: data.Table, unique: bool) -> int:
    """Insert all rows in one transaction, then an index on each column, which is faster so."""
    db = sqlite3.connect(folder / "rows.db")
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute(f"create table person({', '.join(columns(table, data.PEOPLE_SCHEMA))})")
    rows = zip(*lists(table), strict=True)
    db.executemany("insert into person values (?, ?, ?, ?, ?, ?, ?)", rows)
    for name in NAMES:
        kind = "unique index" if unique and name == ":id" else "index"
        db.execute(f"create {kind} by_{name[1:]} on person({name[1:]})")
    db.commit()
    [found] = db.execute("select count(id) from person").fetchone()
    db.close()
    return int(found)


async def duckdb(folder: Path, table: data.Table, unique: bool) -> int:
    """Insert a frame; with a unique id, DuckDB keeps an index of it."""
    from duckdb import connect

    from benchmarks.analytics.frames import frame

    db = connect(str(folder / "rows.duckdb"))
    db.register("given", frame(table))
    db.execute("create table person as select * from given")
    if unique:
        db.execute("create unique index person_id on person(id)")
    found = db.execute("select count(id) from person").fetchall()[0][0]
    db.close()
    return int(found)


SIDES: Final[dict[str, Load]] = {"ours": ours, "SQLite": sqlite, "DuckDB": duckdb}
WORKLOADS: Final = {
    "load": (False, maps),
    "load, unique id": (True, maps),
    "load of a table, unique id": (True, whole_table),
}


async def measured(count: int) -> dict[str, dict[str, Timing]]:
    """Return workload → side → the fastest of `REPEATS` loads, each side in turn."""
    people = data.people(count)
    table = data.Table("person", people.e, {name: people.columns[name] for name in NAMES})
    out: dict[str, dict[str, Timing]] = {}
    for name, (unique, fill) in WORKLOADS.items():
        out[name] = {}
        sides = SIDES | {"ours": partial(ours, fill=fill)}
        for side in list(SIDES) * REPEATS:
            if side == "DuckDB" and find_spec("duckdb") is None:
                continue
            found = await _timed(sides[side], table, unique)
            out[name][side] = min(found, out[name].get(side, found))
    return out


async def _timed(load: Load, table: data.Table, unique: bool) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        before, start = calibration(), time.perf_counter()
        count = await load(Path(folder), table, unique)
        ms = (time.perf_counter() - start) * 1e3
        if count != len(table.e):
            raise AssertionError(f"{count} rows of {len(table.e)} were loaded")
        return Timing(ms, max(before, calibration()))
