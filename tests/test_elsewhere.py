"""Connections and values away from their event loop: an error at once, or an answer from memory."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

import datahike_async as d
from datahike_async.errors import WrongEventLoop
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.usefixtures("little_to_collect")

MANY = 3000


@pytest.fixture(params=["memory", "file", "lmdb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=Limits(close_rows=1)) as conn:
        await conn.transact([{":n": n} for n in range(MANY)])
    return store


QUERY = "[:find (count ?e) . :where [?e :n]]"


def what_waits(conn: d.Connection, cold: d.Database) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def listening() -> None:
        conn.listen(print)

    async def leaving() -> None:
        async with conn:
            pass

    return {
        "transact": lambda: conn.transact([{":n": -1}]),
        "transact with a key": lambda: conn.transact([{":n": -1}], idempotency_key="key"),
        "sync": conn.sync,
        "release": conn.release,
        "async with": leaving,
        "listen": listening,
        "a query that fetches": lambda: d.q(QUERY, cold),
        "datoms that are fetched": lambda: cold.datoms("aevt", ":n"),
        "a pull that fetches": lambda: cold.pull("[*]", 1),
    }


async def refused(calls: dict[str, Callable[[], Awaitable[Any]]]) -> list[str]:
    """Return what did not raise the error that says where one is."""
    wrong = []
    for name, call in calls.items():
        try:
            with anyio.fail_after(5):
                found = await call()
            wrong.append(f"{name} returned {found!r}")
        except WrongEventLoop:
            continue
        except BaseException as error:
            wrong.append(f"{name} raised {error!r}")
    return wrong


@pytest.mark.anyio
@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_another_loop_in_a_thread_is_told_at_once(store: dict[str, Any], other: str) -> None:
    async with d.connect(store=store) as conn:
        calls = what_waits(conn, conn.db())

        def elsewhere() -> list[str]:
            return anyio.run(refused, calls, backend=other)

        assert await anyio.to_thread.run_sync(elsewhere) == []
        assert await d.q(QUERY, conn.db()) == MANY

        # What is in memory is answered anywhere; a value has no loop.
        warm = conn.db()
        there = await anyio.to_thread.run_sync(lambda: anyio.run(d.q, QUERY, warm, backend=other))
        assert there == MANY
        await conn.transact([{":n": -1}])


@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_the_next_loop_of_a_thread_is_told_at_once(tmp_path: Path, first: str, second: str) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}

    async def opened() -> tuple[d.Connection, d.Database]:
        await d.create_database(store=store, schema_flexibility="read")
        async with d.connect(store=store, limits=Limits(close_rows=1)) as conn:
            await conn.transact([{":n": n} for n in range(MANY)])
        conn = await d.connect(store=store)
        return conn, conn.db()

    with pytest.warns(ResourceWarning, match="unclosed"):
        conn, cold = anyio.run(opened, backend=first)
    assert anyio.run(refused, what_waits(conn, cold), backend=second) == []


def in_a_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child, and return its exit code."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        # That threads run is what is tried out here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.anyio
async def test_a_forked_child_is_told_at_once_and_leaves_alone_what_is_its_parents(
    store: dict[str, Any],
) -> None:
    conn = await d.connect(store=store)
    holder = [conn]
    parents = getattr(conn._transactor.branch.store.blobs, "_environment", None)
    calls = what_waits(conn, conn.db())

    def child() -> None:
        nonlocal conn
        # asyncio and trio know of no fork; a thread of the child has no loop yet.
        import threading

        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(anyio.run(refused, calls)))
        thread.start()
        thread.join(20)
        assert found == [[]], found
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calls.clear()
            holder.clear()
            del conn
            gc.collect()

        async def of_its_own() -> None:
            if store["backend"] == "memory":
                return
            with anyio.fail_after(20):
                async with d.connect(store=store) as mine:
                    if store["backend"] == "lmdb":
                        blobs = mine._transactor.branch.store.blobs
                        assert blobs._environment is not parents
                    assert await d.q(QUERY, mine.db()) == MANY
                    await mine.transact([{":n": -2}])

        thread = threading.Thread(target=lambda: found.append(anyio.run(of_its_own)))
        thread.start()
        thread.join(30)
        assert found == [[], None], found

    code = await anyio.to_thread.run_sync(in_a_child, child)
    assert code == 0
    await conn.transact([{":n": -1}])
    there = MANY + (1 if store["backend"] == "memory" else 2)
    assert await d.q(QUERY, conn.db()) == there
    await conn.release()
