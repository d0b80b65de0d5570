"""The example application under load, beside the same one on aiosqlite: latencies of both.

32 tasks write and 100 read at once, through the application's own interface (no sockets, so that
the database is what is measured).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from datahike_async.tables import table

WRITERS, READERS, ROUNDS = 32, 100, 20


def sqlite_app(path: Path) -> Starlette:
    """Return the same application on SQLite: one connection a request, as is usual."""

    async def connection() -> aiosqlite.Connection:
        found = await aiosqlite.connect(path, timeout=60)
        await found.execute("PRAGMA synchronous=FULL")
        return found

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        db = await aiosqlite.connect(path)
        await db.execute("PRAGMA journal_mode=WAL")
        await db.execute("CREATE TABLE entry (id TEXT PRIMARY KEY, name TEXT, text TEXT)")
        await db.commit()
        await db.close()
        yield

    async def add(request: Request) -> Response:
        body = await request.json()
        db = await connection()
        id_ = str(uuid.uuid4())
        await db.execute("INSERT INTO entry VALUES (?, ?, ?)", (id_, body["name"], body["text"]))
        await db.commit()
        await db.close()
        return JSONResponse({"id": id_}, status_code=201)

    async def newest(request: Request) -> Response:
        limit = int(request.query_params.get("limit", "10"))
        db = await connection()
        cursor = await db.execute(
            "SELECT id, name, text FROM entry ORDER BY rowid DESC LIMIT ?", (limit,)
        )
        rows = await cursor.fetchall()
        await db.close()
        return JSONResponse([{"id": i, "name": n, "text": t} for i, n, t in rows])

    async def stats(_: Request) -> Response:
        db = await connection()
        cursor = await db.execute("SELECT count(*), count(DISTINCT name) FROM entry")
        row = await cursor.fetchone()
        await db.close()
        assert row is not None
        return JSONResponse({"entries": row[0], "people": row[1]})

    return Starlette(
        routes=[
            Route("/entries", add, methods=["POST"]),
            Route("/entries", newest),
            Route("/stats", stats),
        ],
        lifespan=lifespan,
    )


async def load(app: Starlette) -> tuple[dict[str, list[float]], list[Any]]:
    """Return the latencies in ms by kind of request, and the errors."""
    times: dict[str, list[float]] = {"write": [], "newest": [], "stats": []}
    errors: list[Any] = []
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:

            async def request(kind: str, method: str, url: str, **options: Any) -> Any:
                start = time.perf_counter()
                answer = await client.request(method, url, **options)
                times[kind].append((time.perf_counter() - start) * 1e3)
                if answer.status_code >= 400:
                    errors.append((url, answer.text))
                return answer.json()

            async def write(number: int) -> None:
                for i in range(ROUNDS):
                    body = {"name": f"p{number}", "text": f"entry {i}"}
                    await request("write", "POST", "/entries", json=body)

            async def read() -> None:
                seen = 0
                for _ in range(ROUNDS):
                    await request("newest", "GET", "/entries?limit=10")
                    found = await request("stats", "GET", "/stats")
                    if found["entries"] < seen:
                        errors.append(("stats went back", found))
                    seen = found["entries"]

            async with anyio.create_task_group() as group:
                for number in range(WRITERS):
                    group.start_soon(write, number)
                for _ in range(READERS):
                    group.start_soon(read)
            found = (await client.get("/stats")).json()
            if found["entries"] != WRITERS * ROUNDS:
                errors.append(("entries are missing", found))
    return times, errors


def run() -> int:
    """Print the latencies of both; return 1 where ours had an error."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from examples.web.app import make_app

    rows = []
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apps = {
            "datahike-async": make_app(
                {"store": {"backend": "file", "path": str(folder / "guestbook")}}
            ),
            "aiosqlite": sqlite_app(folder / "guestbook.db"),
        }
        for peer, app in apps.items():
            start = time.perf_counter()
            times, errors = anyio.run(load, app)
            seconds = time.perf_counter() - start
            for error in errors[:3]:
                print(f"{peer}: {error}")
            failed |= bool(errors) and peer == "datahike-async"
            for kind, found in times.items():
                cut = statistics.quantiles(found, n=100)
                rows.append(
                    (
                        peer,
                        kind,
                        len(found),
                        f"{cut[49]:.1f}",
                        f"{cut[94]:.1f}",
                        f"{cut[98]:.1f}",
                        len(errors),
                        f"{seconds:.2f}",
                    )
                )
    print(f"{WRITERS} writing and {READERS} reading tasks at once; latencies in ms")
    print(table(("app", "request", "count", "p50", "p95", "p99", "errors", "all s"), rows))
    return int(failed)
