"""A guest book as a web application: one writer, many readers, and its past.

pip install . starlette uvicorn             (in a clone of the project)
uvicorn --factory examples.web.app:make_app

It keeps its entries in ./guestbook. Any other store is a change of its config alone; on S3
(pip install backends/s3), where any number of servers share the book:

GUESTBOOK='{:store {:backend :s3 :bucket "my-databases" :prefix "guestbook"}}' uvicorn --factory …

POST /entries {"name": …, "text": …}     add an entry
GET  /entries?limit=10                   the newest entries
GET  /entries/{id}?as_of={tx}            one entry, perhaps as it was
PUT  /entries/{id} {"text": …}           change it: nothing is overwritten
GET  /stats                              counts, all of one moment
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import datahike_async as d

SCHEMA = """
[{:db/ident :entry/id :db/valueType :db.type/uuid :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :entry/name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :entry/text :db/valueType :db.type/string :db/cardinality :db.cardinality/one}]
"""
NEWEST = """
[:find ?id ?name ?text ?tx
 :where [?e :entry/id ?id ?tx] [?e :entry/name ?name] [?e :entry/text ?text]
 :order-by [?tx :desc]]
"""
COUNTS = """
[:find (count ?e) (count-distinct ?name) :where [?e :entry/name ?name]]
"""
PATTERN = "[:entry/id :entry/name :entry/text]"


def make_app(config: Mapping[str, Any] | None = None) -> Starlette:
    """Return the application; ``config`` names the database, else GUESTBOOK does, as EDN."""
    database = d.Config.of(
        config or os.environ.get("GUESTBOOK", '{:store {:backend :file :path "guestbook"}}')
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Of several workers that start at once one creates the database.
        async with d.connect(database, create=True, initial_tx=SCHEMA) as conn:
            app.state.conn = conn
            # Other workers and other machines write to the book, too; into memory nobody else does.
            app.state.shared = conn.config.store["backend"] != "memory"
            yield

    return Starlette(
        routes=[
            Route("/entries", add, methods=["POST"]),
            Route("/entries", newest),
            Route("/entries/{id:uuid}", one),
            Route("/entries/{id:uuid}", change, methods=["PUT"]),
            Route("/stats", stats),
        ],
        lifespan=lifespan,
        exception_handlers={d.BadInput: mistaken},
    )


async def mistaken(request: Request, error: Exception) -> Response:
    """Answer 4xx to what is the caller's mistake, in the database's own words; all else is 500.

    422 is for data that it refuses, of which it wrote nothing, and 400 for a question that is none.
    """
    assert isinstance(error, d.BadInput)
    status = 422 if isinstance(error, d.TransactionError) else 400
    return JSONResponse({"error": error.error, "message": str(error)}, status_code=status)


def number(text: str) -> int | str:
    """Return a number, or what was given instead: the database knows what it takes."""
    try:
        return int(text)
    except ValueError:
        return text


async def sent(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent."""
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "The body is no JSON object.")
    return body


async def add(request: Request) -> Response:
    """Add an entry."""
    body = await sent(request)
    id_ = uuid.uuid4()
    report = await request.app.state.conn.transact(
        [{":entry/id": id_, ":entry/name": body.get("name"), ":entry/text": body.get("text")}]
    )
    return JSONResponse({"id": str(id_), "tx": report.tx}, status_code=201)


async def present(request: Request) -> d.Database:
    """Return the database as it is: of a store that is shared, with what others wrote."""
    conn: d.Connection = request.app.state.conn
    return await conn.sync() if request.app.state.shared else conn.db()


async def newest(request: Request) -> Response:
    """List the newest entries."""
    limit = number(request.query_params.get("limit", "10"))
    if isinstance(limit, int) and limit < 0:
        raise d.ArgumentError(":limit should not be negative, which to a query is no limit.")
    rows = await d.q(NEWEST, await present(request), limit=limit)
    return JSONResponse(
        [{"id": str(i), "name": name, "text": text, "tx": tx} for i, name, text, tx in rows]
    )


async def one(request: Request) -> Response:
    """Show one entry, now or as of a transaction."""
    db = await present(request)
    if "as_of" in request.query_params:
        db = db.as_of(number(request.query_params["as_of"]))
    entry = await db.pull(PATTERN, [":entry/id", request.path_params["id"]])
    if entry is None:
        raise HTTPException(404, "There is no such entry.")
    return JSONResponse({key.name: str(value) for key, value in entry.items()})


async def change(request: Request) -> Response:
    """Change the text of an entry."""
    body = await sent(request)
    conn = request.app.state.conn
    ref = [":entry/id", request.path_params["id"]]
    report = await conn.transact([[":db/add", ref, ":entry/text", body.get("text")]])
    return JSONResponse({"tx": report.tx})


async def stats(request: Request) -> Response:
    """Count entries and people: one database value, so the numbers belong together."""
    db = await present(request)
    rows = await d.q(COUNTS, db)
    entries, people = rows[0] if rows else (0, 0)
    return JSONResponse({"entries": entries, "people": people, "tx": db.max_tx})
