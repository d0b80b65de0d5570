"""Load the packages into a database, and ask it what one would want to know."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio.to_thread

import datahike_async as d
from datahike_async.demo.packages import SCHEMA, Package, installed, normalized
from datahike_async.tables import table

__all__ = ["run"]

# The packages that need ?x, directly or through any number of others.
_RULES: Final = """
[[(depends ?p ?x) [?p :package/needs ?x]]
 [(depends ?p ?x) [?p :package/needs ?y] (depends ?y ?x)]]
"""
_DEPENDENTS: Final = """
[:find ?name ?version :in $ % ?of
 :where [?x :package/name ?of] (depends ?p ?x) [?p :package/name ?name]
        [?p :package/version ?version]
 :order-by [?name :asc]]
"""
_DIRECT: Final = """
[:find [?name ...] :in $ ?of
 :where [?x :package/name ?of] [?p :package/needs ?x] [?p :package/name ?name]]
"""
_MOST_NEEDED: Final = """
[:find ?name (count ?p) :where [?p :package/needs ?x] [?x :package/name ?name]]
"""
_UNMET: Final = """
[:find ?name ?text :where [?r :requirement/applies true] [?r :requirement/met false]
 [?r :requirement/text ?text] [?p :package/requirement ?r] [?p :package/name ?name]
 :order-by [?name :asc]]
"""
_LARGEST: Final = """
[:find ?name (count ?f) (sum ?bytes) :where [?p :package/file ?f] [?f :file/bytes ?bytes]
 [?p :package/name ?name]]
"""
_ADDED: Final = """
[:find ?name ?new :in $ $then :where [?p :package/name ?name] [?p :package/version ?new]
 (not [$then ?p :package/version _])]
"""
_REMOVED: Final = """
[:find ?name ?old :in $ $then :where [$then ?p :package/version ?old]
 [$then ?p :package/name ?name] (not [$ ?p :package/version _])]
"""
_CHANGED: Final = """
[:find ?name ?old ?new :in $ $then :where [?p :package/version ?new]
 [$then ?p :package/version ?old] [(not= ?old ?new)] [?p :package/name ?name]]
