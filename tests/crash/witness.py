"""Kill a writer between a write and its sync, let another process read and answer, cut the power.

    python tests/crash/witness.py --rounds 200 [--fault shows-unsynced] [--seed 7]

Whatever the other one saw, or was answered, must be there afterwards. It was open before, and dies
without a release. With a fault planted the loop must find it. Exits with 0 where nothing was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kill_loop import LIMITS, _child, _config, _create
from power import Recorder, cut_power

import datahike_async as d
from datahike_async.konserve.backends.file_journal import Log
from datahike_async.konserve.backends.file_names import Names
from datahike_async.konserve.backends.file_store import FileBlobStore
from datahike_async.tx import apply, bulk, collect
from tests.indexes import INDEXES

__all__ = ["FAULTS", "witness"]

ALL = "[:find [?t ...] :where [_ :text ?t]]"


def _shows_unsynced() -> None:
    """What lies in a log is shown as it is."""
    Log.show = lambda self: self.end  # type: ignore[method-assign]


def _names_unsettled() -> None:
    """What a name says is shown, though the folder may not keep it."""
    Names.settle = lambda self: None  # type: ignore[method-assign]


FAULTS = {"shows-unsynced": _shows_unsynced, "names-unsettled": _names_unsettled}


async def _write(home: Path, start: int, die: str) -> None:
    """Commit until this process kills itself right behind a step of the store."""
    left = random.Random(start).randrange(1, 12)
    attempts, acks = (os.open(home / n, os.O_WRONLY | os.O_APPEND) for n in ("attempts", "acks"))

    def step(_: FileBlobStore, name: str) -> None:
        nonlocal left
        if name == die:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    if die == "renamed":
        # Every transaction is a bulk load, which replaces the head.
        apply.LEAST, bulk._SPREAD, collect._ALIKE = 1, 10**9, 0
    async with d.connect(_config(home), limits=LIMITS) as conn:
        FileBlobStore._step = step  # type: ignore[method-assign]
        for i in range(start, start + 100):
            os.write(attempts, b"%d\n" % i)
            await conn.transact([{":text": str(i)}], idempotency_key=f"key-{i}")
            os.write(acks, b"%d\n" % i)


async def _see(home: Path, ready: int, go: int) -> None:
    """Be open while the writer dies, then read what is there, and ask for what it was at."""
    async with d.connect(_config(home), limits=LIMITS) as conn:
        os.write(ready, b"x")
        await to_thread.run_sync(os.read, go, 1)
        seen = list(await (await conn.sync()).q(ALL))
        last = (home / "attempts").read_text().split()[-1]
        await conn.transact([{":text": last}], idempotency_key=f"key-{last}")
        (home / "seen").write_text("\n".join([*seen, last]))
        os._exit(0)


async def _check(home: Path, expected: set[str]) -> None:
    async with d.connect(_config(home), limits=LIMITS) as conn:
        there = list(await conn.db().q(ALL))
        gone = expected - set(there)
        if gone:
            (home / "problem").write_text(f"shown or acknowledged, and gone: {sorted(gone)}")
        if len(await conn.db().datoms("aevt", ":text")) != len(there):
            (home / "problem").write_text("a transaction ran twice")
        (home / "next").write_text(str(max(map(int, there), default=0) + 1))


class Round:
    """One writer that dies, one witness, one power cut. ``home`` has the database and the notes."""

    def __init__(self, home: Path, die: str, fault: str | None) -> None:
        self.home = home
        self.die = die
        self.fault = fault
        self.start = int((home / "next").read_text())
        self.ready, self.go = os.pipe(), os.pipe()
        for name in ("undo-a", "undo-b"):
            shutil.rmtree(home / name, ignore_errors=True)
            (home / name).mkdir()
        for name in ("log", "attempts", "acks", "seen", "problem"):
            (home / name).write_bytes(b"")

    def _writer(self) -> None:
        Recorder(self.home / "log", self.home / "undo-a")
        anyio.run(_write, self.home, self.start, self.die)

    def _witness(self) -> None:
        Recorder(self.home / "log", self.home / "undo-b")
        if self.fault is not None:
            FAULTS[self.fault]()
        anyio.run(_see, self.home, self.ready[1], self.go[0])

    def run(self, expected: set[str], rng: random.Random) -> str | None:
        """Return what went wrong, or None; ``expected`` grows by what must be there from now on."""
        home, errors = self.home, self.home / "errors"
        witness = _child(self._witness, errors)
        os.close(self.ready[1])
        if os.read(self.ready[0], 1) != b"x":
            return f"the witness died: {errors.read_text()[-2000:]}"
        if not os.WIFSIGNALED(os.waitpid(_child(self._writer, errors), 0)[1]):
            return f"the writer was not killed: {errors.read_text()[-2000:]}"
        os.write(self.go[1], b"x")
        if os.waitpid(witness, 0)[1]:
            return f"the witness failed: {errors.read_text()[-2000:]}"
        for fd in (self.ready[0], *self.go):
            os.close(fd)
        expected.update((home / "acks").read_text().split(), (home / "seen").read_text().split())
        cut_power(home / "db", home / "log", rng)
        check = _child(lambda: anyio.run(_check, home, expected), errors)
        if os.waitpid(check, 0)[1]:
            return errors.read_text()[-2000:]
        return (home / "problem").read_text() or None


def witness(home: Path, rounds: int, *, fault: str | None, seed: int) -> str | None:
    """Return the first thing that went wrong, or None."""
    rng = random.Random(seed)
    expected: set[str] = set()
    for number in range(rounds):
        if number % 25 == 0:
            shutil.rmtree(home / "db", ignore_errors=True)
            expected.clear()
            index = list(INDEXES)[number // 25 % len(INDEXES)]
            made = _child(partial(anyio.run, _create, home, index), home / "errors")
            if os.waitpid(made, 0)[1]:
                return f"creating failed: {(home / 'errors').read_text()}"
            (home / "next").write_text("1")
        die = rng.choice(("log-written", "renamed"))
        found = Round(home, die, fault).run(expected, rng)
        if found:
            return f"round {number}, {die} (seed {seed}): {found}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = witness(Path(folder), arguments.rounds, fault=arguments.fault, seed=arguments.seed)
    print(found or "Nothing that was shown or acknowledged was lost.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
