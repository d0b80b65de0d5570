"""Commands on branches, commits and tags."""

from __future__ import annotations

import argparse
import sys
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

import datahike_async as d
from datahike_async.cli.shared import (
    add_database,
    add_format,
    commit_or_branch,
    config_of,
    print_report,
    print_rows,
)
from datahike_async.edn.types import Keyword

__all__ = ["add_commands"]

CHOICES: Final = ("abort", "ours", "theirs")


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands."""
    branches = commands.add_parser("branches", help="list the branches of a database")
    add_database(branches)
    add_format(branches)
    branches.set_defaults(run=_branches)

    branch = commands.add_parser("branch", help="make a branch, or delete one")
    add_database(branch)
    branch.add_argument("name", help="of the new branch")
    branch.add_argument("--of", help="a branch, or the id of a commit; default: the one opened")
    branch.add_argument("--delete", action="store_true", help="delete it instead")
    branch.set_defaults(run=_branch)

    rename = commands.add_parser("rename-branch", help="give a branch another name")
    add_database(rename)
    rename.add_argument("old")
    rename.add_argument("new")
    rename.set_defaults(run=_rename)

    force = commands.add_parser(
        "force-branch", help="have a branch be what another one, or a commit, is, whatever it was"
    )
    add_database(force)
    force.add_argument("name", help="of the branch that is replaced, or made")
    force.add_argument("--of", help="a branch, a tag, or the id of a commit; default: as opened")
    force.add_argument(
        "--parent",
        action="append",
        help="what its commit is made on; may be repeated; default: what it is made of",
    )
    force.set_defaults(run=_force)

    tags = commands.add_parser("tags", help="list the tags of a database")
    add_database(tags)
    add_format(tags)
    tags.set_defaults(run=_tags)

    tag = commands.add_parser("tag", help="give a commit a name that stays")
    add_database(tag)
    tag.add_argument("name")
    tag.add_argument("--of", help="a branch, a tag, or the id of a commit; default: as opened")
    tag.set_defaults(run=_tag)

    untag = commands.add_parser("untag", help="take a tag back")
    add_database(untag)
    untag.add_argument("name")
    untag.set_defaults(run=_untag)

    log = commands.add_parser("log", help="list commits, the newest first")
    add_database(log)
    log.add_argument("--limit", type=int, default=20, help="how many; default: 20")
    add_format(log)
    log.set_defaults(run=_log)

    diff = commands.add_parser("diff", help="list what two branches or commits differ in")
    add_database(diff)
    diff.add_argument("before", help="a branch, or the id of a commit")
    diff.add_argument("after", nargs="?", help="another; default: the one opened")
    add_format(diff)
    diff.set_defaults(run=_diff)

    merge = commands.add_parser(
        "merge", help="take over what another branch has changed; exit code 1 for conflicts"
    )
    add_database(merge)
    merge.add_argument("source", help="a branch, or the id of a commit")
    merge.add_argument("--preview", action="store_true", help="tell what it would do, no more")
    merge.add_argument("--on-conflict", choices=CHOICES, default="abort")
    add_format(merge)
    merge.set_defaults(run=_merge)

    revert = commands.add_parser(
        "revert", help="undo transactions in a new one; exit code 1 for conflicts"
    )
    add_database(revert)
    revert.add_argument("transactions", nargs="+", help="ids of transactions or of commits")
    revert.add_argument("--parent", type=int, help="of a merge: the side that is gone back to")
    revert.add_argument("--on-conflict", choices=CHOICES, default="abort")
    add_format(revert)
    revert.set_defaults(run=_revert)

    rebase = commands.add_parser(
        "rebase",
        help="make the commits of a branch again on another one; exit code 1 for conflicts",
    )
    add_database(rebase)
    rebase.add_argument("onto", help="a branch, a tag, or the id of a commit")
    rebase.add_argument("--on-conflict", choices=CHOICES, default="abort")
    add_format(rebase)
    rebase.set_defaults(run=_rebase)


async def _branches(arguments: argparse.Namespace) -> int:
    rows = []
    async with d.connect(config_of(arguments), read_only=True) as conn:
        for name in sorted(await d.branches(conn)):
            db = await d.branch_as_db(conn, name)
            rows.append((name, d.commit_id(db), db.max_tx))
    print_rows(("branch", "commit", "tx"), rows, arguments.format)
    return 0


async def _branch(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments)) as conn:
        if arguments.delete:
            await d.delete_branch(conn, arguments.name)
        else:
            await d.branch(conn, _of(conn, arguments), arguments.name)
    return 0


def _of(conn: d.Connection, arguments: argparse.Namespace) -> Any:
    """Return what something is to be made of: what is opened, if nothing else is said."""
    return conn if arguments.of is None else commit_or_branch(arguments.of)


async def _rename(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments)) as conn:
        await d.rename_branch(conn, arguments.old, arguments.new)
    return 0


async def _force(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments)) as conn:
        db = conn.db() if arguments.of is None else await _state(conn, arguments.of)
        parents = [commit_or_branch(one) for one in arguments.parent or ()]
        await d.force_branch(conn, db, arguments.name, parents or [db])
    return 0


async def _tags(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments), read_only=True) as conn:
        found = await d.tags(conn)
    print_rows(("tag", "commit"), sorted(found.items()), arguments.format)
    return 0


async def _tag(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments)) as conn:
        await d.tag(conn, arguments.name, _of(conn, arguments))
    return 0


async def _untag(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments)) as conn:
        await d.untag(conn, arguments.name)
    return 0


async def _log(arguments: argparse.Namespace) -> int:
    rows: list[tuple[Any, ...]] = []
    async with (
        d.connect(config_of(arguments), read_only=True) as conn,
        aclosing(d.branch_history(conn)) as line,
    ):
        async for db in line:
            if len(rows) >= arguments.limit:
                break
            said: dict[Any, Any] = await db.pull("[*]", db.max_tx) or {}
            instant = said.pop(Keyword("db/txInstant"), None)
            said.pop(Keyword("db/id"), None)
            rows.append((d.commit_id(db), db.max_tx, instant, said or None))
    print_rows(("commit", "tx", "instant", "meta"), rows, arguments.format)
    return 0


async def _diff(arguments: argparse.Namespace) -> int:
    async with d.connect(config_of(arguments), read_only=True) as conn:
        before = await _state(conn, arguments.before)
        after = conn.db() if arguments.after is None else await _state(conn, arguments.after)
        found = await d.diff(before, after)
    rows = [
        (op, x.e, x.a, x.v)
        for op, datoms in (("retract", found.removed), ("add", found.added))
        for x in datoms
    ]
    print_rows(("op", "e", "a", "v"), rows, arguments.format)
    return 0


async def _state(conn: d.Connection, name: str) -> d.Database:
    """Return what a branch, a tag or a commit is."""
    of = commit_or_branch(name)
    named = d.kw(of.removeprefix(":")) if isinstance(of, str) else None
    if named is not None and named not in await d.branches(conn):
        of = (await d.tags(conn)).get(named, of)
    if not isinstance(of, UUID):
        return await d.branch_as_db(conn, of)
    found = await d.commit_as_db(conn, of)
    if found is None:
        raise d.NameNotFound(f"No branch has the commit {of}.", error=":branch-does-not-exist")
    return found


async def _merge(arguments: argparse.Namespace) -> int:
    source = commit_or_branch(arguments.source)
    preview = arguments.preview
    async with d.connect(config_of(arguments), read_only=preview) as conn:
        merge = d.merge_preview if preview else d.merge
        try:
            report = await merge(conn, source, on_conflict=arguments.on_conflict)
        except d.MergeConflict as error:
            if error.error != ":merge/conflict":
                raise
            report = error.report
    return _told(report, arguments.format, written=not preview)


def _told(report: d.MergeReport, form: str, *, written: bool) -> int:
    """Print a report, and what to do about its conflicts; return the exit code."""
    print_report(report, form)
    if report.conflicts and written:
        print(
            "datahike-async: :merge/conflict nothing was written; --on-conflict ours, or theirs, "
            "settles conflicts of values, others are settled by changing either branch",
            file=sys.stderr,
        )
    return 1 if report.conflicts else 0


async def _revert(arguments: argparse.Namespace) -> int:
    undone = [
        int(one) if one.isdigit() else commit_or_branch(one) for one in arguments.transactions
    ]
    options = {"parent": arguments.parent, "on_conflict": arguments.on_conflict}
    async with d.connect(config_of(arguments)) as conn:
        try:
            report = await d.revert(conn, *undone, **options)
        except d.MergeConflict as error:
            if error.error != ":merge/conflict":
                raise
            report = error.report
    return _told(report, arguments.format, written=True)


async def _rebase(arguments: argparse.Namespace) -> int:
    onto = commit_or_branch(arguments.onto)
    async with d.connect(config_of(arguments)) as conn:
        try:
            reports = await d.rebase(conn, onto, on_conflict=arguments.on_conflict)
        except d.MergeConflict as error:
            if error.error != ":merge/conflict":
                raise
            return _told(error.report, arguments.format, written=True)
    rows = [(one.theirs, len(one.added), len(one.retracted)) for one in reports]
    print_rows(("commit", "added", "retracted"), rows, arguments.format)
    return 0