"""
_BATCH: Final = 12


async def run(path: Path, package: str | None) -> int:
    """Load into the database at ``path`` and print what it says of ``package``."""
    started = time.perf_counter()
    config = {"store": {"backend": "file", "path": str(path)}}
    if not await d.database_exists(config):
        print(f"Creating a database in {path}.")
    async with d.connect(config, create=True) as conn:
        await conn.transact(SCHEMA)
        before = await _last_run(conn.db())
        packages = await anyio.to_thread.run_sync(lambda: list(installed()))
        datoms, seconds = await _load(conn, packages)
        await conn.transact([{":run/finished": datetime.now(UTC)}])
        db = conn.db()
        files = sum(len(p.files) for p in packages)
        print(
            f"{len(packages)} packages and {files} files: {datoms} new facts in {seconds:.2f} s; "
            f"the database holds {await db.count()}.\n"
        )
        await _questions(db, package)
        await _changes(db, before)
    await _sizes(path, time.perf_counter() - started)
    return 0


async def _last_run(db: d.Database) -> int | None:
    """Return the transaction in which the run before this one was complete."""
    found: int | None = await db.q("[:find (max ?tx) . :where [_ :run/finished _ ?tx]]")
    return found


async def _load(conn: d.Connection, packages: Sequence[Package]) -> tuple[int, float]:
    """Transact what is installed and retract what is no more; return the datoms and seconds."""
    started = time.perf_counter()
    datoms = 0
    gone = await _gone(conn.db(), packages)
    if gone:
        datoms += len((await conn.transact(gone)).tx_data)
    for start in range(0, len(packages), _BATCH):
        part = packages[start : start + _BATCH]
        report = await conn.transact([entity for p in part for entity in p.entities()])
        # A transaction asserts its own instant: a run that finds nothing new has no news.
        datoms += len(report.tx_data) - 1
        _progress(min(start + _BATCH, len(packages)), len(packages))
    return datoms, time.perf_counter() - started


async def _gone(db: d.Database, packages: Sequence[Package]) -> list[Any]:
    """Return the retractions of what the database has and the machine has not."""
    keys = [p.keys() for p in packages]
    requirements = {key for pair in keys for key in pair[0]}
    files = {key for pair in keys for key in pair[1]}
    out: list[Any] = []
    for attribute, present in ((":requirement/key", requirements), (":file/key", files)):
        for eid, key in await db.q(f"[:find ?e ?k :where [?e {attribute} ?k]]"):
            if key not in present:
                out.append([":db/retractEntity", eid])
    names = {p.name for p in packages}
    needs = {(p.name, n) for p in packages for n, applies, _ in p.requirements.values() if applies}
    for eid, name, version in await db.q(
        "[:find ?p ?n ?v :where [?p :package/name ?n] [?p :package/version ?v]]"
    ):
        if name not in names:
            out.append([":db/retract", eid, ":package/version", version])
    for eid, name, to, other in await db.q(
        "[:find ?p ?n ?x ?m :where [?p :package/needs ?x] [?p :package/name ?n]"
        " [?x :package/name ?m]]"
    ):
        if (name, other) not in needs:
            out.append([":db/retract", eid, ":package/needs", to])
    return out


def _progress(done: int, total: int) -> None:
    if not sys.stderr.isatty() and done < total:
        return
    width = 40
    filled = width * done // total
    end = "\n" if done == total else ""
    print(
        f"\rLoading [{'#' * filled}{'.' * (width - filled)}] {done}/{total}",
        end=end,
        file=sys.stderr,
        flush=True,
    )


async def _timed(call: Any) -> tuple[Any, str]:
    started = time.perf_counter()
    found = await call
    return found, f"{(time.perf_counter() - started) * 1e3:.1f} ms"


async def _questions(db: d.Database, package: str | None) -> None:
    counts = dict(await db.q(_MOST_NEEDED))
    target = (
        normalized(package) if package else max(counts, key=lambda n: (counts[n], n), default="")
    )
    if package and await db.entid([":package/name", target]) is None:
        print(f"There is no package {package!r} here; the most needed one is taken instead.")
        target = max(counts, key=lambda n: (counts[n], n), default="")
    direct = set(await db.q(_DIRECT, target))
    found, took = await _timed(db.q(_DEPENDENTS, _RULES, target))
    rows = [(n, v, "directly" if n in direct else "through others") for n, v in found]
    print(f"What depends on {target}? ({len(rows)} packages, {took})")
    print(table(("package", "version", "how"), rows, limit=15))
    found, took = await _timed(db.q(_UNMET))
    print(f"Which requirements are unmet? ({len(found)}, {took})")
    print(table(("package", "requires"), found, limit=10))
    found, took = await _timed(db.q(_LARGEST))
    largest = sorted(found, key=lambda row: -row[2])[:5]
    print(f"Which packages are largest? ({took})")
    print(table(("package", "files", "bytes"), largest))


async def _changes(db: d.Database, before: int | None) -> None:
    if before is None:
        print("This was the first run; run it again after installing something to see changes.\n")
        return
    then = db.as_of(before)
    when = await then.q("[:find (max ?t) . :where [_ :run/finished ?t]]")
    rows = [("added", n, "", v) for n, v in await db.q(_ADDED, then)]
    rows += [("removed", n, v, "") for n, v in await db.q(_REMOVED, then)]
    rows += [("changed", n, old, new) for n, old, new in await db.q(_CHANGED, then)]
    print(f"What changed since the last run ({when:%Y-%m-%d %H:%M:%S} UTC)?")
    print(table(("change", "package", "was", "is"), sorted(rows), limit=20))


async def _sizes(path: Path, seconds: float) -> None:
    def measure() -> int:
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())

    size = await anyio.to_thread.run_sync(measure)
    print(f"On disk: {size / 1024:.0f} KiB in {path}. All in all {seconds:.2f} s.")
