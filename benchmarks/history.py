"""What a long history takes on files: disk, and how long the slowest commit waits for flushes.

``python -m benchmarks history [--commits N]``: N commits, 100,000 if not said, of four datoms each,
by eight tasks, change the same 2,000 entities, with history. Shown is what each tenth of them added
to the disk; how much it takes when all but the heads was collected, as a multiple of a backup into
an empty store; the longest commit and the longest gap of the event loop. Beside them, the longest
of as many bare appends with an ``fdatasync`` each, while a thread writes what flushes do.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

import anyio

import datahike_async as d
from benchmarks.scale import used
from benchmarks.stalls import longest_gap
from benchmarks.writes import handed

__all__ = ["run"]

ENTITIES: Final = 2000
TASKS: Final = 8
SEED: Final = 11
MOST_BYTES: Final = 2.5
MOST_GAP: Final = 20.0
MOST_WAIT: Final = 20.0
MOST_BARE: Final = 2.0
"""Times the longest bare append that a commit may take, where that is more than ``MOST_WAIT``."""
RECORD: Final = 160
PACK: Final = 1 << 20
SCHEMA: Final = """
[{:db/ident :k :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :v :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one :db/index true}]
"""


async def _lived(folder: Path, commits: int) -> tuple[float, float, float, int]:
    """Commit; return the longest commit and gap in ms, disk by live bytes, and bytes written."""
    chance = random.Random(SEED)
    config = {"store": {"backend": "file", "path": str(folder / "db")}, "initial_tx": SCHEMA}
    longest, done = 0.0, 0
    before = 0

    def change() -> list[dict[str, Any]]:
        value = uuid.UUID(int=chance.getrandbits(128)).hex
        return [{":k": chance.randrange(ENTITIES), ":v": value, ":n": chance.randrange(10**6)}]

    async with d.connect(config, create=True) as conn:

        async def commit() -> None:
            nonlocal longest, done, before
            while done < commits:
                done += 1
                number, began = done, time.perf_counter()
                await conn.transact(change())
                longest = max(longest, time.perf_counter() - began)
                if number % (commits // 10) == 0:
                    now = used(folder)
                    each = (now - before) / (commits // 10)
                    print(f"to commit {number:>8,}: {each:,.0f} bytes each", flush=True)
                    before = now

        async def all_of_them() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(TASKS):
                    group.start_soon(commit)

        await conn.transact([{":k": i, ":v": "x" * 40, ":n": i} for i in range(ENTITIES)])
        before, start = used(folder), handed()
        gap, _ = await longest_gap(all_of_them)
        written = handed() - start
        await d.gc_storage(conn, retain={"commits": 1})
        disk = used(folder)
        copy = {"backend": "file", "id": str(uuid.uuid4()), "path": str(folder / "copy")}
        await d.backup(conn, {"store": copy})
        live = used(folder / "copy")
    print(f"collected: {disk / 1e6:.1f} MB, {live / 1e6:.1f} MB live", flush=True)
    return longest * 1e3, gap, disk / live, written


def _bare(folder: Path, commits: int, written: int) -> float:
    """Return the longest append with a sync in ms, beside a thread that writes so many bytes."""
    over = threading.Event()
    others = max(written - commits * RECORD, 0)

    def packs() -> None:
        for i in range(others // PACK + 1):
            if over.is_set():
                return
            with open(folder / f"pack{i}", "wb") as file:
                file.write(os.urandom(PACK))
                file.flush()
                os.fsync(file.fileno())

    thread = threading.Thread(target=packs)
    longest = 0.0
    with open(folder / "log", "wb", buffering=0) as log:
        thread.start()
        for _ in range(commits // TASKS):
            began = time.perf_counter()
            log.write(bytes(RECORD))
            os.fdatasync(log.fileno())
            longest = max(longest, time.perf_counter() - began)
        over.set()
    thread.join()
    return longest * 1e3


def run(*options: str) -> int:
    """Print what was measured and return 1 where a bar is missed."""
    commits = int(options[options.index("--commits") + 1]) if "--commits" in options else 100_000
    with tempfile.TemporaryDirectory() as folder:
        wait, gap, share, written = anyio.run(_lived, Path(folder), commits)
        bare = _bare(Path(folder), commits, written)
    print(f"disk by live bytes      {share:8.2f}  (bar {MOST_BYTES})")
    print(
        f"longest commit, ms      {wait:8.1f}  (bar {MOST_WAIT} or {MOST_BARE} x {bare:.1f}, bare)"
    )
    print(f"longest gap, ms         {gap:8.1f}  (bar {MOST_GAP})")
    print(f"bytes written a commit  {written / commits:8.0f}")
    met = share <= MOST_BYTES and gap <= MOST_GAP and wait <= max(MOST_WAIT, MOST_BARE * bare)
    print("bars met" if met else "a bar is missed")
    return 0 if met else 1
