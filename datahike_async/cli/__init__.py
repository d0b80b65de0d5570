"""The command line ``datahike-async``: demo, q, transact; and those of branches and of upkeep.

Databases are named by ``--path DIR`` (a file database) or ``--config EDN``. EDN goes in; EDN, JSON
or a table comes out. Exit codes: 0 done, 1 an error of the database, something that ``verify`` or
``audit`` found, or conflicts of a merge, 2 bad arguments, 3 ``audit`` found nothing wrong and could
not look at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

import datahike_async as d
from datahike_async.cli import upkeep, versions
from datahike_async.cli.shared import (
    add_database,
    add_format,
    as_table,
    config_of,
    formatted,
    text_of,
    time_point,
)
from datahike_async.edn import read
from datahike_async.edn.types import Keyword
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.language.parse import parse_query
from datahike_async.query.language.text import name_of
from datahike_async.tables import table

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="datahike-async", description="An immutable Datalog database, from the shell."
    )
    parser.add_argument("--version", action="version", version=f"datahike-async {d.__version__}")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="load this machine's Python packages and ask of them")
    demo.add_argument("--path", type=Path, default=Path("demo-db"), help="default: ./demo-db")
    demo.add_argument("--package", help="whose dependents to list; default: the most needed one")
    demo.set_defaults(run=_demo)

    q = commands.add_parser("q", help="run a query")
    add_database(q)
    q.add_argument("query", help="EDN, or - for standard input")
    q.add_argument("inputs", nargs="*", help="further inputs as EDN, in the order of :in")
    q.add_argument("--as-of", help="a transaction id or an instant (RFC 3339)")
    add_format(q)
    q.set_defaults(run=_query)

    transact = commands.add_parser("transact", help="run a transaction")
    add_database(transact)
    transact.add_argument("tx_data", help="EDN, or - for standard input")
    transact.add_argument("--create", action="store_true", help="create the database if need be")
    transact.add_argument(
        "--schema-flexibility",
        choices=("read", "write"),
        help="of a database that is created; with read, attributes need no schema; default: write",
    )
    add_format(transact)
    transact.set_defaults(run=_transact)

    versions.add_commands(commands)
    upkeep.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        done: int = anyio.run(partial(arguments.run, arguments), backend=arguments.loop)
        return done
    except d.DatahikeError as error:
        keyword = f"{error.error} " if error.error else ""
        print(f"datahike-async: {keyword}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


async def _demo(arguments: argparse.Namespace) -> int:
    try:
        import packaging  # noqa: F401 - only the demo needs it; core does without
    except ImportError:
        print(
            "datahike-async: the demo reads requirements with the package 'packaging': "
            "pip install 'datahike-async[demo]'",
            file=sys.stderr,
        )
        return 2
    from datahike_async.demo.run import run

    return await run(arguments.path, arguments.package)


async def _query(arguments: argparse.Namespace) -> int:
    text = await text_of(arguments.query)
    inputs = [read(x) for x in arguments.inputs]
    async with d.connect(config_of(arguments)) as conn:
        db = conn.db()
        if arguments.as_of is not None:
            db = db.as_of(time_point(arguments.as_of))
        found = await db.q(text, *inputs)
        if isinstance(found, QueryResult):
            found = sorted(found, key=repr)
        elif isinstance(found, QueryList):
            found = list(found)
    if arguments.format == "table":
        names = [name_of(e) for e in parse_query(text).find.elements]
        print(as_table(names, found), end="")
    else:
        print(formatted(found, arguments.format))
    return 0


async def _transact(arguments: argparse.Namespace) -> int:
    text = await text_of(arguments.tx_data)
    config = d.Config.of(config_of(arguments))
    if arguments.schema_flexibility is not None:
        config = d.Config.of(config, schema_flexibility=arguments.schema_flexibility)
    async with d.connect(config, create=arguments.create) as conn:
        report = await conn.transact(text)
    if arguments.format == "table":
        rows = [
            (x.e, repr(x.a), x.v, x.tx, "add" if x.added else "retract") for x in report.tx_data
        ]
        print(table(("e", "a", "v", "tx", "op"), rows), end="")
        return 0
    if arguments.format == "json":
        print(formatted(report, "json"))
        return 0
    data = {
        Keyword("tx"): report.tx,
        Keyword("tempids"): dict(report.tempids),
        Keyword("tx-data"): [list(x) for x in report.tx_data],
    }
    print(formatted(data, arguments.format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
