"""load: every form of table, exactly once, as transact would have it; errors that say where."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import datahike_async as d
from datahike_async.konserve.errors import StoreIOError
from datahike_async.loading import load as loading
from datahike_async.tx import apply, bulk
from datahike_async.tx.forms import LARGE
from datahike_async.tx.table import Table

pytestmark = pytest.mark.anyio

ONE, MANY = ":db.cardinality/one", ":db.cardinality/many"


def attribute(name: str, kind: str, cardinality: str = ONE, **properties: Any) -> dict[str, Any]:
    made = {
        ":db/ident": name,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": cardinality,
    }
    return {**made, **{f":db/{key}": value for key, value in properties.items()}}


SCHEMA = [
    attribute(":person/id", "long", unique=":db.unique/identity"),
    attribute(":person/name", "string", maxLength=20),
    attribute(":person/mail", "string", unique=":db.unique/value"),
    attribute(":person/score", "double"),
    attribute(":person/ok", "boolean"),
    attribute(":person/born", "instant"),
    attribute(":person/city", "ref"),
    attribute(":person/tags", "keyword", MANY),
    attribute(":person/friends", "ref", MANY),
    attribute(":person/uuid", "uuid"),
    attribute(":city/name", "string", unique=":db.unique/identity"),
]
BORN = datetime(1990, 5, 17, 12, 30, tzinfo=UTC)
PEOPLE = {
    "id": [1, 2, 3, 4, 5],
    "name": ["Ada", "Bob", None, "Dörte", "Eve"],
    "score": [0.5, None, 1.5, -2.25, 1e9],
    "ok": [True, False, None, True, True],
    "born": [BORN, None, BORN, BORN, None],
    "city": ["Bonn", "Rom", "Bonn", None, "Rom"],
}
LOAD: Any = {"prefix": "person", "identity": "id", "refs": {"city": ":city/name"}}
ALONE: Any = {"prefix": "person", "identity": "id"}
FORMS = ["mapping", "arrays", "arrow", "polars", "pandas", "csv", "tsv", "jsonl", "parquet"]


def in_form(form: str, folder: Path) -> Any:
    table = pa.table(PEOPLE)
    path = folder / f"people.{form}"
    plain = [
        {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
        for row in table.to_pylist()
    ]
    if form == "mapping":
        return PEOPLE
    if form == "arrays":
        return {
            "id": np.array(PEOPLE["id"]),
            "name": np.array(PEOPLE["name"], object),
            "score": np.ma.masked_invalid([np.nan if x is None else x for x in PEOPLE["score"]]),
            "ok": pd.Series(PEOPLE["ok"], dtype="object"),
            "born": np.array(
                [None if x is None else x.replace(tzinfo=None) for x in PEOPLE["born"]],
                "datetime64[us]",
            ),
            "city": pl.Series(PEOPLE["city"]),
        }
    if form == "arrow":
        return table
    if form == "polars":
        return pl.DataFrame(PEOPLE)
    if form == "pandas":
        return pd.DataFrame(PEOPLE)
    if form in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if form == "csv" else "\t")
            writer.writerow(PEOPLE)
            writer.writerows([row.values() for row in plain])
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, plain)), "utf-8")
    else:
        pyarrow.parquet.write_table(table, path)
    return path


@pytest.fixture(params=[True, False])
def keep_history(request: Any) -> bool:
    return bool(request.param)


@pytest.fixture
async def conn(tmp_path):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    async with d.connect(config, create=True) as conn:
        await conn.transact([*SCHEMA, {":city/name": "Bonn"}, {":city/name": "Rom"}])
        yield conn


@pytest.fixture(params=["columns", "items"])
def way(request, monkeypatch):
    """Load in columns as large batches are, or item by item as small ones are."""
    monkeypatch.setattr(apply, "LEAST", 1 if request.param == "columns" else 10**9)
    return request.param


async def people(db: Any) -> list[Any]:
    pattern = (
        "[:person/id :person/name :person/score :person/ok :person/born "
        "{:person/city [:city/name]}]"
    )
    found = await db.q(f"[:find [(pull ?e {pattern}) ...] :where [?e :person/id]]")
    return sorted((dict(x) for x in found), key=lambda x: x[d.kw("person/id")])


def expected() -> list[Any]:
    rows = []
    for values in zip(*PEOPLE.values(), strict=True):
        row = {
            d.kw(f"person/{key}"): value
            for key, value in zip(PEOPLE, values, strict=True)
            if value is not None
        }
        if d.kw("person/city") in row:
            row[d.kw("person/city")] = {d.kw("city/name"): row[d.kw("person/city")]}
        rows.append(row)
    return rows


@pytest.mark.parametrize("form", FORMS)
async def test_a_table_of_any_form_is_loaded(conn, tmp_path, form, way):
    report = await d.load(conn, in_form(form, tmp_path), **LOAD)
    assert (report.rows, report.resumed, report.transactions) == (5, 0, 1)
    assert report.total == 5
    assert await people(conn.db()) == expected()
    count = len(await conn.db().datoms("eavt"))
    # Once more changes nothing: the identity says that they are there.
    await d.load(conn, in_form(form, tmp_path), **LOAD)
    assert await people(conn.db()) == expected()
    assert len(await conn.db().datoms("eavt")) == count + 1


async def test_a_key_that_a_whole_batch_of_json_lines_lacks_is_a_missing_value(conn, tmp_path):
    path = tmp_path / "people.jsonl"
    rows = [{"id": i, "name": f"n{i}"} for i in range(6)] + [{"id": 6, "city": "Rom"}]
    text = "\n".join(map(json.dumps, rows))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as some programs mark UTF-8
    report = await d.load(conn, path, **LOAD, batch=2)
    assert (report.rows, report.transactions) == (7, 4)
    path.write_text('{"id": 7}\n{"name": "who"}\n')
    with pytest.raises(
        d.TransactionError, match=r"Row 1 \(line 2 .*\) has no value in column 'id'"
    ):
        await d.load(conn, path, **LOAD, batch=1)


@pytest.mark.parametrize("name", ["people.csv", "people.jsonl"])
async def test_a_file_of_another_encoding_is_named(conn, tmp_path, name):
    (tmp_path / name).write_bytes("id,name\n1,Dörte\n".encode("latin-1"))
    with pytest.raises(d.ArgumentError, match=f"{name} is not UTF-8"):
        await d.load(conn, tmp_path / name, **ALONE)


async def test_a_csv_file_with_broken_quotes_is_named(conn, tmp_path):
    (tmp_path / "people.csv").write_text('id,name\n1,"Ada"x\n')
    with pytest.raises(d.ArgumentError, match=r"people\.csv cannot be read as rows"):
        await d.load(conn, tmp_path / "people.csv", **ALONE)


async def test_what_a_series_of_pandas_lacks_is_a_missing_value(conn):
    table = {
        "id": pd.Series([1, 2, 3], dtype="Int64"),
        "name": pd.Series(["Ada", None, "Eve"], dtype="str"),
        "score": pd.Series([1, pd.NA, 3], dtype="Int64"),
        "city": pd.Series(["Rom", "Bonn", None], dtype="category"),
    }
    await d.load(conn, table, **LOAD)
    query = "[:find ?i ?n ?s :where [?e :person/id ?i] [?e :person/name ?n] [?e :person/score ?s]]"
    assert await d.q(query, conn.db()) == {(1, "Ada", 1.0), (3, "Eve", 3.0)}


@pytest.mark.parametrize("form", ["mapping", "csv", "jsonl", "parquet", "arrow"])
async def test_batches_are_transactions_and_progress_is_told(conn, tmp_path, form):
    seen: list[d.LoadReport] = []

    async def progress(report: d.LoadReport) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(report)

    report = await d.load(conn, in_form(form, tmp_path), **LOAD, batch=2, progress=progress)
    assert [x.rows for x in seen] == [2, 4, 5]
    assert report.transactions == 3
    assert report.datoms == seen[-1].datoms > 20
    assert await people(conn.db()) == expected()


@pytest.mark.parametrize("keep_history", [True, False])
@pytest.mark.parametrize("form", ["mapping", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
async def test_an_interrupted_load_goes_on_where_it_was_left_off(
    tmp_path, form, stop, keep_history
):
    """Without an identity, so that a row loaded twice would be two entities."""

    class Stop(Exception):
        pass

    def progress(report: d.LoadReport) -> None:
        if report.transactions == stop:
            raise Stop

    table = in_form(form, tmp_path)
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db")},
        "keep_history?": keep_history,
        "schema_flexibility": "read",
    }
    load: Any = {"columns": {"name": ":name", "score": ":score", "ok": ":ok"}, "name": "people"}
    async with d.connect(config, create=True) as conn:
        if stop:
            with pytest.raises(Stop):
                await d.load(conn, table, **load, batch=2, progress=progress)
    async with d.connect(config) as conn:
        # With batches of another size, too.
        report = await d.load(conn, table, **load, batch=3)
        assert report.rows == 5
        assert report.resumed == min(2 * stop, 5)
        again = await d.load(conn, table, **load)
        assert (again.rows, again.resumed, again.transactions) == (5, 5, 0)
        assert await conn.db().q("[:find (count ?e) . :where [?e :ok]]") == 4
        assert await conn.db().q("[:find (count ?e) . :where [?e :name]]") == 4
        other = await d.load(conn, table, **{**load, "name": "others"})
        assert other.resumed == 0
        assert await conn.db().q("[:find (count ?e) . :where [?e :name]]") == 8


async def test_two_loads_of_one_name_load_each_row_once(tmp_path):
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db")},
        "schema_flexibility": "read",
    }
    table = {":n": [*range(100)]}
    async with d.connect(config, create=True) as conn, anyio.create_task_group() as tasks:
        for size in (7, 10, 30):
            tasks.start_soon(lambda size=size: d.load(conn, table, name="once", batch=size))
    async with d.connect(config) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 100


KILLED = """
import os, sys, anyio
import datahike_async as d

