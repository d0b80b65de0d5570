"""Commands that look after a whole database: how it is, garbage, erasure, copies."""

from __future__ import annotations

import argparse
from typing import Any
from uuid import UUID

import datahike_async as d
from datahike_async.cli.shared import (
    add_database,
    add_format,
    config_of,
    print_report,
    text_of,
    time_point,
)

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands."""
    info = commands.add_parser("info", help="say what a database is made of: sizes, branches, …")
    add_database(info, branch=False)
    add_format(info)
    info.set_defaults(run=_info)

    verify = commands.add_parser(
        "verify", help="look whether all of a database is there and whole; exit code 1 if not"
    )
    add_database(verify, branch=False)
    verify.add_argument("--deep", action="store_true", help="compare the log with the indexes, too")
    add_format(verify)
    verify.set_defaults(run=_verify)

    audit = commands.add_parser(
        "audit",
        help="look whether a database is what its commits' ids say; exit code 1 if not, 3 if that "
        "cannot be told of all of it",
    )
    add_database(audit)
    audit.add_argument("--deep", action="store_true", help="look at all nodes and the log, too")
    audit.add_argument("--limit", type=int, help="look at so many commits, the newest")
    add_format(audit)
    audit.set_defaults(run=_audit)

    gc = commands.add_parser("gc", help="collect garbage: remove what nothing needs any more")
    add_database(gc)
    gc.add_argument("--dry-run", action="store_true", help="tell what could be freed, no more")
    gc.add_argument("--commits", type=int, help="keep so many of each branch")
    gc.add_argument("--seconds", type=float, help="keep those that are not older")
    gc.add_argument("--remove-before", help="a transaction id or an instant (RFC 3339)")
    add_format(gc)
    gc.set_defaults(run=_gc)

    purge = commands.add_parser(
        "purge", help="erase data: from the present, the past, and the blobs of the store"
    )
    add_database(purge)
    purge.add_argument("forms", help="those that purge, as EDN, or - for standard input")
    purge.add_argument(
        "--everywhere", action="store_true", help="on all branches, and what tags and pins keep"
    )
    add_format(purge)
    purge.set_defaults(run=_purge)

    backup = commands.add_parser("backup", help="copy a database, or bring a copy up to date")
    add_database(backup, branch=False)
    _add_place(backup, "to", "of the copy")
    backup.set_defaults(run=_backup)
    restore = commands.add_parser("restore", help="make a database of a copy of it")
    add_database(restore, branch=False)
    _add_place(restore, "from", "of the copy that is to be restored")
    restore.set_defaults(run=_restore)
    for copying in (backup, restore):
        copying.add_argument("--only", action="append", help="a branch; may be repeated")
        copying.add_argument("--branch", action=_Only, help=argparse.SUPPRESS)
        copying.add_argument("--id", type=UUID, help="of what is made; default: as in the source")
        add_format(copying)


class _Only(argparse.Action):
    """Says what is meant where a copy is asked for by ``--branch``, as other commands are."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error("all branches are copied, so --branch names none; --only NAME copies that one")


def _add_place(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(f"--{name}", dest="place", help=f"the folder {what}")
    group.add_argument(f"--{name}-config", dest="place_config", help=f"the configuration {what}")


async def _info(arguments: argparse.Namespace) -> int:
    print_report(await d.info(config_of(arguments)), arguments.format)
    return 0


async def _verify(arguments: argparse.Namespace) -> int:
    report = await d.verify(config_of(arguments), deep=arguments.deep)
    print_report(report, arguments.format)
    return 0 if report.ok else 1


async def _audit(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    report = await d.verify_chain(config, deep=arguments.deep, limit=arguments.limit)
    print_report(report, arguments.format)
    if report.ok:
        return 0
    return 1 if report.mismatches or report.missing else 3


async def _backup(arguments: argparse.Namespace) -> int:
    done = await d.backup(
        config_of(arguments), _place(arguments), branches=arguments.only, id=arguments.id
    )
    print_report(done, arguments.format)
    return 0


async def _restore(arguments: argparse.Namespace) -> int:
    done = await d.restore(
        _place(arguments), config_of(arguments), branches=arguments.only, id=arguments.id
    )
    print_report(done, arguments.format)
    return 0


def _place(arguments: argparse.Namespace) -> Any:
    if arguments.place is None:
        return arguments.place_config
    return {"store": {"backend": "file", "path": arguments.place}}


async def _gc(arguments: argparse.Namespace) -> int:
    said = {"commits": arguments.commits, "seconds": arguments.seconds}
    retain = {key: value for key, value in said.items() if value is not None} or None
    point = None if arguments.remove_before is None else time_point(arguments.remove_before)
    async with d.connect(config_of(arguments)) as conn:
        done = await d.gc_storage(conn, point, retain=retain, dry_run=arguments.dry_run)
    print_report(done, arguments.format)
    return 0


async def _purge(arguments: argparse.Namespace) -> int:
    forms = await text_of(arguments.forms)
    async with d.connect(config_of(arguments)) as conn:
        done = await d.purge(conn, forms, everywhere=arguments.everywhere)
    print_report(done, arguments.format)
    return 0
