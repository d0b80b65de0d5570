"""What commands share: naming a database, reading what was given, printing what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import anyio

import datahike_async as d
from datahike_async.edn import read, write
from datahike_async.edn.types import Keyword
from datahike_async.tables import table

__all__ = [
    "add_database",
    "add_format",
    "as_table",
    "commit_or_branch",
    "config_of",
    "formatted",
    "print_report",
    "print_rows",
    "text_of",
    "time_point",
]


class Report(Protocol):
    """What can be printed, in words or as JSON."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        ...


def add_database(parser: argparse.ArgumentParser, *, branch: bool = True) -> None:
    """Let a database be named, and with ``branch`` which one of it is opened."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--path", help="the folder of a file database")
    group.add_argument("--config", help="a configuration as EDN")
    if branch:
        parser.add_argument("--branch", help="the branch to open; default: :db")
    else:
        parser.set_defaults(branch=None)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Let it be said how what comes out is printed."""
    parser.add_argument("--format", choices=("edn", "json", "table"), default="table")


def config_of(arguments: argparse.Namespace) -> Any:
    """Return the configuration of the database that was named."""
    config: Any = arguments.config
    if arguments.path is not None:
        config = {"store": {"backend": "file", "path": arguments.path}}
    return config if arguments.branch is None else d.Config.of(config, branch=arguments.branch)


async def text_of(argument: str) -> str:
    """Return what was given, or standard input for -."""
    if argument != "-":
        return argument
    return await anyio.to_thread.run_sync(sys.stdin.read)


def time_point(text: str) -> int | datetime:
    """Return a transaction id or an instant."""
    if text.isdigit():
        return int(text)
    found = read(f'#inst "{text}"')
    assert isinstance(found, datetime)
    return found


def commit_or_branch(name: str) -> UUID | str:
    """Return the id of a commit as such, and the name of a branch or a tag as it is."""
    try:
        return UUID(name)
    except ValueError:
        return name


def print_report(report: Report, form: str) -> None:
    """Print a report: in words where a table would be printed."""
    if form == "table":
        print(report)
    elif form == "json":
        print(formatted(report, form))
    else:
        print(formatted(_keyed(report.as_json()), form))


def _keyed(value: Any) -> Any:
    if isinstance(value, dict):
        return {Keyword(key.replace("_", "-")): _keyed(one) for key, one in value.items()}
    return [_keyed(one) for one in value] if isinstance(value, list) else value


def print_rows(names: Sequence[str], rows: Sequence[tuple[Any, ...]], form: str) -> None:
    """Print rows under the names of their columns."""
    if form == "table":
        shown = [[_cell(value) for value in row] for row in rows]
        print(table(names, shown), end="")
        return
    keys: Sequence[Any] = names if form == "json" else [Keyword(name) for name in names]
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    print(formatted(found, form))


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict):
        return write(value)
    # As it is written on the command line.
    return str(value) if isinstance(value, UUID) else value


def as_table(names: Sequence[str], found: Any) -> str:
    """Return what a query found as a table."""
    if not isinstance(found, (list, tuple, AbstractSet)):
        return f"{found if isinstance(found, str) else write(found)}\n"
    if isinstance(found, tuple):
        return table(names, [found])
    rows = list(found)
    if rows and isinstance(rows[0], dict):
        return table([str(k) for k in rows[0]], [list(r.values()) for r in rows])
    if rows and not isinstance(rows[0], (tuple, list)):
        rows = [(x,) for x in rows]
    return table(names, rows)


def formatted(value: Any, form: str) -> str:
    """Return a value as EDN or JSON."""
    if form == "edn":
        return write(_edn(value), pretty=True)
    return json.dumps(d.jsonable(value), ensure_ascii=False, indent=2)


def _edn(value: Any) -> Any:
    """Return a result with its rows as vectors."""
    if isinstance(value, tuple):
        return [_edn(x) for x in value]
    if isinstance(value, list):
        return [_edn(x) for x in value]
    if isinstance(value, dict):
        return {k: _edn(v) for k, v in value.items()}
    return value
