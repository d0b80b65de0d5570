"""Results as Arrow tables, polars and pandas frames: types, mixtures, and libraries that miss."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import datahike_async as d
from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.index.columns import OBJECT, Column
from datahike_async.index.objects import object_array
from datahike_async.query.answer import frames
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.relations.relation import column_of
from datahike_async.values.types import DoubleArray, FloatArray

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
pl = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")

WHEN = datetime(2024, 5, 6, 7, 8, 9, 10, UTC)
ID = uuid.UUID("0d4d1f1e-7a3c-4b0e-9d3e-2f6a1c5b8e77")
TEXT = "dictionary<values=string, indices=int32, ordered=0>"


def result(*columns: list[Any], kind: Any = QueryList) -> Any:
    made = [column_of(values) for values in columns]
    return kind([f"c{i}" for i in range(len(made))], made, len(columns[0]))


# values, their Arrow type, and what Arrow gives back where that differs
TYPES = [
    ([1, -(2**63)], "int64", None),
    ([1.5, float("inf")], "double", None),
    ([True, False], "bool", None),
    ([WHEN, datetime(1601, 1, 1, tzinfo=UTC)], "timestamp[us, tz=UTC]", None),
    (["a", "b", "a"], TEXT, None),
    ([Keyword("a/b"), Keyword("c")], TEXT, [":a/b", ":c"]),
    ([Symbol("?x"), Symbol("y")], TEXT, ["?x", "y"]),
    ([ID, ID], "string", [str(ID)] * 2),
    ([b"\x00\xff", b""], "binary", None),
    ([Decimal("1.50"), Decimal("22")], "decimal128(4, 2)", [Decimal("1.50"), Decimal("22.00")]),
    ([2**63, 1], "decimal128(19, 0)", [Decimal(2**63), Decimal(1)]),
    ([2**300, 1], "string", [str(2**300), "1"]),
    ([Decimal("1e200"), Decimal(1)], "string", None),
    ([Decimal("NaN"), Decimal(1)], None, None),
    ([Fraction(1, 3), Fraction(1, 2)], "string", ["1/3", "1/2"]),
    ([date(2024, 1, 2)], "date32[day]", None),
    ([datetime(2024, 1, 2)], "timestamp[us]", None),
    ([(1, 2), (3,), ()], "list<item: int64>", [[1, 2], [3], []]),
    ([("a",), ("b", "a")], "list<item: string>", [["a"], ["b", "a"]]),
    ([frozenset({"b", "a"})], "list<item: string>", [["a", "b"]]),
    ([((1,), (2, 3))], "list<item: list<item: int64>>", [[[1], [2, 3]]]),
    ([(1, "a"), (2, "b")], "string", ['(1 "a")', '(2 "b")']),
    ([FloatArray([0.5])], "list<item: float>", [[0.5]]),
    ([DoubleArray([0.1])], "list<item: double>", [[0.1]]),
    ([1, None, 3], "int64", None),
    (["a", None], TEXT, None),
    ([None, None], "null", None),
    ([{Keyword("a"): 1}], "string", ["{:a 1}"]),
    ([{Keyword("a"): 1}, None], "string", ["{:a 1}", None]),
    ([], "null", None),
    # mixtures
    ([1, 1.0, "1", True, None], "string", ["1", "1.0", '"1"', "true", None]),
    (["a", Keyword("a"), ID], TEXT, ['"a"', ":a", f'#uuid "{ID}"']),
]


@pytest.mark.parametrize(("values", "kind", "expected"), TYPES)
def test_arrow_types(values, kind, expected):
    found = result(values)
    if kind is None:
        with pytest.raises(d.QueryError) as caught:
            found.to_arrow()
        assert caught.value.error == ":result/no-arrow-type"
        assert "'c0'" in str(caught.value)
        return
    table = found.to_arrow()
    assert str(table.schema.field("c0").type) == kind
    if kind == "string" and expected is None:
        assert [read(x) for x in table["c0"].to_pylist()] == values
    else:
        assert table["c0"].to_pylist() == (values if expected is None else expected)
    table.validate(full=True)
    # The other two take the same types, whatever they are.
    assert found.to_polars().shape == (len(values), 1)
    assert found.to_pandas().shape == (len(values), 1)


def test_mixed_text_reads_back_as_the_values():
    values = [1, 1.0, "1", True, Keyword("k"), WHEN, Decimal("1.0"), (1, "x")]
    texts = result(values).to_arrow()["c0"].to_pylist()
    assert list(map(read, texts)) == values
    assert [type(read(t)) for t in texts] == list(map(type, values))


def test_a_value_without_any_form_is_named():
    for bad in (object(), "\ud800", {1: object()}):
        with pytest.raises(d.QueryError) as caught:
            result([1, 2], [bad, bad]).to_arrow()
        assert caught.value.error == ":result/no-arrow-type"
        assert caught.value.data[":column"] == "c1"
        assert "'c1'" in str(caught.value)
    nested: Any = 1
    for _ in range(5000):
        nested = (nested,)
    with pytest.raises(d.QueryError, match="c0"):
        QueryList(("c0",), [Column(OBJECT, object_array([nested]))], 1).to_arrow()


def test_a_few_rows_do_not_carry_a_large_dictionary():
    column = Column.of([f"n{i}" for i in range(10_000)]).slice(17, 19)
    (chunk,) = QueryResult(("n",), [column], 2).to_arrow()["n"].chunks
    assert chunk.to_pylist() == ["n17", "n18"]
    assert len(chunk.dictionary) == 2


def test_no_rows_keep_the_types_that_are_known():
    columns = [Column.of(x).slice(0, 0) for x in ([1], ["a"], [Keyword("k")], [WHEN], [ID])]
    table = QueryResult("abcde", columns, 0).to_arrow()
    types = ["int64", TEXT, TEXT, "timestamp[us, tz=UTC]", "string"]
    assert [str(f.type) for f in table.schema] == types
    assert table.num_rows == 0


@pytest.mark.parametrize("kind", [QueryResult, QueryList])
def test_frames_and_the_capsule(kind):
    found = result([1, 2, 3], ["a", "b", "a"], [WHEN] * 3, kind=kind)
    frame = found.to_polars()
    assert dict(frame.schema) == {
        "c0": pl.Int64,
        "c1": pl.Categorical,
        "c2": pl.Datetime("us", "UTC"),
    }
    assert frame.rows() == list(found)
    assert frame.group_by("c1").agg(pl.col("c0").sum()).sort("c0").rows() == [("b", 2), ("a", 4)]
    assert pl.DataFrame(found).equals(frame)
    assert pl.from_arrow(found).shape[0] == 3
    assert pa.table(found).equals(found.to_arrow())
    pandas = found.to_pandas()
    assert list(map(str, pandas.dtypes)) == ["int64", "category", "datetime64[us, UTC]"]
    assert list(pandas.itertuples(index=False, name=None)) == list(found)


def test_the_database_cannot_be_written_through_a_frame():
    column = Column.of([1, 2, 3])
    found = QueryResult(("n",), [column], 3)
    frame = found.to_pandas()
    if frame["n"].to_numpy().flags.writeable:
        frame.loc[0, "n"] = 9
    array = found.to_polars()["n"].to_numpy(writable=True)
    array[1] = 9
    assert column.tolist() == [1, 2, 3]
    assert not np.asarray(found.to_arrow()["n"].chunk(0)).flags.writeable


@pytest.mark.anyio
async def test_of_a_query():
    db = d.init_db([(1, ":name", "Ada"), (2, ":name", "Bob"), (1, ":at", WHEN)])
    found = await d.q("[:find ?e ?n ?a (count ?v) :where [?e :name ?n] [?e ?a ?v]]", db)
    table = found.to_arrow()
    assert table.column_names == ["e", "n", "a", "count"]
    assert sorted(table["a"].to_pylist()) == [":at", ":name", ":name"]
    point = await d.q("[:find ?n :in $ ?e :where [?e :name ?n]]", db, 1)
    assert point.to_arrow().to_pylist() == [{"n": "Ada"}]
    empty = await d.q('[:find ?e ?n :where [?e :name ?n] [?e :name "No"]]', db)
    assert empty.to_polars().shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "library"),
    [
        (lambda r: r.to_arrow(), "pyarrow"),
        (lambda r: r.__arrow_c_stream__(), "pyarrow"),
        (lambda r: r.to_polars(), "polars"),
        (lambda r: r.to_polars(), "pyarrow"),
        (lambda r: r.to_pandas(), "pandas"),
        (lambda r: r.to_pandas(), "pyarrow"),
    ],
)
def test_a_library_that_is_not_there(monkeypatch, call, library):
    real = frames.import_module

    def missing(name: str) -> Any:
        if name == library:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(frames, "import_module", missing)
    with pytest.raises(d.MissingLibrary) as caught:
        call(result([1]))
    assert isinstance(caught.value, ImportError)
    assert caught.value.error == ":library/missing"
    assert f"pip install {library}" in str(caught.value)


def test_the_library_is_imported_without_them():
    import subprocess
    import sys

    code = (
        "import sys, datahike_async; "
        "sys.exit(bool({'pyarrow', 'polars', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
