"""Write the stored databases that this folder keeps: ``python -m tests.format.make``.

For a new format only: what older versions wrote stays as it is.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio

import datahike_async as d
from datahike_async.env import Env
from datahike_async.storage.log.checkpoint import FORMAT
from datahike_async.transactor.limits import Limits

__all__ = ["FOLDER", "VALUES", "contents"]

HASHED = "-hashed"
"""What the name of a database ends with whose commits are hashes."""

FOLDER = Path(__file__).parent
FLUSHING = Limits(flush_rows=30, close_rows=1)
NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
VALUES: list[Any] = [
    1, -(2**62), 2**70, 1.5, float("inf"), True, "text", "", "\U0001f600", b"bytes", d.kw("a/b"),
    d.sym("c/d"), UUID(int=5), datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC), Decimal("1.10"),
]  # fmt: skip
SCHEMA = """
[{:db/ident :id :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :any :db/cardinality :db.cardinality/many}
 {:db/ident :to :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}]
"""


async def make(path: Path, hashed: bool) -> None:
    """Make a database: flushed and not, with a past, a large value, a load and a branch."""
    env = Env.seeded(FORMAT)
    config: dict[str, Any] = {
        "store": {"backend": "file", "path": str(path)},
        "schema-flexibility": "read",
        "crypto-hash?": hashed,
    }
    async with d.connect(config, create=True, env=env, limits=FLUSHING) as conn:
        await conn.transact(SCHEMA)
        for i, value in enumerate(VALUES):
            await conn.transact([{":id": f"v{i}", ":any": [value, i], ":to": [[":id", "v0"]]}])
        await conn.transact([{":id": f"load{i}"} for i in range(1200)])
        await d.branch(conn, ":db", ":side")
    async with d.connect(config, env=env, limits=NEVER) as conn:
        await conn.transact([[":db/retract", [":id", "v1"], ":any", 1]])
        await conn.transact([{":id": "large", ":any": "x" * 50_000}], {":why": "large"})
        await conn.transact([[":db/retractEntity", [":id", "v2"]]])
    async with d.connect(config, branch=":side", env=env, limits=NEVER) as conn:
        await conn.transact([{":id": "side", ":any": "here"}])
        merged = d.commit_id(conn.db())
    async with d.connect(config, env=env, limits=NEVER) as conn:
        await d.merge_db(conn, [merged], [{":id": "side", ":any": "here"}])


async def contents(path: Path) -> dict[str, Any]:
    """Return all that a stored database says, each branch and commit, as plain text."""
    out: dict[str, Any] = {}
    config = {"store": {"backend": "file", "path": str(path)}}
    for branch in (":db", ":side"):
        async with d.connect(config, branch=branch, read_only=True) as conn:
            lines = []
            async for db in d.branch_history(conn):
                facts = [repr(tuple(x)) for x in await db.datoms("eavt")]
                past = sorted(repr(tuple(x)) for x in await db.history().datoms("eavt"))
                parents = sorted(map(str, d.parent_commit_ids(db)))
                lines.append([str(d.commit_id(db)), parents, db.max_tx, _digest([*facts, *past])])
            out[branch] = lines
            loads = await conn.db().datoms("eavt")
            facts = [repr(tuple(x)) for x in loads if "load" not in repr(x.v)]
            out[f"{branch} facts"] = [
                line if len(line) < 200 else _digest([line]) for line in facts
            ]
    return out


def _digest(lines: list[str]) -> str:
    return sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def main() -> None:
    """Write the databases of this version's format that are not here, and what they say."""
    import json

    for ending in ("", HASHED):
        name = f"format-{FORMAT}{ending}"
        if (FOLDER / f"{name}.zip").exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "db"
            anyio.run(make, path, ending == HASHED)
            said = anyio.run(contents, path)
            shutil.make_archive(str(FOLDER / name), "zip", path)
        (FOLDER / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