def progress(report):
    if report.transactions == int(sys.argv[2]):
        os._exit(9)

async def main():
    config = {"store": {"backend": "file", "path": sys.argv[1]}, "schema_flexibility": "read"}
    async with d.connect(config, create=True) as conn:
        await d.load(conn, {":n": [*range(5000)]}, name="killed", batch=1500, progress=progress)

anyio.run(main)
"""


async def test_a_load_that_was_killed_goes_on(tmp_path, anyio_backend):
    path = str(tmp_path / "db")
    for at in (1, 1):
        gone = await anyio.run_process(
            [sys.executable, "-c", KILLED, path, str(at)], check=False, stderr=subprocess.STDOUT
        )
        assert gone.returncode == 9, gone.stdout.decode()
    config = {"store": {"backend": "file", "path": path}}
    async with d.connect(config) as conn:
        report = await d.load(conn, {":n": [*range(5000)]}, name="killed")
        assert report.resumed == 3000
        assert sorted(x.v for x in await conn.db().datoms("aevt", ":n")) == [*range(5000)]


async def test_what_a_store_refuses_is_told_with_how_many_rows_are_in(conn, monkeypatch):
    committer = conn._transactor.branch.committer
    publish, calls = committer.publish, []

    async def failing(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise StoreIOError("the disk is full")
        return await publish(*args)

    monkeypatch.setattr(committer, "publish", failing)
    with pytest.raises(d.DatahikeError, match=r"4 rows of the table are in; call load again") as no:
        await d.load(conn, PEOPLE, **LOAD, batch=2, name="people")
    assert no.value.data[":rows"] == 4


BAD = {
    "type": (
        {"id": [1, 2], "score": [1.0, "x"]},
        1,
        "score",
        "no text of :db.type/double, such as '1.5'",
    ),
    "number": ({"id": [1, 2], "name": [1, 2]}, 0, "name", "string takes a str"),
    "unique": ({"id": [1, 2, 3], "mail": ["a", "b", "a"]}, 2, "mail", "unique constraint"),
    "length": ({"id": [1, 2], "name": ["a", "b" * 30]}, 1, "name", "maxLength allows 20"),
    "no number": ({"id": [1, 2], "score": [1.0, "N/A"]}, 1, "score", "Leave the cell empty"),
    "date": ({"id": [1, 2], "born": [None, "31.1.2026"]}, 1, "born", "such as '2026-01-31T12"),
    "no lookup": ({"id": [1, 2], "friends": [None, "Bob"]}, 1, "friends", "refs={'friends': ':…'}"),
    "reference": ({"id": [1, 2], "city": ["Bonn", "Ulm"]}, 1, "city", "Load what is referred to"),
    "identity": ({"id": [1, None], "name": ["a", "b"]}, 1, "id", "has no value"),
    "instant": ({"id": [1, 2], "born": ["2020-01-01", "soon"]}, 1, "born", "'soon'"),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_error_names_row_and_column_and_leaves_what_was_committed(conn, case, way):
    table, row, column, text = BAD[case]
    count = len(table["id"])
    good = {"id": [90, 91, 92], column: [None] * 3} | (
        {"id": [90, 91, 92]} if column == "id" else {}
    )
    whole = {key: [*good.get(key, [None] * 3), *values] for key, values in table.items()}
    refs = {"city": ":city/name"} if "city" in whole else {}
    with pytest.raises(d.TransactionError) as found:
        await d.load(conn, whole, prefix="person", identity="id", refs=refs, batch=3)
    data, message = found.value.data, str(found.value)
    assert (data[":row"], data[":column"], data[":rows"]) == (row + 3, column, 3)
    assert f"Row {row + 3}" in message
    assert repr(column) in message
    assert text in message
    assert "3 rows of the table are in" in message
    assert data[":error"]
    held = sorted(x.v for x in await conn.db().datoms("aevt", ":person/id"))
    assert held == [90, 91, 92], count


async def test_predicates_hold(conn, way):
    d.register_function("test.load/even", lambda n: n % 2 == 0)
    try:
        even = attribute(":person/even", "long")
        await conn.transact([{**even, ":db.attr/preds": d.sym("test.load/even")}])
        with pytest.raises(d.TransactionError, match="Row 2, column 'even'") as found:
            await d.load(conn, {"even": [2, 4, 5, 6]}, prefix="person")
        assert found.value.data[":error"] == ":transact/attr-pred"
        await d.load(conn, {"even": [2, 4, None, 6]}, prefix="person")
        assert len(await conn.db().datoms("aevt", ":person/even")) == 3
    finally:
        d.unregister_function("test.load/even")


@pytest.mark.parametrize(
    ("table", "options", "text"),
    [
        (7, {}, "load takes an Arrow table"),
        ("people.xls", {}, "people.xls ends in none of these"),
        ({"a": [1], "b": [1, 2]}, {}, "differ in length"),
        ({"id": [1]}, {"columns": {"x": ":person/id"}}, "no column 'x'"),
        ({"id": [1]}, {"identity": "x"}, "no column 'x'"),
        ({"name": ["a"]}, {"identity": "name"}, "no :db.unique/identity"),
        ({"name": ["a"]}, {"refs": {"name": ":city/name"}}, "is no reference"),
        ({"city": ["a"]}, {"refs": {"city": ":person/name"}}, "no unique attribute"),
        ({"id": [1], "x": [1]}, {"columns": {"x": ":person/id"}}, "are both :person/id"),
        ({"id": [1]}, {"identity": ":person/id"}, "not by their attributes"),
        ([{"id": 1}], {}, "A list of maps is for transact"),
        ({"id": [1]}, {"progress": 7}, "progress is a function"),
        ({"id": [1]}, {"batch": 0}, "batch is a number of rows"),
        ({"id": [1]}, {"name": ""}, "name of a load"),
        ({"id": [1]}, {"prefix": ":"}, "prefix is a namespace"),
        ({"id": np.ones((2, 2))}, {}, "2 dimensions"),
    ],
)
async def test_what_is_no_table_or_no_such_column_is_an_error(conn, table, options, text):
    with pytest.raises(d.ArgumentError, match=text):
        await d.load(conn, table, **{"prefix": "person", **options})


async def test_a_column_without_an_attribute_says_what_to_do(conn):
    with pytest.raises(d.TransactionError, match=r"Column 'nmae'.*Did you mean :person/name") as no:
        await d.load(conn, {"nmae": ["Ada"]}, prefix="person")
    assert "columns={'nmae': None}" in str(no.value)
    with pytest.raises(d.TransactionError, match=r"separated by commas"):
        await d.load(conn, {"id;name": ["1;Ada"]}, prefix="person")
    report = await d.load(conn, {"id": [1], "nmae": ["x"]}, prefix="person", columns={"nmae": None})
    assert report.rows == 1


@pytest.mark.parametrize("arrow", [True, False])
async def test_lists_are_many_values_and_rows_without_a_value_are_no_entities(conn, arrow, way):
    table: Any = {
        "id": [1, None, 3],
        "tags": [[":t/a", ":t/b"], None, []],
        "friends": [[], None, [1]],
    }
    await conn.transact([{":person/id": 1}, {":person/id": 2}])
    before = conn.db().max_eid
    table = pa.table(table) if arrow else table
    await d.load(conn, table, prefix="person", refs={"friends": ":person/id"})
    db = conn.db()
    assert db.max_eid == before + 1
    found = await db.q("[:find ?i ?t :where [?e :person/id ?i] [?e :person/tags ?t]]")
    assert found == {(1, d.kw("t/a")), (1, d.kw("t/b"))}
    found = await db.q(
        "[:find ?i ?j :where [?e :person/id ?i] [?e :person/friends ?f] [?f :person/id ?j]]"
    )
    assert found == {(3, 1)}


@pytest.mark.parametrize(
    ("kind", "column", "values"),
    [
        ("long", np.array([1, 2], np.uint8), [1, 2]),
        ("long", np.array([1.0, 2.0]), [1, 2]),
        ("long", ["7", "-8"], [7, -8]),
        ("double", np.array([1, 2], np.int32), [1.0, 2.0]),
        ("double", pa.array([1.5, None], pa.float32()), [1.5]),
        ("double", ["1.5", "-2"], [1.5, -2.0]),
        ("float", [0.1], [float(np.float32(0.1))]),
        ("boolean", ["true", "False"], [True, False]),
        ("boolean", np.array([True, False]), [True, False]),
        ("instant", pa.array([BORN], pa.timestamp("ns", "Europe/Berlin")), [BORN]),
        ("instant", pa.array([BORN.date()]), [datetime(1990, 5, 17, tzinfo=UTC)]),
        ("instant", np.array(["NaT", "1990-05-17T12:30"], "datetime64[s]"), [BORN]),
        ("instant", ["1990-05-17T14:30:00+02:00"], [BORN]),
        ("uuid", [str(uuid.UUID(int=5)), uuid.UUID(int=6)], [uuid.UUID(int=5), uuid.UUID(int=6)]),
        ("keyword", pa.array([":a/b", ":c"]).dictionary_encode(), [d.kw("a/b"), d.kw("c")]),
        ("bigdec", pa.array([Decimal("1.50")]), [Decimal("1.50")]),
        ("bytes", pa.array([b"ab"]), [b"ab"]),
        ("bigint", [2**70, 1], [2**70, 1]),
        ("string", np.array(["a", "b"]), ["a", "b"]),
    ],
)
async def test_columns_of_libraries_and_text_become_values_of_the_attribute(
    conn, kind, column, values
):
    await conn.transact([attribute(":x", kind)])
    await d.load(conn, {":x": column})
    found = [x.v for x in await conn.db().datoms("eavt") if x.a == d.kw("x")]
    assert repr(found) == repr(values)


async def test_a_large_batch_goes_in_columns_and_without_the_event_loop(conn, monkeypatch):
    threads, done = set(), []
    carry_out = bulk.carry_out

    def noted(*args: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        done.append(carry_out(*args, **options))
        return done[-1]

    monkeypatch.setattr(apply, "carry_out", noted)
    monkeypatch.setattr(
        loading, "_table", lambda *a, f=loading._table: threads.add(threading.get_ident()) or f(*a)
    )
    n = bulk.LEAST
    table = {
        "id": np.arange(2 * n),
        "name": [f"n{i}" for i in range(2 * n)],
        "city": ["Bonn", "Rom"] * n,
    }
    await d.load(conn, table, **LOAD, batch=n)
    assert len(done) == 2
    assert None not in done
    assert threading.get_ident() not in threads
    assert await conn.db().q("[:find (count ?e) . :where [?e :person/city]]") == 2 * n


async def test_whether_a_table_is_large_is_known_without_its_rows(conn, monkeypatch):
    seen = set()
    maps = Table.maps

    def noted(self: Table) -> Any:
        seen.add(threading.get_ident())
        return maps(self)

    monkeypatch.setattr(Table, "maps", noted)
    n = LARGE // 3 + 1
    await d.load(conn, {"id": np.arange(n), "score": np.ones(n), "ok": np.ones(n, bool)}, **ALONE)
    await d.load(conn, {"id": np.arange(5), "score": np.ones(5)}, **ALONE)
    assert threading.get_ident() in seen
    seen.clear()
    await d.load(conn, {"id": np.arange(n), "score": np.ones(n), "ok": np.ones(n, bool)}, **ALONE)
    assert threading.get_ident() not in seen


async def test_a_database_value_is_no_connection(conn):
    with pytest.raises(AttributeError, match=r"it is a function: load\(conn"):
        _ = conn.load
    with pytest.raises(d.ArgumentError, match="transact on the connection"):
        await d.load(conn.db(), PEOPLE)
