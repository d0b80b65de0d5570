"""Who is cancelled while a database is opened, made, looked for or deleted leaves nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.transactor import sharing
from tests.loops import RUNNERS, Begin, held
from tests.stores import Servers, store_on

pytestmark = pytest.mark.usefixtures("little_to_collect")

WRAPPED = ["caching-file", "retrying-lmdb", "tiered-memory-file", "tiered-file-lmdb-behind"]
VERBS = ["connect", "create", "exists", "delete"]


def made(name: str, folder: Path, servers: Servers | None = None) -> dict[str, Any]:
    """Return the config of a store on a backend by its name, with the wrappers before it."""
    first, *rest = name.split("-")
    if first in ("caching", "retrying"):
        inner = made("-".join(rest), folder, servers)
        return {"backend": first, "id": inner["id"], "config": inner}
    if first == "tiered":
        behind = rest[-1:] == ["behind"]
        id_ = uuid4()
        parts = [{**made(part, folder, servers), "id": id_} for part in rest[:2]]
        return {
            "backend": "tiered",
            "id": id_,
            "frontend-config": parts[0],
            "backend-config": parts[1],
            "write-policy": "write-behind" if behind else "write-through",
        }
    if first == "s3":
        assert servers is not None
        return store_on("s3-moto", folder, servers)
    return {**store_on(first, folder, servers), "id": uuid4()}  # type: ignore[arg-type]


async def create(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")


async def opened(store: dict[str, Any]) -> None:
    conn = await d.connect(store=store)
    # The last turn is one of these, so nothing but the connection can be cut off.
    await conn.release()


def verb(name: str, store: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
    return {
        "connect": lambda: opened(store),
        "create": lambda: create(store),
        "exists": lambda: d.database_exists(store=store),
        "delete": lambda: d.delete_database(store=store),
    }[name]


def cancelled_at_every_turn(
    store: dict[str, Any], name: str, loop: str, how: str, step: int
) -> None:
    async def prepare() -> None:
        there = await d.database_exists(store=store)
        if name == "create" and there:
            await d.delete_database(store=store)
        elif name != "create" and not there:
            # What a deletion that was cut off left behind is taken over.
            await create(store)

    async def prepared() -> None:
        # Who was cancelled half way is waited for by nobody.
        with anyio.fail_after(10):
            await prepare()

    async def main(begin: Begin) -> None:
        call = verb(name, store)
        if how == "task":
            task = asyncio.ensure_future(call())
            begin(task.cancel)
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
        else:
            with anyio.CancelScope() as scope:
                begin(scope.cancel)
                await call()
        with anyio.fail_after(10):
            while sharing._registry().live:
                await anyio.sleep(0.001)

    before = None
    turns = 0
    while True:
        anyio.run(prepared)
        if before is None:
            before = held()
        happened = RUNNERS[loop](main, turns)
        assert held() == before, f"after {turns} turns"
        turns += step
        if not happened:
            break
    assert turns > step


CASES = [("asyncio", "task"), ("asyncio", "scope"), ("trio", "scope")]


@pytest.mark.parametrize(("loop", "how"), CASES)
@pytest.mark.parametrize("name", ["file", "lmdb"])
def test_a_cancelled_connect_leaves_nothing_open(
    name: str, loop: str, how: str, tmp_path: Path
) -> None:
    cancelled_at_every_turn(made(name, tmp_path), "connect", loop, how, 7)


@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize("name", ["file", "lmdb"])
def test_cancelled_verbs_leave_nothing_open(name: str, what: str, tmp_path: Path) -> None:
    cancelled_at_every_turn(made(name, tmp_path), what, "asyncio", "task", 17)


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "how"), CASES)
@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize("name", ["memory", "file", "lmdb", *WRAPPED])
def test_cancelled_verbs_leave_nothing_open_at_any_turn(
    name: str, what: str, loop: str, how: str, tmp_path: Path
) -> None:
    cancelled_at_every_turn(made(name, tmp_path), what, loop, how, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "how"), CASES)
@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize("name", ["s3", "tiered-file-s3"])
def test_cancelled_verbs_leave_no_socket_of_s3_open(
    name: str, what: str, loop: str, how: str, tmp_path: Path, servers: Servers
) -> None:
    cancelled_at_every_turn(made(name, tmp_path, servers), what, loop, how, 5)
