"""Several processes start at once on a place where nothing is: all of them have the database.

Some of them are killed in the middle: whatever they leave, the next ones create and open it. At
length: ``pytest tests/test_first_start.py -m slow --rounds 200``.

S3 is ministack here, which compares and writes in one step of its event loop. moto does so in
threads without a lock: of writes that come at once it lets two through now and then, or says a
wrong ETag.
"""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time
from ast import literal_eval
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from tests.servers.programs import S3Server
from tests.stores import store_on

PROCESSES = 4

PROGRAM = """
    import sys, traceback
    import anyio
    import datahike_async as d

    SCHEMA = '''[{:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
                 {:db/ident :first :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
                 {:db/id "first" :first 1}]'''

    async def start(config, n):
        async with d.connect(config, create=True, initial_tx=SCHEMA, keep_history=False) as conn:
            await conn.transact([{":n": n}])
            assert len(await conn.db().datoms("aevt", ":first")) == 1

    # One process goes through many rounds, so that starting Python does not hide the race.
    for line in sys.stdin:
        config, n = eval(line)
        try:
            anyio.run(start, config, n)
            print("ok", flush=True)
        except Exception:
            print(repr(traceback.format_exc()), flush=True)
"""


class Starters:
    """Processes that are asked to start on a database."""

    def __init__(self) -> None:
        self._processes = [self._start() for _ in range(PROCESSES)]

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, config: dict[str, Any]) -> None:
        """Let all of them start."""
        for n, process in enumerate(self._processes):
            assert process.stdin is not None
            process.stdin.write(repr((config, n)) + "\n")

    def kill(self, n: int) -> None:
        """Kill one of them and put another one in its place."""
        process = self._processes[n]
        process.kill()
        process.communicate()
        self._processes[n] = self._start()

    def answers(self, *, but: set[int] = frozenset()) -> list[str]:  # type: ignore[assignment]
        """Return what the others say."""
        found = []
        for n, process in enumerate(self._processes):
            if n not in but:
                assert process.stdout is not None
                found.append(process.stdout.readline().strip())
        return found

    def stop(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def starters() -> Iterator[Starters]:
    made = Starters()
    yield made
    made.stop()


@pytest.fixture(params=["file", "lmdb", "s3-ministack"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> Callable[[], dict[str, Any]]:
    return places(request.param, tmp_path, servers)


def places(
    name: str, folder: Path, servers: Callable[[str], S3Server]
) -> Callable[[], dict[str, Any]]:
    def fresh() -> dict[str, Any]:
        store = store_on(name, folder, servers)
        del store["id"]
        return {"store": store}

    return fresh


def written(config: dict[str, Any]) -> set[int]:
    """Return what the processes wrote, with the database deleted afterwards."""

    async def read() -> set[int]:
        async with d.connect(config) as conn:
            found = {x.v for x in await conn.db().datoms("aevt", ":n")}
        await d.delete_database(config)
        assert not await d.database_exists(config)
        return found

    return anyio.run(read)


def start_together(starters: Starters, place: Callable[[], dict[str, Any]], rounds: int) -> None:
    for _ in range(rounds):
        config = place()
        starters.ask(config)
        for answer in starters.answers():
            assert answer == "ok", literal_eval(answer)
        assert written(config) == set(range(PROCESSES))


def kill_in_between(
    starters: Starters, place: Callable[[], dict[str, Any]], rounds: int, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(rounds):
        config = place()
        starters.ask(config)
        time.sleep(chance.uniform(0, 0.06))
        killed = set(chance.sample(range(PROCESSES), chance.randint(1, PROCESSES)))
        for n in killed:
            starters.kill(n)
        assert set(starters.answers(but=killed)) <= {"ok"}
        # Whatever was left can be opened and created.
        starters.ask(config)
        assert starters.answers() == ["ok"] * PROCESSES
        assert written(config) == set(range(PROCESSES))


def test_all_who_start_at_once_have_the_database(
    starters: Starters, place: Callable[[], dict[str, Any]]
) -> None:
    start_together(starters, place, 1)


def test_what_was_killed_on_its_first_start_is_created_and_opened_by_the_next(
    starters: Starters, tmp_path: Path, servers: Callable[[str], S3Server]
) -> None:
    for name in ("file", "lmdb"):
        kill_in_between(starters, places(name, tmp_path, servers), 1, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_first_starts(
    starters: Starters, place: Callable[[], dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    start_together(starters, place, request.config.getoption("--rounds"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_first_starts_with_kills_in_between(
    starters: Starters, place: Callable[[], dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    kill_in_between(starters, place, request.config.getoption("--rounds"), seed=2)
