"""The command line ``datahike-async``: demo, q, transact, branches, branch, log, diff, merge, info,
verify, audit, gc, backup, restore.

Databases are named by ``--path DIR`` (a file database) or ``--config EDN``. EDN goes in; EDN, JSON
or a table comes out. Exit codes: 0 done, 1 an error of the database, something that ``verify`` or
``audit`` found, or conflicts of a merge, 2 bad arguments, 3 ``audit`` found nothing wrong and could
not look at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio

import datahike_async as d
from datahike_async.edn import read, write
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

    q = commands.add_parser("q", help="run a query")
    _add_database(q)
    q.add_argument("query", help="EDN, or - for standard input")
    q.add_argument("inputs", nargs="*", help="further inputs as EDN, in the order of :in")
    q.add_argument("--as-of", help="a transaction id or an instant (RFC 3339)")
    q.add_argument("--format", choices=("edn", "json", "table"), default="table")

    transact = commands.add_parser("transact", help="run a transaction")
    _add_database(transact)
    transact.add_argument("tx_data", help="EDN, or - for standard input")
    transact.add_argument("--create", action="store_true", help="create the database if need be")
    transact.add_argument(
        "--schema-flexibility",
        choices=("read", "write"),
        help="of a database that is created; with read, attributes need no schema; default: write",
    )
    transact.add_argument("--format", choices=("edn", "json", "table"), default="table")

    branches = commands.add_parser("branches", help="list the branches of a database")
    _add_database(branches)
    branches.add_argument("--format", choices=("edn", "json", "table"), default="table")

    branch = commands.add_parser("branch", help="make a branch, or delete one")
    _add_database(branch)
    branch.add_argument("name", help="of the new branch")
    branch.add_argument("--of", help="a branch, or the id of a commit; default: the one opened")
    branch.add_argument("--delete", action="store_true", help="delete it instead")

    log = commands.add_parser("log", help="list commits, the newest first")
    _add_database(log)
    log.add_argument("--limit", type=int, default=20, help="how many; default: 20")
    log.add_argument("--format", choices=("edn", "json", "table"), default="table")

    diff = commands.add_parser("diff", help="list what two branches or commits differ in")
    _add_database(diff)
    diff.add_argument("before", help="a branch, or the id of a commit")
    diff.add_argument("after", nargs="?", help="another; default: the one opened")
    diff.add_argument("--format", choices=("edn", "json", "table"), default="table")

    merge = commands.add_parser(
        "merge", help="take over what another branch has changed; exit code 1 for conflicts"
    )
    _add_database(merge)
    merge.add_argument("source", help="a branch, or the id of a commit")
    merge.add_argument("--preview", action="store_true", help="tell what it would do, no more")
    merge.add_argument("--on-conflict", choices=("abort", "ours", "theirs"), default="abort")
    merge.add_argument("--format", choices=("edn", "json", "table"), default="table")

    info = commands.add_parser("info", help="say what a database is made of: sizes, branches, …")
    _add_database(info, branch=False)
    info.add_argument("--format", choices=("edn", "json", "table"), default="table")

    verify = commands.add_parser(
        "verify", help="look whether all of a database is there and whole; exit code 1 if not"
    )
    _add_database(verify, branch=False)
    verify.add_argument("--deep", action="store_true", help="compare the log with the indexes, too")
    verify.add_argument("--format", choices=("edn", "json", "table"), default="table")

    audit = commands.add_parser(
        "audit",
        help="look whether a database is what its commits' ids say; exit code 1 if not, 3 if that "
        "cannot be told of all of it",
    )
    _add_database(audit)
    audit.add_argument("--deep", action="store_true", help="look at all nodes and the log, too")
    audit.add_argument("--limit", type=int, help="look at so many commits, the newest")
    audit.add_argument("--format", choices=("edn", "json", "table"), default="table")

    gc = commands.add_parser("gc", help="collect garbage: remove what nothing needs any more")
    _add_database(gc)
    gc.add_argument("--dry-run", action="store_true", help="tell what could be freed, no more")
    gc.add_argument("--commits", type=int, help="keep so many of each branch")
    gc.add_argument("--seconds", type=float, help="keep those that are not older")
    gc.add_argument("--remove-before", help="a transaction id or an instant (RFC 3339)")
    gc.add_argument("--format", choices=("edn", "json", "table"), default="table")
    backup = commands.add_parser("backup", help="copy a database, or bring a copy up to date")
    _add_database(backup, branch=False)
    _add_place(backup, "to", "of the copy")
    restore = commands.add_parser("restore", help="make a database of a copy of it")
    _add_database(restore, branch=False)
    _add_place(restore, "from", "of the copy that is to be restored")
    for copying in (backup, restore):
        copying.add_argument("--only", action="append", help="a branch; may be repeated")
        copying.add_argument("--id", type=UUID, help="of what is made; default: as in the source")
        copying.add_argument("--format", choices=("edn", "json", "table"), default="table")
    return parser


def _add_place(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(f"--{name}", dest="place", help=f"the folder {what}")
    group.add_argument(f"--{name}-config", dest="place_config", help=f"the configuration {what}")


def _add_database(parser: argparse.ArgumentParser, *, branch: bool = True) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--path", help="the folder of a file database")
    group.add_argument("--config", help="a configuration as EDN")
    if branch:
        parser.add_argument("--branch", help="the branch to open; default: :db")
    else:
        parser.set_defaults(branch=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    command = {
        "demo": _demo,
        "q": _query,
        "transact": _transact,
        "branches": _branches,
        "branch": _branch,
        "log": _log,
        "diff": _diff,
        "merge": _merge,
        "info": _info,
        "verify": _verify,
        "audit": _audit,
        "gc": _gc,
        "backup": _backup,
        "restore": _restore,
    }[arguments.command]
    try:
        return anyio.run(partial(command, arguments), backend=arguments.loop)
    except d.DatahikeError as error:
        keyword = f"{error.error} " if error.error else ""
        print(f"datahike-async: {keyword}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _config(arguments: argparse.Namespace) -> Any:
    config: Any = arguments.config
    if arguments.path is not None:
        config = {"store": {"backend": "file", "path": arguments.path}}
    return config if arguments.branch is None else d.Config.of(config, branch=arguments.branch)


async def _text(argument: str) -> str:
    if argument != "-":
        return argument
    return await anyio.to_thread.run_sync(sys.stdin.read)


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
    text = await _text(arguments.query)
    inputs = [read(x) for x in arguments.inputs]
    async with d.connect(_config(arguments)) as conn:
        db = conn.db()
        if arguments.as_of is not None:
            db = db.as_of(_time_point(arguments.as_of))
        found = await db.q(text, *inputs)
        if isinstance(found, QueryResult):
            found = sorted(found, key=repr)
        elif isinstance(found, QueryList):
            found = list(found)
    if arguments.format == "table":
        names = [name_of(e) for e in parse_query(text).find.elements]
        print(_as_table(names, found), end="")
    else:
        print(_formatted(found, arguments.format))
    return 0


def _time_point(text: str) -> int | datetime:
    if text.isdigit():
        return int(text)
    found = read(f'#inst "{text}"')
    assert isinstance(found, datetime)
    return found


async def _transact(arguments: argparse.Namespace) -> int:
    text = await _text(arguments.tx_data)
    config = d.Config.of(_config(arguments))
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
        print(_formatted(report, "json"))
        return 0
    data = {
        Keyword("tx"): report.tx,
        Keyword("tempids"): dict(report.tempids),
        Keyword("tx-data"): [list(x) for x in report.tx_data],
    }
    print(_formatted(data, arguments.format))
    return 0


async def _branches(arguments: argparse.Namespace) -> int:
    rows = []
    async with d.connect(_config(arguments), read_only=True) as conn:
        for name in sorted(await d.branches(conn)):
            db = await d.branch_as_db(conn, name)
            rows.append((name, d.commit_id(db), db.max_tx))
    _print(("branch", "commit", "tx"), rows, arguments.format)
    return 0


async def _branch(arguments: argparse.Namespace) -> int:
    async with d.connect(_config(arguments)) as conn:
        if arguments.delete:
            await d.delete_branch(conn, arguments.name)
            return 0
        of: Any = arguments.of or conn.config.branch
        with suppress(ValueError):
            of = UUID(of)
        await d.branch(conn, of, arguments.name)
    return 0


async def _log(arguments: argparse.Namespace) -> int:
    rows: list[tuple[Any, ...]] = []
    async with (
        d.connect(_config(arguments), read_only=True) as conn,
        aclosing(d.branch_history(conn)) as line,
    ):
        async for db in line:
            if len(rows) >= arguments.limit:
                break
            said: dict[Any, Any] = await db.pull("[*]", db.max_tx) or {}
            instant = said.pop(Keyword("db/txInstant"), None)
            said.pop(Keyword("db/id"), None)
            rows.append((d.commit_id(db), db.max_tx, instant, said or None))
    _print(("commit", "tx", "instant", "meta"), rows, arguments.format)
    return 0


async def _info(arguments: argparse.Namespace) -> int:
    _print_report(await d.info(_config(arguments)), arguments.format)
    return 0


async def _verify(arguments: argparse.Namespace) -> int:
    report = await d.verify(_config(arguments), deep=arguments.deep)
    _print_report(report, arguments.format)
    return 0 if report.ok else 1


async def _audit(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    report = await d.verify_chain(config, deep=arguments.deep, limit=arguments.limit)
    _print_report(report, arguments.format)
    if report.ok:
        return 0
    return 1 if report.mismatches or report.missing else 3


async def _backup(arguments: argparse.Namespace) -> int:
    done = await d.backup(
        _config(arguments), _place(arguments), branches=arguments.only, id=arguments.id
    )
    _print_report(done, arguments.format)
    return 0


async def _restore(arguments: argparse.Namespace) -> int:
    done = await d.restore(
        _place(arguments), _config(arguments), branches=arguments.only, id=arguments.id
    )
    _print_report(done, arguments.format)
    return 0


def _place(arguments: argparse.Namespace) -> Any:
    if arguments.place is None:
        return arguments.place_config
    return {"store": {"backend": "file", "path": arguments.place}}


def _print_report(
    report: d.Audit | d.Backup | d.Collected | d.Info | d.Verification | d.MergeReport, form: str
) -> None:
    """Print a report: in words where a table would be printed."""
    if form == "table":
        print(report)
    elif form == "json":
        print(_formatted(report, form))
    else:
        print(_formatted(_keyed(report.as_json()), form))


def _keyed(value: Any) -> Any:
    if isinstance(value, dict):
        return {Keyword(key.replace("_", "-")): _keyed(one) for key, one in value.items()}
    return [_keyed(one) for one in value] if isinstance(value, list) else value


async def _gc(arguments: argparse.Namespace) -> int:
    said = {"commits": arguments.commits, "seconds": arguments.seconds}
    retain = {key: value for key, value in said.items() if value is not None} or None
    point = None if arguments.remove_before is None else _time_point(arguments.remove_before)
    async with d.connect(_config(arguments)) as conn:
        done = await d.gc_storage(conn, point, retain=retain, dry_run=arguments.dry_run)
    _print_report(done, arguments.format)
    return 0


async def _diff(arguments: argparse.Namespace) -> int:
    async with d.connect(_config(arguments), read_only=True) as conn:
        before = await _state(conn, arguments.before)
        after = conn.db() if arguments.after is None else await _state(conn, arguments.after)
        found = await d.diff(before, after)
    rows = [
        (op, x.e, x.a, x.v)
        for op, datoms in (("retract", found.removed), ("add", found.added))
        for x in datoms
    ]
    _print(("op", "e", "a", "v"), rows, arguments.format)
    return 0


async def _state(conn: d.Connection, name: str) -> d.Database:
    """Return what a branch or a commit is."""
    of = _commit_or_branch(name)
    if not isinstance(of, UUID):
        return await d.branch_as_db(conn, of)
    found = await d.commit_as_db(conn, of)
    if found is None:
        raise d.DatabaseNotFound(f"No branch has the commit {of}.", error=":branch-does-not-exist")
    return found


def _commit_or_branch(name: str) -> UUID | str:
    try:
        return UUID(name)
    except ValueError:
        return name


async def _merge(arguments: argparse.Namespace) -> int:
    source = _commit_or_branch(arguments.source)
    preview = arguments.preview
    async with d.connect(_config(arguments), read_only=preview) as conn:
        merge = d.merge_preview if preview else d.merge
        try:
            report = await merge(conn, source, on_conflict=arguments.on_conflict)
        except d.MergeConflict as error:
            if error.error != ":merge/conflict":
                raise
            report = error.report
    _print_report(report, arguments.format)
    if report.conflicts and not preview:
        print(
            "datahike-async: :merge/conflict nothing was written; --on-conflict ours, or theirs, "
            "settles conflicts of values, others are settled by changing either branch",
            file=sys.stderr,
        )
    return 1 if report.conflicts else 0


def _print(names: Sequence[str], rows: Sequence[tuple[Any, ...]], form: str) -> None:
    if form == "table":
        shown = [[_cell(value) for value in row] for row in rows]
        print(table(names, shown), end="")
        return
    keys: Sequence[Any] = names if form == "json" else [Keyword(name) for name in names]
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    print(_formatted(found, form))


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict):
        return write(value)
    # As it is written on the command line.
    return str(value) if isinstance(value, UUID) else value


def _as_table(names: Sequence[str], found: Any) -> str:
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


def _formatted(value: Any, form: str) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
