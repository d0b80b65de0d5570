"""Processes that commit to one branch take turns: nobody starves, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve.file_lock import FileLock
from tests.servers.programs import S3Server
from tests.stores import store_on

PROGRAM = """
    import json, os, signal, sys, threading, time
    import anyio
    import datahike_async as d

    def does(conn):
    {does}

    async def main():
        ends, errors = [], []
        async with d.connect({config!r}) as conn:
            print("ready", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
            does(conn)
            for i in range({count}):
                try:
                    await conn.transact([{{":pid": os.getpid(), ":i": i}}])
                    ends.append(time.time())
                except d.DatahikeError as error:
                    errors.append([type(error).__name__, str(error), error.retryable])
            order = conn._transactor.order
            print(json.dumps([os.getpid(), ends, errors, order.reruns]))

    anyio.run(main)
"""
STOPPED_IN_ITS_TURN = """
        committer, order = conn._transactor.branch.committer, conn._transactor.order
        publish = committer.publish
        async def stop(entries):
            if order.has_turn:
                os.kill(os.getpid(), signal.SIGSTOP)
            return await publish(entries)
        committer.publish = stop
"""
# Of this very thread: whichever else it reached first would let this one go on for a moment.
STOPPED_WITH_THE_LOCK = {
    "file": """
        stop = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        blobs = conn._transactor.branch.store.blobs
        blobs._steps = lambda step: step == "log-written" and stop()
""",
    "lmdb": """
        stop = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        blobs = conn._transactor.branch.store.blobs
        check = blobs._check
        blobs._check = lambda *a: stop() or check(*a)
""",
}


class Writer:
    """A process that commits once it is told to."""

    def __init__(self, config: Mapping[str, Any], count: int, does: str = "") -> None:
        body = textwrap.indent(textwrap.dedent(does) or "pass", "    ")
        program = textwrap.dedent(PROGRAM).format(config=dict(config), count=count, does=body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def stopped(self) -> None:
        """Wait until it has stopped itself."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def result(self) -> tuple[int, list[float], list[Any], int]:
        output = self.process.communicate(timeout=300)[0]
        assert self.process.returncode == 0
        pid, ends, errors, reruns = json.loads(output)
        return pid, ends, errors, reruns

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["file", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return {"backend": request.param, "path": str(tmp_path / "db")}


async def _begin(store: Mapping[str, Any], writers: list[Writer]) -> None:
    for writer in writers:
        writer.ready()
    for writer in writers:
        writer.go()


async def _are_fair(store: Mapping[str, Any], processes: int, count: int) -> None:
    config = {"store": dict(store)}
    await d.create_database(config, schema_flexibility="read")
    writers = [Writer(config, count) for _ in range(processes)]
    try:
        await _begin(store, writers)
        results = [writer.result() for writer in writers]
    finally:
        for writer in writers:
            writer.end()
    assert [errors for _, _, errors, _ in results] == [[]] * processes
    # Until the first one was done, nobody had less than a third of an equal share.
    first = min(ends[-1] for _, ends, _, _ in results)
    done = [sum(end <= first for end in ends) for _, ends, _, _ in results]
    assert min(done) * 3 >= sum(done) / processes, done
    assert sum(reruns for *_, reruns in results) <= 0.2 * processes * count
    async with d.connect(config) as conn:
        rows = await conn.db().q("[:find ?p ?i (count ?e) :where [?e :pid ?p] [?e :i ?i]]")
        assert set(rows) == {(pid, i, 1) for pid, *_ in results for i in range(count)}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_three_processes_get_their_shares_and_lose_nothing(store: dict[str, Any]) -> None:
    await _are_fair(store, 3, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", ["file", "lmdb", "s3-ministack"])
async def test_eight_processes_get_their_shares_and_lose_nothing(
    name: str, tmp_path: Path, servers: Callable[[str], S3Server]
) -> None:
    await _are_fair(store_on(name, tmp_path, servers), 8, 60 if name == "s3-ministack" else 400)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("backend", ["file", pytest.param("lmdb", marks=pytest.mark.slow)])
async def test_others_go_on_when_one_is_killed_or_stopped_in_its_turn(
    backend: str, tmp_path: Path
) -> None:
    config = {"store": {"backend": backend, "path": str(tmp_path / "db"), "lock-seconds": 0.3}}
    await d.create_database(config, schema_flexibility="read")
    others = [Writer(config, 60) for _ in range(2)]
    stopped = Writer(config, 1000, STOPPED_IN_ITS_TURN)
    killed = Writer(config, 1000)
    try:
        await _begin(store, [*others, stopped, killed])
        stopped.stopped()
        killed.process.kill()
        for writer in others:
            _, ends, errors, _ = writer.result()
            assert (len(ends), errors) == (60, [])
    finally:
        for writer in (*others, stopped, killed):
            writer.end()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stopped_process_with_the_lock_is_named_and_readers_go_on(
    store: dict[str, Any],
) -> None:
    config = {"store": {**store, "lock-seconds": 0.3}}
    await d.create_database(config, schema_flexibility="read")
    stopped = Writer(config, 1, STOPPED_WITH_THE_LOCK[store["backend"]])
    try:
        async with d.connect(config) as conn:
            await conn.transact([{":name": "Ada"}])
            await _begin(store, [stopped])
            stopped.stopped()
            with pytest.raises(d.StorageError) as caught:
                await conn.transact([{":name": "Bob"}])
            who = f"process {stopped.process.pid} on host {socket.gethostname()}"
            assert who in str(caught.value)
            assert caught.value.data[":pid"] == stopped.process.pid
            assert caught.value.retryable
            await conn.sync()
            assert len(await conn.db().datoms("aevt", ":name")) == 1
            os.kill(stopped.process.pid, signal.SIGCONT)
            stopped.process.communicate(timeout=60)
            await conn.transact([{":name": "Bob"}])
    finally:
        stopped.end()


@pytest.mark.anyio
async def test_a_caller_that_holds_the_event_loop_up_keeps_a_turn_once_and_not_again(
    tmp_path: Path,
) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config, schema_flexibility="read")
    folder = os.open(tmp_path / "db", os.O_RDONLY)
    turn = FileLock(folder, "turn")
    free = []
    async with d.connect(config) as conn:
        for n in range(5):
            conn._transactor.order.waits = True  # as if it had just been overtaken
            await conn.transact([{":n": n}])
            time.sleep(0.05)  # noqa: ASYNC251
            free.append(turn.try_acquire())
            turn.release()
            await anyio.sleep(0.01)
    assert free[1:] == [True] * 4
    turn.close()
    os.close(folder)


def test_an_event_loop_that_ends_while_its_writer_waits_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "db")
    config = {"store": {"backend": "file", "path": path}}
    sent = []

    async def abandon() -> None:
        connection = await d.connect(config)
        connection._transactor.order.waits = True

        async def transact() -> None:
            try:
                await connection.transact([{":name": "Ada"}])
            except BaseException as error:
                sent.append(error)
                raise

        task = asyncio.create_task(transact())
        await asyncio.sleep(0.1)
        assert not task.done()

    asyncio.run(d.create_database(config, schema_flexibility="read"))
    folder = os.open(path, os.O_RDONLY)
    another = FileLock(folder, "turn")
    assert another.try_acquire("of something else")
    with pytest.warns(ResourceWarning, match="event loop ended"):
        asyncio.run(abandon())
    assert len(sent) == 1
    another.release()

    async def look() -> None:
        async with d.connect(config) as conn:
            assert not await conn.db().datoms("aevt", ":name")
            conn._transactor.order.waits = True
            await conn.transact([{":name": "Bob"}])
            assert conn._transactor.order.conflicts == 0

    asyncio.run(look())
    another.close()
    os.close(folder)
