"""What leaves a database as JSON: one form for all values, and encoders of others that find it."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from fastapi import FastAPI
from fastapi.encoders import ENCODERS_BY_TYPE, jsonable_encoder
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import datahike_async as d
from datahike_async.values.types import VALUE_TYPES, DoubleArray

pytestmark = pytest.mark.anyio

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
ID = uuid.UUID(int=7)
FORMS = [
    (d.kw("person/name"), ":person/name"),
    (d.sym("?e"), "?e"),
    (d.Char("x"), "x"),
    ("grüße", "grüße"),
    (True, True),
    (None, None),
    (2**53 - 1, 2**53 - 1),
    (-(2**53) + 1, -(2**53) + 1),
    (2**53, "9007199254740992"),
    (-(2**80), str(-(2**80))),
    (1.5, 1.5),
    (math.nan, None),
    (-math.inf, None),
    (Decimal("1.50"), "1.50"),
    (Fraction(1, 3), "1/3"),
    (WHEN, "2026-01-02T03:04:05.678900+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (ID, str(ID)),
    (b"\x00\xff", "AP8="),
    (DoubleArray([1, 2.5]), [1.0, 2.5]),
    ((1, d.kw("a")), [1, ":a"]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({d.kw("a/b"): {1: b"x"}, "k": []}, {":a/b": {"1": "eA=="}, "k": []}),
    (d.ValueSet([2, 1.5, 1]), [1, 1.5, 2]),
    (d.Tagged("my/tag", [d.kw("a")]), {"tag": "my/tag", "value": [":a"]}),
    (np.int64(5), 5),
    (np.array([1.0, math.nan]), [1.0, None]),
    (d.Datom(1, d.kw("a"), 2**60, 5, False), [1, ":a", str(2**60), 5, False]),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda x: type(x).__name__)
def test_every_value_has_one_form(value: Any, form: Any) -> None:
    made = d.jsonable([value])
    assert json.dumps(made, allow_nan=False) == json.dumps([form])
    assert orjson.loads(orjson.dumps(made)) == [form]
    if type(value) not in (str, bool, type(None), int, float, tuple, dict):
        assert json.loads(json.dumps([value], default=d.json_default)) == [form]


def test_the_form_covers_every_value_type() -> None:
    samples = {
        "bigdec": Decimal(1), "boolean": True, "bytes": b"", "double": 1.0, "double-array": [1.0],
        "float": 1.0, "float-array": [1.0], "instant": WHEN, "keyword": d.kw("a"), "ref": 1,
        "string": "", "symbol": d.sym("a"), "tuple": (1, WHEN), "unique": d.kw("a"), "uuid": ID,
    }  # fmt: skip
    for name, kind in VALUE_TYPES.items():
        short = str(name).rpartition("/")[2]
        stored = kind.coerce(ID if short == "store-ref" else samples.get(short, 1))
        json.dumps(d.jsonable(stored), allow_nan=False)


def test_what_has_no_form_says_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for bad, keyword in (
        (object(), ":json/no-form"),
        (d.empty_db(), ":json/no-form"),
        ({d.kw("a"): 1, ":a": 2}, ":json/two-keys"),
        (deep, ":json/nested"),
    ):
        for encode in (d.jsonable, d.json_default):
            with pytest.raises(TypeError) as caught:
                encode(bad)
            assert isinstance(caught.value, d.ArgumentError)
            assert caught.value.error == keyword
    with pytest.raises(TypeError, match="no form in JSON"):
        json.dumps([object()], default=d.json_default)


# -- rows --------------------------------------------------------------------------------------


@pytest.fixture
async def db() -> d.Database:
    made = d.empty_db({":knows": {":db/valueType": ":db.type/ref"}}, keep_history=True)
    return await made.db_with(
        [
            {":db/id": 1, ":name": "Ada", ":born": WHEN, ":key": b"\xff\x00", ":knows": 2},
            {":db/id": 2, ":name": "Bob", ":n": 2**60, ":is": d.kw("a/b")},
        ]
    )


async def test_rows_become_dicts_and_text(db: d.Database) -> None:
    rows = await d.q("[:find ?n ?a ?v :where [?e :name ?n] [?e ?a ?v]]", db)
    assert {"n": "Bob", "a": d.kw("n"), "v": 2**60} in rows.to_dicts()
    as_lists, as_dicts = json.loads(rows.to_json()), json.loads(rows.to_json(dicts=True))
    assert ["Bob", ":n", str(2**60)] in as_lists
    assert ["Ada", ":key", "/wA="] in as_lists
    assert [list(row.values()) for row in as_dicts] == as_lists
    assert d.jsonable(rows) == as_lists
    listed = await d.q("[:find ?n (pull ?e [:born]) :where [?e :name ?n]]", db)
    assert sorted(json.loads(listed.to_json())) == [
        ["Ada", {":born": WHEN.isoformat()}],
        ["Bob", None],
    ]
    none = await d.q("[:find ?n :where [?e :nothing ?n]]", db)
    assert (none.to_json(), none.to_json(dicts=True), none.to_dicts()) == ("[]", "[]", [])


async def test_columns_of_every_kind_become_what_their_values_do(db: d.Database) -> None:
    values = [form for form, _ in FORMS if type(form) in (int, float, str, bytes, bool)]
    columns = [[1, 2**53, 3], [1.0, math.nan, 2.0], ["a", "b", "a"], [True, False, True], values]
    for column in columns:
        rows = await d.q("[:find ?i ?v :in [[?i ?v]]]", list(enumerate(column)))
        expected = d.jsonable([list(row) for row in rows])
        assert json.loads(rows.to_json()) == d.jsonable(rows) == expected


async def test_many_rows_come_in_pieces(db: d.Database) -> None:
    rows = await d.q("[:find ?i :in [?i ...]]", list(range(10_000)))
    pieces = list(rows.json_chunks(size=999))
    assert len(pieces) == 12
    assert max(map(len, pieces)) < 10_000
    assert "".join(pieces) == rows.to_json()
    assert sorted(json.loads("".join(pieces))) == [[i] for i in range(10_000)]
    with pytest.raises(ValueError, match="size"):
        list(rows.json_chunks(size=0))


async def test_what_was_sent_as_json_can_be_transacted(db: d.Database) -> None:
    sent = json.loads(json.dumps(d.jsonable(await db.pull("[:name :is]", 2))))
    strict = d.empty_db({":is": {":db/valueType": ":db.type/keyword"}})
    again = await strict.db_with([sent])
    assert await again.pull("[:name :is]", 1) == {":name": "Bob", ":is": d.kw("a/b")}


# -- the encoders of others --------------------------------------------------------------------


async def things(db: d.Database) -> dict[str, tuple[Any, Any, Any]]:
    """Of each kind of thing that leaves an endpoint: it, its type, and its JSON."""
    report = await db.with_([[":db/add", "new", ":name", "Cy"], [":db/add", 2, ":key", b"\xff"]])
    tx = report.tx
    made = datetime.isoformat(report.instant)
    pulled = {":name": "Ada", ":born": WHEN.isoformat(), ":key": "/wA=", ":knows": {":db/id": 2}}
    datoms = [[tx, ":db/txInstant", made, tx, True], [3, ":name", "Cy", tx, True]]
    datoms += [[2, ":key", "/w==", tx, True]]
    return {
        "rows": (await db.q("[:find ?n :where [1 :name ?n]]"), d.QueryResult, [["Ada"]]),
        "pairs": (await db.q("[:find ?n ?k :where [?e :name ?n] [?e :key ?k]]"), d.QueryResult,
                  [["Ada", "/wA="]]),
        "list": (await db.q("[:find ?n (count ?e) :where [?e :name ?n] [?e :n]]"), d.QueryList,
                 [["Bob", 1]]),
        "pull": (await db.pull("[:name :born :key :knows]", 1), d.EntityMap, pulled),
        "report": (report, d.TxReport, {
            "tx": tx, "tempids": {"new": 3}, "tx_meta": {":db/txInstant": made},
            "tx_data": datoms, "repeated": False, "purged": 0}),
        "set": (d.ValueSet([2**60, 1]), d.ValueSet, [1, str(2**60)]),
        "keyword": (d.kw("a/b"), d.Keyword, ":a/b"),
        "symbol": (d.sym("?e"), d.Symbol, "?e"),
        "datom": (d.Datom(1, d.kw("a"), WHEN, 5), d.Datom, [1, ":a", WHEN.isoformat(), 5, True]),
        "datoms": (await db.datoms("aevt", ":is"), d.Datoms,
                   [[2, ":is", ":a/b", (await db.datoms("aevt", ":is"))[0].tx, True]]),
    }  # fmt: skip


@pytest.fixture
async def kinds(db: d.Database) -> dict[str, tuple[Any, Any, Any]]:
    return await things(db)


def giving(value: Any) -> Any:
    return lambda: value


class Wanted(BaseModel):
    attribute: d.Keyword
    sort: d.Symbol = d.sym("?e")


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("declared", ["its type", "Any", "in a list"])
async def test_fastapi_answers_with_what_queries_pulls_and_transactions_return(kinds, declared):
    app = FastAPI()
    for name, (value, kind, _) in kinds.items():
        returned = {"its type": kind, "Any": Any, "in a list": list[kind]}[declared]
        returns = [value] if declared == "in a list" else value
        app.add_api_route("/" + name, giving(returns), response_model=returned)
    async with client_of(app) as client:
        for name, (_, _, form) in kinds.items():
            if declared == "Any" and name == "pull":
                continue  # a dict of no declared type: its bytes are pydantic's, see below
            answer = await client.get("/" + name)
            assert answer.status_code == 200, (name, answer.text)
            assert answer.json() == ([form] if declared == "in a list" else form)
        assert (await client.get("/openapi.json")).status_code == 200


async def test_fastapi_describes_them_in_its_schema_and_reads_keywords(kinds):
    app = FastAPI()

    @app.post("/pick")
    async def pick(wanted: Wanted) -> d.Keyword:
        return wanted.attribute

    @app.get("/report")
    async def report() -> d.TxReport:
        return kinds["report"][0]

    async with client_of(app) as client:
        answer = await client.post("/pick", json={"attribute": ":person/name"})
        assert (answer.status_code, answer.json()) == (200, ":person/name")
        for bad in (5, "", None, [":a"]):
            assert (await client.post("/pick", json={"attribute": bad})).status_code == 422
        schema = (await client.get("/openapi.json")).json()
    properties = schema["components"]["schemas"]["Wanted"]["properties"]
    assert properties["attribute"]["type"] == "string"
    responses = schema["paths"]["/report"]["get"]["responses"]["200"]
    described = responses["content"]["application/json"]["schema"]
    assert set(described["properties"]) == set(kinds["report"][2])


async def test_fastapi_without_a_declared_type_asks_its_own_table(kinds, monkeypatch):
    ours = (
        d.Keyword,
        d.Symbol,
        d.QueryResult,
        d.QueryList,
        d.TxReport,
        d.Datom,
        d.Datoms,
        d.ValueSet,
    )
    for kind in ours:
        monkeypatch.setitem(ENCODERS_BY_TYPE, kind, d.jsonable)
    app = FastAPI()
    for name, (value, _, _) in kinds.items():
        app.add_api_route("/" + name, giving(value))
    async with client_of(app) as client:
        for name, (_, _, form) in kinds.items():
            if name != "pull":
                answer = await client.get("/" + name)
                assert (answer.status_code, answer.json()) == (200, form), name


async def test_starlette_answers_with_the_form(kinds):
    routes = [
        Route("/" + name, lambda request, value=value: JSONResponse(d.jsonable(value)))
        for name, (value, _, _) in kinds.items()
    ]
    async with client_of(Starlette(routes=routes)) as client:
        for name, (_, _, form) in kinds.items():
            answer = await client.get("/" + name)
            assert (answer.status_code, answer.json()) == (200, form)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_rows_are_streamed():
    rows = await d.q("[:find ?i :in [?i ...]]", list(range(5000)))
    app = FastAPI()

    @app.get("/rows")
    def all_rows() -> StreamingResponse:
        return StreamingResponse(rows.json_chunks(), media_type="application/json")

    async with client_of(app) as client:
        answer = await client.get("/rows")
    assert sorted(answer.json()) == [[i] for i in range(5000)]


async def test_json_and_orjson_ask_for_the_form(kinds):
    for name, (value, _, form) in kinds.items():
        whole = orjson.dumps(
            [value], default=d.json_default, option=orjson.OPT_PASSTHROUGH_SUBCLASS
        )
        assert orjson.loads(whole) == [form], name
        if name != "pull":
            assert json.loads(json.dumps([value], default=d.json_default)) == [form], name
        assert json.loads(json.dumps(d.jsonable([value]))) == [form], name


async def test_pydantic_keeps_values_and_refuses_what_they_are_not(kinds):
    for value, kind, form in kinds.values():
        adapter = TypeAdapter(kind)
        assert adapter.validate_python(value) is value
        assert adapter.dump_python(value) is value
        assert adapter.dump_python(value, mode="json") == form
        assert json.loads(adapter.dump_json(value)) == form
        assert adapter.json_schema()["type"] in ("string", "array", "object")
        with pytest.raises(ValidationError):
            adapter.validate_python(5)
    assert TypeAdapter(d.Keyword).validate_json('":a/b"') is d.kw("a/b")
    assert json.loads(TypeAdapter(Any).dump_json({d.kw("k"): d.kw("v")})) == {":k": ":v"}
    assert jsonable_encoder(kinds["pull"][0], custom_encoder={dict: d.jsonable}) == kinds["pull"][2]
