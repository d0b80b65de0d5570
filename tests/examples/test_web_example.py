"""The example application, with real requests: alone, in its past, and under load."""

from __future__ import annotations

import importlib.util
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from datahike_async.edn import write
from tests.stores import on_loops, store_on
from tests.strangers import as_a_stranger

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.anyio


def load(path: str):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_")[:-3], EXAMPLES / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def client_of(app) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


on_stores = pytest.mark.parametrize(
    ("anyio_backend", "config"),
    on_loops(["file", "s3-moto", "tiered-file-s3"]),
    indirect=["config"],
)


@pytest.fixture
def config(request, tmp_path, servers):
    return {"store": store_on(request.param, tmp_path, servers)}


@on_stores
async def test_entries_and_their_past(config):
    web = load("web/app.py")
    async with client_of(web.make_app(config)) as client:
        made = await client.post("/entries", json={"name": "Ada", "text": "first"})
        assert made.status_code == 201
        id_, tx = made.json()["id"], made.json()["tx"]
        changed = await client.put(f"/entries/{id_}", json={"text": "second"})
        assert changed.status_code == 200, changed.text
        assert (await client.get(f"/entries/{id_}")).json()["text"] == "second"
        then = await client.get(f"/entries/{id_}", params={"as_of": tx})
        assert then.json()["text"] == "first"
        assert (await client.get(f"/entries/{uuid.uuid4()}")).status_code == 404
        refused = await client.post("/entries", json={"name": 5, "text": "x"})
        assert refused.status_code == 422
        assert refused.json()["error"] == ":transact/schema"
        assert (await client.get("/stats")).json()["entries"] == 1
    async with client_of(web.make_app(config)) as client:
        assert (await client.get("/entries")).json()[0]["text"] == "second"


async def test_what_is_malformed_is_the_callers_mistake(tmp_path, servers):
    web = load("web/app.py")
    async with client_of(web.make_app({"store": store_on("memory", tmp_path, servers)})) as client:
        made = await client.post("/entries", json={"name": "Ada", "text": "first"})
        id_ = made.json()["id"]
        for limit in ("many", "-1", "1.5", "", "9" * 5000):
            answer = await client.get("/entries", params={"limit": limit})
            assert answer.status_code == 400
            assert ":limit" in answer.json()["message"]
        for point in ("yesterday", "-1", "1", "", "9" * 5000, "9" * 30):
            answer = await client.get(f"/entries/{id_}", params={"as_of": point})
            assert answer.status_code == 400
            assert "transaction id" in answer.json()["message"]
        for body in (b"", b"{", b"\xff", b"[1]", b"null", b"[" * 100_000):
            for method, path in (("POST", "/entries"), ("PUT", f"/entries/{id_}")):
                answer = await client.request(method, path, content=body)
                assert answer.status_code == 400
                assert "JSON" in answer.text
        for value in (None, 5, [1], {"a": {}}, "\ud800"):
            answer = await client.post("/entries", content=json.dumps({"name": "A", "text": value}))
            assert answer.status_code == 422
            assert answer.json()["message"]
        assert (await client.get("/stats")).json()["entries"] == 1


@pytest.mark.parametrize("store", ["file", "s3-moto"])
async def test_two_workers_see_at_once_what_the_other_wrote(store, tmp_path, servers, monkeypatch):
    web = load("web/app.py")
    monkeypatch.setenv("GUESTBOOK", write({"store": store_on(store, tmp_path, servers)}))
    # Each has a registry of writers of its own, as if it were another process.
    async with client_of(web.make_app()) as one:
        with as_a_stranger():
            two = web.make_app()
            async with client_of(two) as other:
                made = await one.post("/entries", json={"name": "Ada", "text": "hello"})
                id_ = made.json()["id"]
                assert (await other.get(f"/entries/{id_}")).json()["text"] == "hello"
                assert (await other.get("/stats")).json()["entries"] == 1
                await other.put(f"/entries/{id_}", json={"text": "goodbye"})
                assert (await one.get("/entries")).json()[0]["text"] == "goodbye"


@on_stores
async def test_writers_and_readers_at_once(config):
    web = load("web/app.py")
    errors: list[object] = []
    counts: list[int] = []
    async with client_of(web.make_app(config)) as client:

        async def write(number: int) -> None:
            for i in range(3):
                answer = await client.post("/entries", json={"name": f"p{number}", "text": str(i)})
                if answer.status_code != 201:
                    errors.append(answer.text)

        async def read() -> None:
            seen = 0
            for _ in range(3):
                stats = (await client.get("/stats")).json()
                if stats["entries"] < seen or stats["people"] > stats["entries"]:
                    errors.append(stats)
                seen = stats["entries"]
                rows = (await client.get("/entries", params={"limit": 500})).json()
                counts.append(len(rows))
                if len({row["id"] for row in rows}) != len(rows):
                    errors.append(rows)

        async with anyio.create_task_group() as group:
            for number in range(32):
                group.start_soon(write, number)
            for _ in range(32):
                group.start_soon(read)
        assert errors == []
        assert (await client.get("/stats")).json()["entries"] == 96
        assert max(counts) <= 96


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_trio_example(capsys):
    example = load("on_trio.py")
    await example.main()
    assert "20 readings are kept" in capsys.readouterr().out
