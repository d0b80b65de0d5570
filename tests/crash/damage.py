"""Damage one file of a database in one place, open it, look, mend it, look again.

    python tests/crash/damage.py --harms 3000 [--fault ends-at-damage] [--seed 7]

Opening and reading either shows all that was acknowledged or raises an error, never less. If it
shows all, another transaction must last. When the place is mended, everything is there again. With
a fault planted the loop must find it. The seed says of which index the database is. Exits with 0
where nothing was lost.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import datahike_async as d
from datahike_async.errors import CorruptData, DatahikeError
from datahike_async.konserve.backends import file_blobs, file_journal
from datahike_async.konserve.backends.file_frames import Frames
from datahike_async.transactor.limits import Limits
from tests.indexes import INDEXES

__all__ = ["FAULTS", "damage"]

FLUSHING = Limits(flush_rows=120, close_rows=10_000_000)
LIMITS = Limits(flush_rows=10_000_000, close_rows=10_000_000)
SCHEMA = """
[{:db/ident :seq :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :text :db/valueType :db.type/string :db/cardinality :db.cardinality/one}]
"""
TRANSACTIONS = 100


class Harm(NamedTuple):
    """What is done to a file: ``old`` bytes at ``at`` are replaced, the rest cut off, or all."""

    kind: str
    name: str
    at: int
    old: bytes
    new: bytes

    def do(self, folder: Path) -> None:
        path = folder / self.name
        if self.kind == "removed":
            path.unlink()
        elif self.kind == "cut":
            with open(path, "r+b") as file:
                file.truncate(self.at)
        else:
            _put(path, self.at, self.new)

    def mend(self, folder: Path) -> None:
        """Undo it, unless what was harmed has been written anew since."""
        path = folder / self.name
        if self.kind == "removed":
            if not path.exists():
                path.write_bytes(self.old)
        elif self.kind == "cut":
            if path.exists() and path.stat().st_size == self.at:
                _put(path, self.at, self.old)
        elif path.exists() and path.read_bytes()[self.at :].startswith(self.new):
            _put(path, self.at, self.old)


def _put(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def _harm(folder: Path, heads: set[str], rng: random.Random) -> Harm:
    names = sorted(x.name for x in folder.iterdir() if x.stat().st_size and x.name != "lock")
    # Heads and logs have the most to lose.
    most = [n for n in names if n in heads or n.endswith((".log", ".mark"))]
    name = rng.choice(names + most * 3)
    data = (folder / name).read_bytes()
    used = len(data.rstrip(b"\0")) or 1
    # Headers are short, and decide most.
    at = rng.randrange(min(used, 24) if rng.random() < 0.3 else used)
    kind = rng.choice(("bit", "bit", "bit", "zeros", "zeros", "cut", "removed"))
    if kind == "bit":
        return Harm(kind, name, at, data[at : at + 1], bytes([data[at] ^ 1 << rng.randrange(8)]))
    if kind == "zeros":
        size = rng.choice((512, 4096))
        block = data[at - at % size :][:size]
        return Harm(kind, name, at - at % size, block, bytes(len(block)))
    if kind == "cut":
        return Harm(kind, name, at, data[at:], b"")
    return Harm(kind, name, 0, data, b"")


# -- planted faults ----------------------------------------------------------------------------


def _ends_at_damage() -> None:
    """What is no whole frame ends a log."""
    Frames._judge = lambda *_: ("", 0)  # type: ignore[method-assign]


def _no_marks() -> None:
    """Nobody knows what was durable."""
    file_journal.Mark.read = lambda _: None  # type: ignore[method-assign]


def _no_checksum_of_heads() -> None:
    """The stamp that names a log is believed as it is, and a log that is not there is empty."""

    def believed(fd: int, _: str) -> bytes:
        return file_blobs.io.read_at(fd, 4, file_blobs.STAMP)

    file_blobs._stamp = believed


FAULTS = {
    "ends-at-damage": _ends_at_damage,
    "no-marks": _no_marks,
    "no-checksum-of-heads": _no_checksum_of_heads,
}


# -- the loop ------------------------------------------------------------------------------------


def _config(folder: Path) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(folder)}}


async def _make(folder: Path, index: str) -> None:
    await d.create_database(_config(folder), **INDEXES[index])
    # The first part goes into trees, the rest lies in the log.
    for limits, part in ((FLUSHING, range(70)), (LIMITS, range(70, TRANSACTIONS))):
        async with d.connect(_config(folder), limits=limits) as conn:
            if not part.start:
                await conn.transact(SCHEMA)
            for i in part:
                text = f"text of {i} " * (60 if i % 9 == 0 else 1 + i % 7)
                await conn.transact([{":seq": i, ":text": text}])


async def _numbers(conn: d.Connection) -> list[int]:
    """Read everything there is, and return what was acknowledged of it."""
    db = conn.db()
    for order in ("eavt", "aevt", "avet"):
        await db.history().datoms(order)
        await db.datoms(order)
    return sorted(await db.q("[:find [?i ...] :where [?e :seq ?i] [?e :text]]"))


async def _look(folder: Path, expected: list[int]) -> str:
    """Return "raised", "whole", or what is wrong; a database that looks whole gets one more."""
    try:
        async with d.connect(_config(folder), limits=LIMITS) as conn:
            found = await _numbers(conn)
            if found != expected:
                return f"{len(expected) - len(found)} transactions are missing, without an error"
            await conn.transact([{":seq": expected[-1] + 1, ":text": "one more"}])
    except CorruptData:
        return "raised"
    except DatahikeError as error:
        return f"raised {type(error).__name__}"
    return "whole"


async def damage(
    home: Path, harms: int, *, fault: str | None, seed: int
) -> tuple[str, Counter[str]]:
    """Return the first thing that went wrong, or nothing, and how often looking ended how."""
    rng = random.Random(seed)
    original, copy = home / "original", home / "copy"
    await _make(original, list(INDEXES)[seed % len(INDEXES)])
    heads = {log.name.partition(".")[0] + ".ksv" for log in original.glob("*.log")}
    if fault is not None:
        FAULTS[fault]()
    ends: Counter[str] = Counter()
    for _ in range(harms):
        expected = list(range(TRANSACTIONS))
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        harm = _harm(copy, heads, rng)
        what = f"{harm.kind} at {harm.at} of {harm.name} (seed {seed})"
        harm.do(copy)
        end = await _look(copy, expected)
        ends[end] += 1
        if end == "whole":
            expected.append(TRANSACTIONS)
        elif not end.startswith("raised") or (end != "raised" and harm.kind != "removed"):
            return f"{what}: {end}", ends
        harm.mend(copy)
        end = await _look(copy, expected)
        if end != "whole":
            return f"{what}, mended: {end}", ends
    return "", ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harms", type=int, default=1000)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    file_journal._PAUSE = 0  # nobody is writing
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> tuple[str, Counter[str]]:
            return await damage(
                Path(folder), arguments.harms, fault=arguments.fault, seed=arguments.seed
            )

        found, ends = anyio.run(run)
    print(f"seed {arguments.seed}; {dict(ends)}")
    print(found or "Nothing was lost, and everything came back.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
