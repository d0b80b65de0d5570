"""Connections as fixtures, in cells, lifespans and dependencies of other projects.

Run in a process of its own by ``test_frameworks``: its plugins and this suite's do not agree.
"""

from __future__ import annotations

import unittest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
import pytest_asyncio
import pytest_trio
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from IPython.core.interactiveshell import InteractiveShell

import datahike_async as d


@pytest.fixture
def store(tmp_path: Path) -> dict[str, Any]:
    return {"backend": "file", "path": str(tmp_path / "db")}


async def create(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")


async def numbers(conn: d.Connection) -> list[int]:
    return sorted(datom.v for datom in await conn.db().datoms("aevt", ":n"))


async def a_connection(store: dict[str, Any]) -> AsyncIterator[d.Connection]:
    await create(store)
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])
        yield conn
        await conn.transact([{":n": 3}])
        assert await numbers(conn) == [1, 2, 3]


async def use(conn: d.Connection) -> None:
    await conn.transact([{":n": 2}])
    assert await numbers(conn) == [1, 2]


# -- pytest-asyncio: set up and torn down in tasks of their own --------------------------------


@pytest_asyncio.fixture
async def asyncio_conn(store: dict[str, Any]) -> AsyncIterator[d.Connection]:
    async for conn in a_connection(store):
        yield conn


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_conn(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[d.Connection]:
    store = {"backend": "file", "path": str(tmp_path_factory.mktemp("module") / "db")}
    await create(store)
    conn = await d.connect(store=store)
    yield conn
    await conn.release()


@pytest.mark.asyncio
async def test_pytest_asyncio(asyncio_conn: d.Connection) -> None:
    await use(asyncio_conn)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("n", [1, 2])
async def test_pytest_asyncio_keeps_it_for_a_module(module_conn: d.Connection, n: int) -> None:
    await module_conn.transact([{":n": n}])
    assert await numbers(module_conn) == list(range(1, n + 1))


# -- anyio's plugin and pytest-trio ------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def anyio_conn(anyio_backend: str, store: dict[str, Any]) -> AsyncIterator[d.Connection]:
    async for conn in a_connection(store):
        yield conn


@pytest.mark.anyio
async def test_anyio(anyio_conn: d.Connection) -> None:
    await use(anyio_conn)


@pytest_trio.trio_fixture
async def trio_conn(store: dict[str, Any]) -> AsyncIterator[d.Connection]:
    async for conn in a_connection(store):
        yield conn


@pytest.mark.trio
async def test_pytest_trio(trio_conn: d.Connection) -> None:
    await use(trio_conn)


# -- unittest ----------------------------------------------------------------------------------


class Case(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def at(self, store: dict[str, Any]) -> None:
        self.store = store

    async def asyncSetUp(self) -> None:
        await create(self.store)
        self.conn = await d.connect(store=self.store)

    async def asyncTearDown(self) -> None:
        await self.conn.release()

    async def test_set_up(self) -> None:
        await self.conn.transact([{":n": 1}])
        await use(self.conn)

    async def test_entered(self) -> None:
        other = await self.enterAsyncContext(d.connect(store=self.store))
        await other.transact([{":n": 1}])
        await use(self.conn)


# -- notebooks ---------------------------------------------------------------------------------


def test_ipython(store: dict[str, Any]) -> None:
    shell = InteractiveShell.instance()
    shell.user_ns.update(d=d, store=store, numbers=numbers, heard=[])
    cells = """
        await d.create_database(store=store, schema_flexibility="read")
        conn = await d.connect(store=store)
        conn.listen(lambda report: heard.append(report.tx))
        await conn.transact([{":n": 1}])
        db = conn.db()
        assert await numbers(conn) == [1]
        async with conn: await conn.transact([{":n": 2}])
        assert conn.closed and len(heard) == 2
    """
    for cell in filter(None, map(str.strip, cells.splitlines())):
        found = shell.run_cell(cell)
        assert found.success, (cell, found)


# -- web applications --------------------------------------------------------------------------


async def connection(request: Request) -> AsyncIterator[d.Connection]:
    async with d.connect(store=request.app.state.store) as conn:
        yield conn


def app(store: dict[str, Any]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await create(store)
        app.state.store = store
        app.state.conn = await d.connect(store=store)
        yield
        await app.state.conn.release()

    app = FastAPI(lifespan=lifespan)

    @app.post("/lifespan/{n}")
    async def with_lifespan(n: int, request: Request) -> list[int]:
        conn = request.app.state.conn
        await conn.transact([{":n": n}])
        return await numbers(conn)

    @app.post("/dependency/{n}")
    async def with_dependency(
        n: int, conn: Annotated[d.Connection, Depends(connection)]
    ) -> list[int]:
        await conn.transact([{":n": n}])
        return await numbers(conn)

    return app


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_fastapi(store: dict[str, Any], backend: str) -> None:
    with TestClient(app(store), backend=backend) as client:
        assert client.post("/lifespan/1").json() == [1]
        assert client.post("/dependency/2").json() == [1, 2]
        assert client.post("/lifespan/3").json() == [1, 2, 3]

    async def later() -> list[int]:
        async with d.connect(store=store) as conn:
            return await numbers(conn)

    assert anyio.run(later) == [1, 2, 3]
