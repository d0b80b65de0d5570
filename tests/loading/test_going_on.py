"""load: goes on with the table that it began with, says which line it means, and reads ahead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet
import pytest

import datahike_async as d
from datahike_async.loading import sources

pytestmark = pytest.mark.anyio

ROWS = 10


class Stop(Exception):
    pass


def stop_at(rows: int) -> Any:
    def progress(report: d.LoadReport) -> None:
        if report.rows == rows:
            raise Stop

    return progress


@pytest.fixture
async def conn(tmp_path):
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db")},
        "schema_flexibility": "read",
    }
    async with d.connect(config, create=True) as conn:
        yield conn


def written(folder: Path, form: str, names: list[str], count: int = ROWS) -> Any:
    """Return a table of two columns in one of the forms that are read differently."""
    columns = {":name": names[:count], ":n": [*range(count)]}
    path = folder / f"table.{form}"
    if form == "csv":
        lines = [",".join(columns), *(f"{n},{i}" for n, i in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines))
    elif form == "jsonl":
        rows = (
            f'{{":name": "{n}", ":n": "{i}"}}\n' for n, i in zip(*columns.values(), strict=True)
        )
        path.write_text("".join(rows))
    elif form == "parquet":
        pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=3)
    else:
        return columns
    return path


NAMES = [f"n{i}" for i in range(ROWS)]
FORMS = ["mapping", "csv", "jsonl", "parquet"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "other",
    {
        "other rows": [f"m{i}" for i in range(ROWS)],
        "a row more in front": ["new", *NAMES],
        "the last row that is in differs": [*NAMES[:5], "N5", *NAMES[6:]],
        "fewer rows than are in": NAMES[:3],
    }.items(),
    ids=lambda x: x[0],
)
async def test_another_table_under_the_name_of_a_load_is_refused(conn, tmp_path, form, other):
    with pytest.raises(Stop):
        table = written(tmp_path, form, NAMES)
        await d.load(conn, table, name="people", batch=3, progress=stop_at(6))
    count = len(await conn.db().datoms("aevt", ":name"))
    assert count == 6
    names = other[1]
    table = written(tmp_path, form, names, min(len(names), ROWS))
    with pytest.raises(d.ArgumentError, match=r"Rows 3 to 5 .*'people'.*another table"):
        await d.load(conn, table, name="people")
    assert len(await conn.db().datoms("aevt", ":name")) == count
    # The same table goes on, in any form and batches of any size, and may be longer now.
    longer = [*NAMES, "more"]
    table = written(tmp_path, form, longer, len(longer))
    report = await d.load(conn, table, name="people", batch=2)
    assert (report.rows, report.resumed) == (11, 6)
    assert sorted(x.v for x in await conn.db().datoms("aevt", ":name")) == sorted(longer)


async def test_columns_that_are_named_otherwise_are_another_table(conn):
    table = {"a": ["x", "y", "z"], "b": [1, 2, 3]}
    with pytest.raises(Stop):
        await d.load(conn, table, prefix="t", name="t", batch=1, progress=stop_at(2))
    with pytest.raises(d.ArgumentError, match="Rows 1 to 1"):
        await d.load(conn, table, prefix="u", name="t")
    report = await d.load(conn, table, prefix="t", name="t")
    assert report.resumed == 2


async def test_a_complete_load_refuses_another_table_too(conn):
    await d.load(conn, {":n": [1, 2]}, name="t")
    with pytest.raises(d.ArgumentError, match="another table"):
        await d.load(conn, {":n": [1, 3]}, name="t")
    assert (await d.load(conn, {":n": [1, 2]}, name="t")).transactions == 0


async def test_sets_are_the_same_table_in_any_order(conn):
    await conn.transact(
        [
            {
                ":db/ident": ":tags",
                ":db/valueType": ":db.type/string",
                ":db/cardinality": ":db.cardinality/many",
            }
        ]
    )
    await d.load(conn, {":tags": [["a", "b", "c"]]}, name="t")
    report = await d.load(conn, {":tags": [["c", "a", "b"]]}, name="t")
    assert report.resumed == 1


CSV = 'id,age\n\n1,30\n\n2,"31"\n\n\n"3",%s\n'
JSON = '{"id": 1}\n\n{"id": 2}\n  \n{"id": 3, "age": "%s"}\n'


@pytest.mark.parametrize(("file", "text", "line"), [("t.csv", CSV, 8), ("t.jsonl", JSON, 5)])
@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_an_error_names_the_line_of_the_file(conn, tmp_path, file, text, line, batch):
    await conn.transact(
        [
            {
                ":db/ident": f":p/{name}",
                ":db/valueType": ":db.type/long",
                ":db/cardinality": ":db.cardinality/one",
                **({":db/unique": ":db.unique/value"} if name == "id" else {}),
            }
            for name in ("id", "age")
        ]
    )
    path = tmp_path / file
    path.write_text(text % "old")
    with pytest.raises(d.TransactionError) as no:
        await d.load(conn, path, prefix="p", batch=batch)
    assert f"Row 2 (line {line} of {file}), column 'age'" in str(no.value)
    data = no.value.data
    assert (data[":row"], data[":line"], data[":column"], data[":rows"]) == (
        2,
        line,
        "age",
        2 if batch < 3 else 0,
    )
    # What the transaction refuses, too.
    async with d.connect({"store": {"backend": "memory"}}, create=True) as other:
        await other.transact(
            [
                {
                    ":db/ident": ":p/id",
                    ":db/valueType": ":db.type/long",
                    ":db/cardinality": ":db.cardinality/one",
                    ":db/unique": ":db.unique/value",
                }
            ]
        )
        await other.transact([{":p/id": 3}])
        with pytest.raises(d.TransactionError, match=rf"Row 2 \(line {line} of {file}\)"):
            await d.load(other, path, prefix="p", columns={"age": None}, batch=batch)


async def test_lines_within_fields_count(conn, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,text\r\n1,"a\r\nb"\r\n\r\n2,x,y\r\n')
    with pytest.raises(d.ArgumentError, match=r"Line 5 of t\.csv \(row 1\) has 3 fields"):
        await d.load(conn, path)
    path.write_text('id,text\n1,x\n2,"a"b\n')
    with pytest.raises(d.ArgumentError, match=r"t\.csv cannot be read .* line 3"):
        await d.load(conn, path)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
async def test_a_file_that_cannot_be_read_is_named(conn, tmp_path, form):
    with pytest.raises(d.ArgumentError, match=rf"nowhere\.{form} cannot be read"):
        await d.load(conn, tmp_path / f"nowhere.{form}")
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(d.ArgumentError, match=r"t\.parquet cannot be read as Parquet"):
        await d.load(conn, os.fspath(tmp_path / "t.parquet"))


async def test_the_next_batch_is_read_while_one_is_committed(conn, monkeypatch):
    """A commit waits until what comes next was asked for, and no more than that."""
    asked: list[int] = []
    mapping = sources._mapping

    def noted(columns: Any) -> Any:
        source = mapping(columns)

        def batches(start: int, size: int) -> Any:
            for batch in source.batches(start, size):
                asked.append(batch.columns[":n"][0])
                yield batch

        return source._replace(batches=batches)

    monkeypatch.setattr(sources, "_mapping", noted)
    committer = conn._transactor.branch.committer
    publish = committer.publish
    seen: list[list[int]] = []

    async def slow(*args: Any) -> Any:
        while len(asked) < min(len(seen) + 2, 3):
            await anyio.sleep(0.001)
        seen.append(list(asked))
        return await publish(*args)

    monkeypatch.setattr(committer, "publish", slow)
    with anyio.fail_after(30):
        report = await d.load(conn, {":n": [*range(6)]}, batch=2)
    assert (report.rows, report.transactions) == (6, 3)
    assert seen == [[0, 2], [0, 2, 4], [0, 2, 4]]


async def test_what_is_wrong_with_the_next_batch_comes_after_this_one_is_in(conn, monkeypatch):
    await conn.transact(
        [
            {
                ":db/ident": ":n",
                ":db/valueType": ":db.type/long",
                ":db/cardinality": ":db.cardinality/one",
            }
        ]
    )
    told = []
    with pytest.raises(d.TransactionError, match="Row 2, column ':n'") as no:
        await d.load(
            conn, {":n": [0, 1, "x"]}, batch=2, name="t", progress=lambda r: told.append(r.rows)
        )
    assert no.value.data[":rows"] == 2
    assert told == [2]
    assert (await d.load(conn, {":n": [0, 1, 5]}, name="t")).resumed == 2
