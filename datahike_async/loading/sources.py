"""Tables batch by batch: Arrow, polars, pandas, mappings of columns; CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import numpy as np

from datahike_async.errors import ArgumentError, MissingLibrary, shown

__all__ = ["Batch", "Place", "Source", "open_source"]

# One call that reads more lines than this keeps the interpreter from other threads for long.
_LINES: Final = 4096
_FORMS: Final = (
    "an Arrow table, a polars or pandas frame, a mapping of column names to lists or arrays, or "
    "the path of a .csv, .tsv, .jsonl, .ndjson or .parquet file"
)


class Batch(NamedTuple):
    """Rows of a table: columns by name, each a list or an array of NumPy or Arrow.

    ``some`` says that the table may have columns in which these rows have no value.
    """

    rows: int
    columns: dict[str, Any]
    some: bool = False


class Source(NamedTuple):
    """A table to be read: ``batches(start, size)`` skips rows; ``total`` is None if not known.

    Where no row is left, there is one batch without rows, which has the columns. ``place(row)``
    says where a row stands in its file, by the line that it begins with; it reads the file again.
    """

    batches: Callable[[int, int], Generator[Batch]]
    total: int | None
    place: Callable[[int], Place | None] = lambda row: None


class Place(NamedTuple):
    """A line of a file, counted from 1."""

    line: int
    file: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.file}"


def open_source(table: Any) -> Source:
    """Return a table of any form. Raises ArgumentError for what is none."""
    if isinstance(table, (str, os.PathLike)):
        path = Path(table)
        form = _FILES.get(path.suffix.lower())
        if form is None:
            raise ArgumentError(f"load takes {_FORMS}; {path.name} ends in none of these.")
        return Source(partial(form.read, path), None, partial(form.place, path))
    if isinstance(table, Mapping):
        return _mapping(table)
    if type(table).__module__.partition(".")[0] == "pandas":
        return _pandas(table)
    if hasattr(table, "__arrow_c_stream__"):
        return _arrow(_pyarrow("a table").table(table))
    hint = ""
    if isinstance(table, Sequence) and table and isinstance(table[0], Mapping):
        hint = " A list of maps is for transact."
    raise ArgumentError(f"load takes {_FORMS}, not {shown(table)}.{hint}")


def _pyarrow(what: str) -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise MissingLibrary(
            f"Loading {what} needs pyarrow: pip install 'datahike-async[frames]'."
        ) from None


def _distinct(names: Sequence[str], of: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ArgumentError(f"Columns of {of} share a name: {shown(twice)}.")


# -- tables in memory ------------------------------------------------------------------------------


def _mapping(columns: Mapping[Any, Any]) -> Source:
    sizes = {}
    for name, column in columns.items():
        if not isinstance(name, str):
            raise ArgumentError(f"The name of a column is a str, not {shown(name)}.")
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise ArgumentError(f"Column {name!r} is a list or an array, not {shown(column)}.")
        if getattr(column, "ndim", 1) != 1:
            raise ArgumentError(
                f"Column {name!r} is an array of {column.ndim} dimensions, not one."
            )
        sizes[name] = len(column)
    if len(set(sizes.values())) > 1:
        raise ArgumentError(f"The columns differ in length: {shown(sizes)}.")
    total = next(iter(sizes.values()), 0)
    held = {name: _sliceable(column) for name, column in columns.items()}

    def batches(start: int, size: int) -> Generator[Batch]:
        for i in range(start, max(total, start + 1), size):
            stop = min(i + size, total)
            yield Batch(max(stop - i, 0), {name: column[i:stop] for name, column in held.items()})

    return Source(batches, total)


def _sliceable(column: Any) -> Any:
    if isinstance(column, (list, tuple, np.ndarray)):
        return column
    if hasattr(column, "to_arrow"):  # a series of polars
        return column.to_arrow()
    if hasattr(column, "notna"):  # a series of pandas
        return column.to_numpy() if column.notna().all() else _cells_of(column)
    return column if isinstance(column, Sequence) or hasattr(column, "type") else list(column)


def _cells_of(series: Any) -> list[Any]:
    """Return the cells of a series of pandas, None for those that are missing."""
    pairs = zip(series.tolist(), series.notna().tolist(), strict=True)
    return [value if known else None for value, known in pairs]


def _pandas(frame: Any) -> Source:
    pa = _pyarrow("a pandas frame")
    names = [*map(str, frame.columns)]
    _distinct(names, "the frame")

    def column(i: int) -> Any:
        series = frame.iloc[:, i]
        try:
            return pa.Array.from_pandas(series)
        except (pa.ArrowException, OverflowError):
            return _cells_of(series)  # objects of several kinds

    return _mapping({name: column(i) for i, name in enumerate(names)})


def _arrow(table: Any) -> Source:
    _distinct(table.column_names, "the table")

    def batches(start: int, size: int) -> Generator[Batch]:
        for i in range(start, max(table.num_rows, start + 1), size):
            yield _of_arrow(table.slice(i, size))

    return Source(batches, table.num_rows)


def _of_arrow(table: Any) -> Batch:
    return Batch(table.num_rows, dict(zip(table.column_names, table.columns, strict=True)))


# -- files -----------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """A form of files: how to read one in batches, and where a row of it stands."""

    read: Callable[[Path, int, int], Generator[Batch]]
    place: Callable[[Path, int], Place | None]


def _parquet(path: Path, start: int, size: int) -> Generator[Batch]:
    pa = _pyarrow("a Parquet file")
    try:
        with import_module("pyarrow.parquet").ParquetFile(path) as file:
            _distinct(file.schema_arrow.names, path.name)
            groups = range(file.metadata.num_row_groups)
            rows = [file.metadata.row_group(i).num_rows for i in groups]
            stops = np.cumsum(rows, dtype=np.int64)
            first = int(stops.searchsorted(start, side="right"))
            at = start - (int(stops[first - 1]) if first else 0)
            if first == len(rows):
                yield _of_arrow(file.schema_arrow.empty_table())
                return
            held: list[Any] = []
            for part in file.iter_batches(size, row_groups=[*groups[first:]]):
                held.append(part.slice(at))
                at = max(at - part.num_rows, 0)
                if sum(x.num_rows for x in held) >= size:
                    whole = pa.Table.from_batches(held)
                    held = whole.slice(size).to_batches()
                    yield _of_arrow(whole.slice(0, size))
            if any(x.num_rows for x in held):
                yield _of_arrow(pa.Table.from_batches(held))
    except pa.ArrowException as error:
        raise ArgumentError(f"{path.name} cannot be read as Parquet: {error}") from None
    except OSError as error:
        raise _unread(path, error) from None


def _unread(path: Path, error: OSError) -> ArgumentError:
    return ArgumentError(f"{path} cannot be read: {error.strerror or error}.")


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{path.name} is not UTF-8 ({error.reason}); save it as UTF-8, or pass what another "
            "library has read of it."
        ) from None
    except OSError as error:
        raise _unread(path, error) from None


def _lines(lines: Iterator[Any], size: int) -> list[Any]:
    """Return the next lines, taken in several calls."""
    out: list[Any] = []
    while len(out) < size:
        more = list(islice(lines, min(_LINES, size - len(out))))
        if not more:
            break
        out += more
    return out


def _skipped(rows: Iterator[Any], count: int) -> None:
    while count and (some := len(_lines(rows, min(count, 16 * _LINES)))):
        count -= some


def _row(place: Place | None, row: int) -> str:
    return f"Row {row}" if place is None else f"L{str(place)[1:]} (row {row})"


def _delimited(delimiter: str) -> _Form:
    def reader_of(file: TextIO) -> Any:
        return csv.reader(file, delimiter=delimiter, strict=True)

    def read(path: Path, start: int, size: int) -> Generator[Batch]:
        with _opened(path, "") as file:
            reader = reader_of(file)
            rows = filter(None, reader)  # without blank lines
            try:
                names: list[str] = next(rows, [])
                _distinct(names, path.name)
                _skipped(rows, start)
                at = start
                while part := _lines(rows, size):
                    for i, row in enumerate(part):
                        if len(row) != len(names):
                            raise ArgumentError(
                                f"{_row(place(path, at + i), at + i)} has {len(row)} fields, and "
                                f"the first line names {len(names)} columns."
                            )
                    columns = {
                        # What is empty is not said.
                        name: [row[i] or None for row in part]
                        for i, name in enumerate(names)
                    }
                    at += len(part)
                    yield Batch(len(part), columns)
                if at == start:
                    yield Batch(0, {name: [] for name in names})
            except csv.Error as error:
                raise ArgumentError(
                    f"{path.name} cannot be read as rows of fields: {error}, in line "
                    f"{reader.line_num}."
                ) from None

    def place(path: Path, row: int) -> Place | None:
        with _opened(path, "") as file:
            reader, begin, left = reader_of(file), 1, row + 1
            for fields in reader:
                if fields and not left:
                    return Place(begin, path.name)
                left -= bool(fields)
                begin = reader.line_num + 1
        return None

    return _Form(read, place)


def _json(path: Path, start: int, size: int) -> Generator[Batch]:
    with _opened(path) as file:
        lines = (line for line in file if not line.isspace())
        _skipped(lines, start)
        at = start
        while part := _lines(lines, size):
            rows = []
            for i, line in enumerate(part):
                try:
                    row = _DECODER.decode(line)
                except (ValueError, RecursionError) as error:
                    where = _row(_json_place(path, at + i), at + i)
                    raise ArgumentError(f"{where} is no JSON: {_said(error)}.") from None
                if not isinstance(row, dict):
                    where = _row(_json_place(path, at + i), at + i)
                    raise ArgumentError(f"{where} is no object of JSON: {shown(row)}.")
                rows.append(row)
            at += len(part)
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {name: [row.get(name) for row in rows] for name in names}
            yield Batch(len(rows), columns, some=True)


def _json_place(path: Path, row: int) -> Place | None:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            row -= not line.isspace()
            if row < 0:
                return Place(number, path.name)
    return None


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.pos}"
    return str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"it says {shown(twice)} more than once")
    return made


def _number(text: str) -> float:
    made = float(text)
    if not math.isfinite(made):
        raise ValueError(f"{text} is no number that a double can be")
    return made


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_constant=_number
)
_FILES: Final = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _Form(_json, _json_place),
    ".ndjson": _Form(_json, _json_place),
    ".parquet": _Form(_parquet, lambda path, row: None),
}
