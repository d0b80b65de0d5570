"""Kill a writing process at random moments, cut the power, open the database, compare.

    python tests/crash/kill_loop.py --kills 1000 [--fault no-folder-sync] [--seed 7]

Every transaction that was acknowledged must be there, whole; every open must succeed. With a fault
planted the loop must find it. Exits with 0 where nothing was lost, 1 where something was.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from power import Recorder, cut_power

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.konserve.backends import file_io
from datahike_async.transactor.transactor import Limits
from tests.indexes import INDEXES

__all__ = ["FAULTS", "kill_loop"]

# Small bounds, so that flushes, packs and new logs happen all the time.
LIMITS = Limits(flush_rows=60, close_rows=10_000_000)
SCHEMA = """
[{:db/ident :seq :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :text :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :counter :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]
"""
COUNTER = 5000


# -- planted faults ----------------------------------------------------------------------------


def _nothing(*_: Any) -> None:
    return None


def _no_log_sync() -> None:
    file_io.fdatasync = _nothing


def _no_file_sync() -> None:
    file_io.fsync = _nothing


def _no_folder_sync() -> None:
    file_io.sync_folder = _nothing


def _head_before_nodes() -> None:
    """Packs are written some time after the head that names them was published."""
    original = stores.Store.multi_assoc

    async def late(self: Any, items: Any, *, ordered: bool = True) -> Any:
        assocs = list(items)

        def write() -> None:
            time.sleep(0.02)
            anyio.run(original, self, assocs)

        threading.Thread(target=write, daemon=True).start()
        return []

    stores.Store.multi_assoc = late


def _acknowledge_first() -> None:
    """Records are acknowledged, and written some time later."""
    from datahike_async.konserve.backends.file import FileBlobStore

    original = FileBlobStore._append
    pending: dict[Any, list[bytes]] = {}

    def late(self: Any, name: str, record: bytes, expected: str) -> str:
        waiting = pending.setdefault(name, [])
        if len(waiting) < 3:
            waiting.append(record)
            return expected
        for one in waiting:
            expected = original(self, name, one, expected)
        waiting.clear()
        return original(self, name, record, expected)

    FileBlobStore._append = late


FAULTS = {
    "no-log-sync": _no_log_sync,
    "no-file-sync": _no_file_sync,
    "no-folder-sync": _no_folder_sync,
    "head-before-nodes": _head_before_nodes,
    "acknowledge-first": _acknowledge_first,
}


# -- the processes -----------------------------------------------------------------------------


def _config(home: Path) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(home / "db")}}


async def _create(home: Path, index: str = "persistent-set") -> None:
    await d.create_database(_config(home), **INDEXES[index])
    async with d.connect(_config(home)) as conn:
        await conn.transact(SCHEMA)
        await conn.transact([{":db/id": COUNTER, ":counter": 0}])


async def _write(home: Path, start: int, acknowledged: int) -> None:
    async with d.connect(_config(home), limits=LIMITS) as conn:
        numbers = iter(range(start, 10**9))

        async def client() -> None:
            for i in numbers:
                await conn.transact(
                    [
                        {":seq": i, ":text": f"text of {i} " * (1 + i % 7)},
                        {":db/id": COUNTER, ":counter": i},
                    ]
                )
                os.write(acknowledged, b"%d\n" % i)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(client)


async def _check(home: Path, acknowledged: set[int], next_file: Path) -> str | None:
    """Return what is wrong with the database, or None."""
    async with d.connect(_config(home), limits=LIMITS) as conn:
        db = conn.db()
        rows = dict(await db.q("[:find ?i ?t :where [?e :seq ?i] [?e :text ?t]]"))
        lost = acknowledged - rows.keys()
        if lost:
            return f"{len(lost)} acknowledged transactions are lost: {sorted(lost)[:5]}"
        for i, text in rows.items():
            if text != f"text of {i} " * (1 + i % 7):
                return f"transaction {i} came back as {text!r}"
        if len(await db.datoms("avet", ":seq")) != len(rows):
            return "half a transaction is there"
        # Everything stored can be read: the present, the past, in every order.
        for order in ("eavt", "aevt", "avet"):
            if len(await db.history().datoms(order)) < len(await db.datoms(order)):
                return f"the history of {order} is shorter than the present"
        counters = await db.history().datoms("eavt", COUNTER, ":counter")
        if sum(1 if x.added else -1 for x in counters) != 1:
            return "the history of a counter does not add up"
        next_file.write_text(str(max(rows, default=0) + 1))
    return None


def _child(work: Any, errors: Path) -> int:
    """Run ``work`` in a forked process and return its id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(code)

    try:
        # Whoever ends the loop half way would leave a writer that never stops.
        threading.Thread(target=watch, daemon=True).start()
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = work() or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill_loop(home: Path, kills: int, *, fault: str | None, seed: int, verbose: bool) -> str | None:
    """Return the first thing that went wrong in ``kills`` kills, or None."""
    rng = random.Random(seed)
    errors = home / "errors"
    acks, log, undo = home / "acks", home / "log", home / "undo"
    next_file = home / "next"
    acknowledged: set[int] = set()
    started = time.monotonic()
    lost_changes = total = 0
    for kill in range(kills):
        if kill % 10 == 0:
            index = list(INDEXES)[kill // 10 % len(INDEXES)]
            shutil.rmtree(home / "db", ignore_errors=True)
            acknowledged.clear()
            pid = _child(lambda index=index: anyio.run(_create, home, index), errors)
            if os.waitpid(pid, 0)[1]:
                return f"creating failed: {errors.read_text()}"
            next_file.write_text("1")
        shutil.rmtree(undo, ignore_errors=True)
        undo.mkdir()
        log.unlink(missing_ok=True)
        acks.write_bytes(b"")
        start = int(next_file.read_text())

        def write(start: int = start) -> int:
            Recorder(log, undo)
            if fault is not None:
                FAULTS[fault]()
            fd = os.open(acks, os.O_WRONLY | os.O_APPEND)
            anyio.run(_write, home, start, fd)
            return 0

        pid = _child(write, errors)
        deadline = time.monotonic() + 20
        while not acks.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.0005)
            if os.waitpid(pid, os.WNOHANG)[0]:
                return f"kill {kill}: the writer died: {errors.read_text()[-2000:]}"
        time.sleep(rng.random() ** 2 * 0.06)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        fresh = {int(x) for x in acks.read_bytes().split(b"\n")[:-1]}
        total += len(fresh)
        acknowledged |= fresh
        lost_changes += cut_power(home / "db", log, rng)
        problem = home / "problem"
        problem.unlink(missing_ok=True)

        def check(problem: Path = problem, all_: set[int] = acknowledged) -> int:
            found = anyio.run(_check, home, all_, next_file)
            if found is not None:
                problem.write_text(found)
                return 1
            return 0

        pid = _child(check, errors)
        if os.waitpid(pid, 0)[1]:
            why = problem.read_text() if problem.exists() else errors.read_text()[-2000:]
            return f"kill {kill} (seed {seed}): {why}"
        if verbose and (kill + 1) % 100 == 0:
            rate = (kill + 1) / (time.monotonic() - started)
            print(
                f"{kill + 1} kills, {rate:.0f} a second; {total} transactions acknowledged, "
                f"{lost_changes} unsynced changes lost, 0 acknowledged transactions lost",
                flush=True,
            )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = kill_loop(
            Path(folder),
            arguments.kills,
            fault=arguments.fault,
            seed=arguments.seed,
            verbose=True,
        )
    print(found or "Nothing acknowledged was lost, and every open succeeded.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
