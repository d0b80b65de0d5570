"""Several processes that commit to one branch, beside one alone: shares, latencies, re-runs, CPU.

    python3 dev.py bench turns --seconds 60
    python3 dev.py bench turns --seconds 8 --stores file,lmdb --processes 4 --tasks 1

Each process has some tasks that commit in a loop. One of them is killed at the end, when its turn
has come, and what that costs the others is shown. The example web application runs with one worker
and with four. S3 is ministack on loopback behind 30 ms; a process's CPU is its share of one core.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

import datahike_async as d
from datahike_async.tables import table

LATENCY: Final = 0.03
LEAST_SHARE: Final = 1 / 3
LEAST_TOGETHER: Final = 0.6
MOST_RERUNS: Final = 0.2
MOST_STALL: Final = 1.0
MOST_WEB: Final = 1.8
SCHEMA: Final = """
[{:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]
"""
_WRITERS: Final = 16
_UVICORN: Final = [sys.executable, "-m", "uvicorn", "--factory", "examples.web.app:make_app"]


# -- one process -------------------------------------------------------------------------------


async def _commit(config: Mapping[str, Any], seconds: float, tasks: int) -> None:
    times: list[float] = []
    ends: list[float] = []
    errors: dict[str, int] = {}
    async with d.connect(config) as conn:
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        cpu, end = time.process_time(), time.perf_counter() + seconds

        async def task(number: int) -> None:
            n = os.getpid() * 1_000_000 + number * 100_000
            while time.perf_counter() < end:
                before = time.perf_counter()
                try:
                    await conn.transact([{":n": n}])
                except d.DatahikeError as error:
                    name = type(error).__name__
                    errors[name] = errors.get(name, 0) + 1
                else:
                    times.append(time.perf_counter() - before)
                    ends.append(time.time())
                n += 1

        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(task, number)
        order = conn._transactor.order
        found = {
            "times": times,
            "ends": ends,
            "errors": errors,
            "conflicts": order.conflicts,
            "reruns": order.reruns,
            "cpu": (time.process_time() - cpu) / seconds,
        }
    print(json.dumps(found))


def _start(config: Mapping[str, Any], seconds: float, tasks: int, processes: int) -> list[Any]:
    """Return processes that have begun, all at once."""
    told = json.dumps([config, seconds, tasks])
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.turns", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return running


def _ended(running: list[Any]) -> list[dict[str, Any]]:
    outputs = [process.communicate()[0] for process in running]
    return [json.loads(output) for output in outputs if output]


# -- stores ------------------------------------------------------------------------------------


@contextmanager
def _stores(names: list[str]) -> Iterator[dict[str, Any]]:
    """Return functions that make a new database, by the name of its store."""
    with tempfile.TemporaryDirectory() as folder:

        def local(backend: str) -> dict[str, Any]:
            return {"backend": backend, "path": f"{folder}/{uuid.uuid4().hex}"}

        made: dict[str, Any] = {}
        for name in ("file", "lmdb"):
            if name in names:
                made[name] = (local(name), None)
        if "s3" not in names:
            yield made
            return
        from tests.servers.programs import Servers
        from tests.servers.proxy import Proxy
        from tests.servers.s3 import config_on

        servers = Servers()
        try:
            server = servers.get("ministack")
            with Proxy(server.endpoint) as proxy:
                proxy.latency = LATENCY
                made["s3"] = ({**config_on(server), "endpoint": proxy.url}, proxy)
                yield made
        finally:
            servers.stop()


def _fresh(store: Mapping[str, Any]) -> dict[str, Any]:
    place = dict(store)
    if "path" in place:
        place["path"] = f"{place['path']}-{uuid.uuid4().hex}"
    else:
        place["prefix"] = uuid.uuid4().hex

    async def make() -> None:
        await d.create_database({"store": place}, initial_tx=SCHEMA)

    anyio.run(make)
    return {"store": place}


# -- measuring ---------------------------------------------------------------------------------


def _percentile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1] if len(times) > 1 else 0.0


def _measure(name: str, store: Mapping[str, Any], tasks: int, args: _Options) -> list[str]:
    """Print one table; return what is missed."""
    rows, missed = [], []
    alone, p50 = 0.0, 0.0
    for processes in [1, *args.processes]:
        found = _ended(_start(_fresh(store), args.seconds, tasks, processes))
        counts = sorted(len(one["times"]) for one in found)
        times = [t for one in found for t in one["times"]]
        together = sum(counts) / args.seconds
        if processes == 1:
            alone, p50 = together, _percentile(times, 50)
        bar = processes * 4 * p50
        p99 = _percentile(times, 99)
        share = counts[0] * processes / max(sum(counts), 1)
        reruns = sum(one["reruns"] for one in found) / max(sum(counts), 1)
        errors = {k: v for one in found for k, v in one["errors"].items()}
        rows.append(
            (
                processes,
                round(together),
                f"{together / alone:.0%}",
                " ".join(map(str, counts)),
                f"{share:.2f}",
                f"{_percentile(times, 50) * 1e3:.2f}",
                f"{p99 * 1e3:.2f}",
                f"{bar * 1e3:.2f}",
                f"{max(times, default=0) * 1e3:.0f}",
                f"{reruns:.3f}",
                sum(one["conflicts"] for one in found),
                " ".join(f"{k} {v}" for k, v in errors.items()) or "-",
                " ".join(f"{one['cpu']:.0%}" for one in found),
            )
        )
        if processes > 1:
            what = f"{name}, {processes} processes x {tasks}"
            if share < LEAST_SHARE:
                missed.append(f"{what}: a share of {share:.2f}")
            if p99 > bar:
                missed.append(f"{what}: p99 of {p99 * 1e3:.1f} ms, at most {bar * 1e3:.1f}")
            if name != "s3" and together < LEAST_TOGETHER * alone:
                missed.append(f"{what}: together {together / alone:.0%}")
            if reruns > MOST_RERUNS:
                missed.append(f"{what}: {reruns:.2f} re-runs a commit")
            if errors:
                missed.append(f"{what}: {errors}")
    headers = ("processes", "commits/s", "of one", "each", "least share", "p50", "p99", "bar")
    headers += ("max ms", "re-runs", "conflicts", "errors", "CPU")
    print(f"{name}, {tasks} task{'s' * (tasks > 1)} a process")
    print(table(headers, rows), flush=True)
    return missed


def _kill(name: str, store: Mapping[str, Any], args: _Options) -> list[str]:
    """Kill whoever has the turn (on S3: one of them), and print the longest wait of the others."""
    config = _fresh(store)
    seconds = max(args.seconds / 4, 3)
    running = _start(config, seconds, 1, 4)
    time.sleep(seconds / 2)
    pids = [process.pid for process in running]
    turn = Path(config["store"].get("path", "")) / "turn"
    holder = int(turn.read_text().split()[0]) if turn.exists() else pids[0]
    if holder not in pids:
        holder = pids[0]
    killed = time.time()
    os.kill(holder, signal.SIGKILL)
    pairs = [
        pair for one in _ended(running) for pair in zip(one["ends"], one["times"], strict=True)
    ]
    worst = max(seconds for end, seconds in pairs if end > killed)
    print(f"{name}: kill -9 of one of 4; the longest commit of the others {worst * 1e3:.0f} ms")
    return [f"{name}: a stall of {worst:.2f} s"] if worst > MOST_STALL else []


# -- the web application -----------------------------------------------------------------------


def _serve(folder: str, workers: int, seconds: float) -> list[float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    book = f'{{:store {{:backend :file :path "{folder}/book{workers}"}}}}'
    server = subprocess.Popen(
        [*_UVICORN, "--port", str(port), "--workers", str(workers), "--log-level", "warning"],
        env={**os.environ, "GUESTBOOK": book},
    )
    times: list[float] = []

    async def load() -> None:
        url = f"http://127.0.0.1:{port}"
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            for _ in range(200):
                try:
                    await client.get("/stats")
                    break
                except httpx.HTTPError:
                    await anyio.sleep(0.1)
            await anyio.sleep(1.0)
            end = time.perf_counter() + seconds

            async def write(number: int) -> None:
                async with httpx.AsyncClient(base_url=url, timeout=60) as mine:
                    while (before := time.perf_counter()) < end:
                        body = {"name": f"p{number}", "text": "entry"}
                        answer = await mine.post("/entries", json=body)
                        assert answer.status_code == 201, answer.text
                        times.append(time.perf_counter() - before)

            async with anyio.create_task_group() as group:
                for number in range(_WRITERS):
                    group.start_soon(write, number)

    try:
        anyio.run(load)
    finally:
        server.terminate()
        server.wait(30)
    return times


def _web(args: _Options) -> list[str]:
    rows, p99s = [], []
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 4):
            times = _serve(folder, workers, args.seconds)
            p50, p99 = _percentile(times, 50) * 1e3, _percentile(times, 99) * 1e3
            p99s.append(p99)
            rate = round(len(times) / args.seconds)
            rows.append((workers, rate, f"{p50:.1f}", f"{p99:.1f}", f"{max(times) * 1e3:.0f}"))
    print(f"The web example, {_WRITERS} clients that POST; ms")
    print(table(("workers", "POST/s", "p50", "p99", "max"), rows), flush=True)
    ratio = p99s[1] / p99s[0]
    return [f"web: p99 of 4 workers is {ratio:.1f} x that of one"] if ratio > MOST_WEB else []


# -- all of it ---------------------------------------------------------------------------------


class _Options:
    """What is measured, and how long."""

    def __init__(self, options: tuple[str, ...]) -> None:
        given = dict(zip(options[::2], options[1::2], strict=True))
        self.seconds = float(given.pop("--seconds", 8))
        self.stores = given.pop("--stores", "file,lmdb,s3,web").split(",")
        self.processes = [int(n) for n in given.pop("--processes", "2,4,8").split(",")]
        self.tasks = [int(n) for n in given.pop("--tasks", "1,4").split(",")]
        if given:
            raise SystemExit(f"unknown option {next(iter(given))!r}")


def run(*options: str) -> int:
    """Print the tables; return 1 where a bar is missed."""
    args = _Options(options)
    missed: list[str] = []
    with _stores(args.stores) as stores:
        for name, (store, _) in stores.items():
            for tasks in args.tasks:
                missed += _measure(name, store, tasks, args)
            missed += _kill(name, store, args)
    if "web" in args.stores:
        missed += _web(args)
    print("\n".join(["bars missed:", *missed]) if missed else "bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    anyio.run(_commit, *json.loads(sys.argv[1]))
