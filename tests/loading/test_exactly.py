"""load: each value exactly as the table has it, or an error that says where it is; never less."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import datahike_async as d
from datahike_async.values.types import DoubleArray, FloatArray

pytestmark = pytest.mark.anyio

ONE, MANY = ":db.cardinality/one", ":db.cardinality/many"
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
NANOS = NOON.replace(tzinfo=None).isoformat() + ".000000001"
BIG = 2**53 + 1


@pytest.fixture
async def conn():
    config = {"store": {"backend": "memory", "id": str(uuid.uuid4())}}
    async with d.connect(config, create=True) as conn:
        yield conn


async def loaded(conn: Any, kind: str, column: Any, cardinality: str = ONE) -> list[Any]:
    """Load a column of an attribute; return its values by the rows they stand in."""
    attributes = [
        {":db/ident": ":n", ":db/valueType": ":db.type/long", ":db/cardinality": ONE},
        {":db/ident": ":x", ":db/valueType": f":db.type/{kind}", ":db/cardinality": cardinality},
    ]
    if kind == "tuple":
        attributes[1][":db/tupleType"] = ":db.type/long"
    await conn.transact(attributes)
    table = column if isinstance(column, (pa.Table, pd.DataFrame)) else None
    if table is None:
        table = {":n": [*range(len(column))], ":x": column}
    await d.load(conn, table)
    db = conn.db()
    rows = {x.e: x.v for x in await db.datoms("aevt", ":n")}
    found = [(rows[x.e], x.v) for x in await db.datoms("aevt", ":x")]
    return sorted(found, key=repr)


LISTS = pa.array([[":a", None], None, [":b"]])
EXACT: dict[str, tuple[str, str, Any, list[Any]]] = {
    "arrays beside missing cells": (
        "double-array",
        ONE,
        [np.array([1.0, 2.0]), None],
        [(0, DoubleArray([1.0, 2.0]))],
    ),
    "arrays as many values": (
        "long",
        MANY,
        [np.array([1, 2]), None, [3, None]],
        [(0, 1), (0, 2), (2, 3)],
    ),
    "an array of numbers of arrow is one value": (
        "float-array",
        ONE,
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32())),
        [(0, FloatArray([1.0, 2.0]))],
    ),
    "of many arrays each is a value": (
        "double-array",
        MANY,
        pa.array([[[1.0], [2.0]], [[3.0]]]),
        [(0, DoubleArray([1.0])), (0, DoubleArray([2.0])), (1, DoubleArray([3.0]))],
    ),
    "of many tuples each is a value": (
        "tuple",
        MANY,
        [[(1, 2), (3, 4)], (5, 6)],
        [(0, (1, 2)), (0, (3, 4)), (1, (5, 6))],
    ),
    "missing values of pandas in a list": (
        "instant",
        ONE,
        [pd.Timestamp(NOON), pd.NaT, pd.NA, np.datetime64("NaT"), np.datetime64("2020-01-01T12")],
        [(0, NOON), (4, NOON)],
    ),
    "dates": ("instant", ONE, [date(2020, 1, 1)], [(0, NOON.replace(hour=0))]),
    "naive timestamps of pandas": ("instant", ONE, [pd.Timestamp("2020-01-01T12:00")], [(0, NOON)]),
    "scalars of NumPy": ("long", ONE, [np.int8(5), np.uint64(7)], [(0, 5), (1, 7)]),
    "floats without a fraction": ("long", ONE, [1.0, None, 3], [(0, 1), (2, 3)]),
    "whole floats of JSON and arrays alike": (
        "long",
        ONE,
        np.array([1.0, 2.0**53]),
        [(0, 1), (1, 2**53)],
    ),
    "large integers that a double has": ("double", ONE, np.array([2**60]), [(0, 2.0**60)]),
    "the largest integer": ("long", ONE, np.array([2**63 - 1], np.uint64), [(0, 2**63 - 1)]),
    "a dictionary with a missing value": (
        "keyword",
        ONE,
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array([":a", None])),
        [(0, d.kw("a")), (3, d.kw("a"))],
    ),
    "a dictionary of instants": (
        "instant",
        ONE,
        pa.array([NOON, None, NOON], pa.timestamp("ns", "UTC")).dictionary_encode(),
        [(0, NOON), (2, NOON)],
    ),
    "a dictionary with what no row says": (
        "long",
        ONE,
        pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["5", "five"])),
        [(0, 5), (1, 5)],
    ),
    "a dictionary that says a text twice": (
        "keyword",
        ONE,
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([":a", ":a"])),
        [(0, d.kw("a")), (1, d.kw("a"))],
    ),
    "runs": (
        "long",
        ONE,
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 4]), pa.array([5, None, 6])),
        [(0, 5), (1, 5), (3, 6)],
    ),
    "lists": ("keyword", MANY, LISTS, [(0, d.kw("a")), (2, d.kw("b"))]),
    "large lists": (
        "keyword",
        MANY,
        LISTS.cast(pa.large_list(pa.large_string())),
        [(0, d.kw("a")), (2, d.kw("b"))],
    ),
    "list views": (
        "keyword",
        MANY,
        pa.array(LISTS.to_pylist(), pa.list_view(pa.string())),
        [(0, d.kw("a")), (2, d.kw("b"))],
    ),
    "large list views": (
        "keyword",
        MANY,
        pa.array(LISTS.to_pylist(), pa.large_list_view(pa.string())),
        [(0, d.kw("a")), (2, d.kw("b"))],
    ),
    "lists of one size": (
        "long",
        MANY,
        pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2)),
        [(0, 1), (0, 2), (2, 3)],
    ),
    "views of strings": ("string", ONE, pa.array(["a", None], pa.string_view()), [(0, "a")]),
    "views of bytes": ("bytes", ONE, pa.array([b"a", None], pa.binary_view()), [(0, b"a")]),
    "large bytes": ("bytes", ONE, pa.array([b"a", None], pa.large_binary()), [(0, b"a")]),
    "half floats": ("double", ONE, pa.array([np.float16(1.5), None]), [(0, 1.5)]),
    "nothing at all": ("long", ONE, pa.nulls(3), []),
    "integers as decimals": ("bigdec", ONE, [5, None], [(0, Decimal(5))]),
    "decimals": ("bigdec", ONE, pa.array([Decimal("1.50"), None]), [(0, Decimal("1.50"))]),
    "decimal text, to the nearest double": (
        "double",
        ONE,
        ["0.1", str(BIG)],
        [(0, 0.1), (1, 2.0**53)],
    ),
    "text with blanks around": ("long", ONE, [" 7", "8 "], [(0, 7), (1, 8)]),
    "text of the infinite": ("double", ONE, ["inf", "-Infinity"], [(0, np.inf), (1, -np.inf)]),
    "a category of polars": (
        "keyword",
        ONE,
        pl.Series([":a", None, ":a"], dtype=pl.Categorical),
        [(0, d.kw("a")), (2, d.kw("a"))],
    ),
    "a series of lists of polars": ("long", MANY, pl.Series([[1, None], None]), [(0, 1)]),
}


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # of values, as on any loop
async def test_every_value_of_a_column_is_loaded(conn, case):
    kind, cardinality, column, values = EXACT[case]
    assert repr(await loaded(conn, kind, column, cardinality)) == repr(sorted(values, key=repr))


REFUSED: dict[str, tuple[str, list[Any] | Any, int]] = {
    "an integer beyond doubles": ("double", [1, BIG], 1),
    "an array of integers beyond doubles": ("double", np.array([1, 2, -BIG]), 2),
    "an unsigned integer beyond doubles": ("double", np.array([1, 2**64 - 1], np.uint64), 1),
    "an integer beyond floats": ("float", np.array([1, 2**24 + 1]), 1),
    "integers of arrow beyond doubles": ("double", pa.array([1, None, BIG]), 2),
    "a number with a fraction as long": ("long", np.array([1.0, 2.0, 2.5]), 2),
    "a number with a fraction in a list": ("long", [1.0, 2, 2.5], 2),
    "a float too large to be exact": ("long", [1.0, 2.0**60], 1),
    "nanoseconds of arrays": ("instant", np.array([NOON.replace(tzinfo=None), NANOS], "M8[ns]"), 1),
    "nanoseconds of arrow": (
        "instant",
        pa.array([None, np.datetime64(NANOS)], pa.timestamp("ns")),
        1,
    ),
    "nanoseconds of timestamps": ("instant", [NOON, pd.Timestamp(NANOS)], 1),
    "nanoseconds of scalars": ("instant", [NOON, np.datetime64(NANOS)], 1),
    "nanoseconds of text": ("instant", ["2020-01-01T00:00:00.100000000Z", NANOS], 1),
    "nanoseconds of polars": (
        "instant",
        pl.Series(["2020-01-01T00:00:00", NANOS]).str.to_datetime(time_unit="ns"),
        1,
    ),
    "seconds beyond what an instant is": (
        "instant",
        np.array(["2020-01-01", "+300000-01-01"], "M8[s]"),
        1,
    ),
    "seconds of arrow beyond what an instant is": (
        "instant",
        pa.array([0, 2**62], pa.timestamp("s")),
        1,
    ),
    "a duration": ("long", np.array([1, 2], "m8[ns]"), 0),
    "underscores": ("long", ["1000", "1_000"], 1),
    "underscores in a double": ("double", ["1000", "1_000.5"], 1),
    "underscores in a decimal": ("bigdec", ["1000", "1_000.5"], 1),
    "digits of other scripts": ("long", ["3", "٣"], 1),
    "text that says it is no number": ("double", ["1.5", "nan"], 1),
    "text that no double is large enough for": ("double", ["1e308", "1e309"], 1),
    "a list where there is one value": ("long", [1, [2, 3]], 1),
    "a list of arrow where there is one value": ("long", pa.array([[2], None, [2, 3]]), 0),
    "an array where there is one value": ("long", [None, np.array([2, 3])], 1),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # of values, as on any loop
async def test_what_would_be_cut_is_refused_where_it_stands(conn, case):
    kind, column, row = REFUSED[case]
    with pytest.raises(d.TransactionError) as no:
        await loaded(conn, kind, column)
    assert (no.value.data[":row"], no.value.data[":column"]) == (row, ":x"), str(no.value)
    assert no.value.data[":attribute"] == d.kw("x")
    assert f"Row {row}, column ':x'" in str(no.value)
    assert not [x for x in await conn.db().datoms("eavt") if x.a in (d.kw("x"), d.kw("n"))]


async def test_a_frame_of_pandas_with_mixed_objects_is_read_cell_by_cell(conn):
    frame = pd.DataFrame({":n": [0, 1], ":x": ["a", 5]})
    with pytest.raises(d.TransactionError, match="Row 1, column ':x'"):
        await loaded(conn, "string", frame)
    frame = pd.DataFrame({":n": [0, 1, 2], ":x": [2**70, None, 5]}, dtype=object)
    await loaded(conn, "long", frame[[":n"]])
    await conn.transact(
        [{":db/ident": ":big", ":db/valueType": ":db.type/bigint", ":db/cardinality": ONE}]
    )
    await d.load(conn, frame.rename(columns={":x": ":big"}))
    assert [x.v for x in await conn.db().datoms("aevt", ":big")] == [2**70, 5]


def frame_with_one_name_twice() -> Any:
    return pd.DataFrame([[1, 2]], columns=["a", "a"])


def parquet_with_one_name_twice(folder: Any) -> Any:
    path = folder / "t.parquet"
    pyarrow.parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    return path


def text_file(folder: Any, name: str, text: str) -> Any:
    (folder / name).write_text(text)
    return folder / name


TWICE: Any = {
    "arrow": lambda folder: pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]),
    "pandas": lambda folder: frame_with_one_name_twice(),
    "parquet": parquet_with_one_name_twice,
    "csv": lambda folder: text_file(folder, "t.csv", "a,a\n1,2\n"),
    "tsv": lambda folder: text_file(folder, "t.tsv", "a\ta\n1\t2\n"),
    "jsonl": lambda folder: text_file(folder, "t.jsonl", '{"a":1,"a":2}\n'),
}


@pytest.mark.parametrize("form", TWICE)
async def test_two_columns_of_one_name_are_an_error(conn, tmp_path, form):
    with pytest.raises(d.ArgumentError, match="'a'"):
        await d.load(conn, TWICE[form](tmp_path), prefix="x")


def empty_parquet(folder: Any) -> Any:
    pyarrow.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), folder / "t.parquet")
    return folder / "t.parquet"


EMPTY: Any = {
    "mapping": lambda folder: {"a": []},
    "arrow": lambda folder: pa.table({"a": pa.array([], pa.int64())}),
    "polars": lambda folder: pl.DataFrame({"a": []}),
    "pandas": lambda folder: pd.DataFrame({"a": []}),
    "csv": lambda folder: text_file(folder, "t.csv", "a\n"),
    "parquet": empty_parquet,
}


@pytest.mark.parametrize("form", EMPTY)
async def test_an_empty_table_has_its_columns_checked(conn, tmp_path, form):
    await loaded(conn, "long", [])
    table = EMPTY[form](tmp_path)
    report = await d.load(conn, table, columns={"a": ":x"}, name="empty")
    assert (report.rows, report.transactions, report.total) == (0, 0, 0)
    again = await d.load(conn, table, columns={"a": ":x"}, name="empty")
    assert (again.rows, again.transactions) == (0, 0)
    with pytest.raises(d.ArgumentError, match="no column 'b'"):
        await d.load(conn, table, columns={"a": ":x", "b": ":n"})
    with pytest.raises(d.TransactionError, match=r"Column 'a'.*:y"):
        await d.load(conn, table, columns={"a": ":y"})


async def test_json_lines_hold_to_json(conn, tmp_path):
    await loaded(conn, "double", [])
    path = tmp_path / "t.jsonl"
    for text in ('{":x": NaN}', '{":x": Infinity}', "[" * 100_000, '{":x": 1e999}'):
        path.write_text(f'{{":x": 1.5}}\n\n{text}\n')
        with pytest.raises(d.ArgumentError, match=r"Line 3 of t\.jsonl \(row 1\)"):
            await d.load(conn, path)
    for text in json.dumps({":x": 1e300}), json.dumps({":x": [1]}):
        path.write_text(text)
    with pytest.raises(d.TransactionError, match="Row 0"):
        await d.load(conn, path)
