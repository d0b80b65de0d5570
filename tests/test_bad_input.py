"""Bad input: a clear error of ours that names the offending thing; nothing is silently accepted.

The cases that were once met; ``test_bad_input_fuzz`` looks for more of them.
"""

from __future__ import annotations

import math
import re
import uuid
from datetime import datetime
from typing import Any

import numpy as np
import pytest

import datahike_async as d
from datahike_async import ArgumentError, konserve
from datahike_async.errors import shown

pytestmark = pytest.mark.anyio


def case_name(value: object) -> str:
    """Return the name of a case: without addresses, so that every process names it alike."""
    return re.sub(r" at 0x[0-9a-f]+", "", shown(value))


HUGE = 2**80
SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":age": {":db/valueType": ":db.type/long", ":db/index": True},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":email": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":boss": {":db/valueType": ":db.type/ref", ":db/unique": ":db.unique/identity"},
}
NOW = 536870914  # the transaction that a test would make


def deep(levels: int = 5000) -> list[Any]:
    out: list[Any] = []
    for _ in range(levels):
        out = [out]
    return out


def nested_maps(levels: int) -> dict[str, Any]:
    out: dict[str, Any] = {":name": "leaf"}
    for _ in range(levels):
        out = {":friend": out}
    return out


async def value() -> d.Database:
    empty = d.empty_db(SCHEMA, keep_history=True)
    return await empty.db_with([{":db/id": 1, ":name": "Ada", ":email": "a@x", ":friend": 2}])


def check(caught: pytest.ExceptionInfo[Any], keyword: str, *named: str) -> None:
    error = caught.value
    assert isinstance(error, d.DatahikeError)
    assert error.data[":error"] == keyword
    for text in named:
        assert text in str(error)


# -- reading -----------------------------------------------------------------------------------

READS = [
    ("datoms", ["eavt", 1, ":name", "a", "tx"], ":search/pattern", "'tx'"),
    ("datoms", ["eavt", 1, ":name", "a", True], ":search/pattern", "True"),
    ("datoms", ["aevt", []], ":search/pattern", "[]"),
    ("datoms", ["aevt", 5], ":search/pattern", "5"),
    ("datoms", ["eavt", 1, ":name", "a", 1, 1], ":search/pattern", "5"),
    ("datoms", ["eavt", HUGE], ":entity-id/syntax", str(HUGE)),
    ("datoms", ["eavt", ":"], ":entity-id/syntax", "':'"),
    ("datoms", [b"eavt"], ":unknown-index-type", "b'eavt'"),
    ("datoms", [None], ":unknown-index-type", "None"),
    ("seek_datoms", ["eavt", 1, {}], ":search/pattern", "{}"),
    ("rseek_datoms", ["eavt", HUGE], ":entity-id/syntax", str(HUGE)),
    ("index_range", [[]], ":search/pattern", "[]"),
    ("index_range", [None], ":search/pattern", "None"),
    ("pull_many", ["[*]", 5], ":entity-id/syntax", "5"),
    ("pull_many", ["[*]", "Ada"], ":entity-id/syntax", "'Ada'"),
    ("pull_many", ["[*]", [1, HUGE]], ":entity-id/syntax", str(HUGE)),
    ("pull", ["[*]", HUGE], ":entity-id/syntax", str(HUGE)),
    ("pull", [deep(), 1], ":parser/pull", "nested"),
    ("pull", [(np.array([1, 2]), None), 1], ":parser/pull", "array([1, 2])"),
    ("entid", [HUGE], ":entity-id/syntax", str(HUGE)),
    ("entid", [np.uint64(2**63)], ":entity-id/syntax", str(2**63)),
    ("entid", [10**5000], ":entity-id/syntax", "int"),
    ("entid", [deep()], ":lookup-ref/syntax", "[[[["),
    ("entid", [":"], ":entity-id/syntax", "':'"),
]


@pytest.mark.parametrize(("method", "arguments", "keyword", "named"), READS, ids=case_name)
async def test_reading(method, arguments, keyword, named):
    db = await value()
    with pytest.raises(d.DatahikeError) as caught:
        await getattr(db, method)(*arguments)
    check(caught, keyword, named)


@pytest.mark.parametrize(
    "point",
    [HUGE, 2**31, 5, -1, True, None, "now", 5e8, datetime(2026, 1, 1), 10**5000],
    ids=case_name,
)
@pytest.mark.parametrize("view", ["as_of", "since"])
async def test_points_in_time(view, point):
    db = await value()
    with pytest.raises(d.DatahikeError) as caught:
        getattr(db, view)(point)
    check(caught, ":temporal/invalid-time-point", shown(point))


async def test_a_number_that_no_entity_can_have_finds_nothing_in_a_query():
    db = await value()
    assert await db.q({":find": ["?n"], ":where": [[HUGE, ":name", "?n"]]}) == set()
    assert await db.q(f"[:find ?n :where [{HUGE} :name ?n]]") == set()


FIND = "[:find ?e :where [?e :name]]"
QUERIES = [
    (FIND, {"timeout": "x"}, ":parser/timeout", "'x'"),
    (FIND, {"timeout": math.nan}, ":parser/timeout", "nan"),
    (FIND, {"timeout": -1}, ":parser/timeout", "-1"),
    (FIND, {"timeout": [5]}, ":parser/timeout", "[5]"),
    (FIND, {"offset": "x"}, ":parser/offset", "'x'"),
    (FIND, {"limit": 1.5}, ":parser/limit", "1.5"),
    ({":query": FIND, ":args": 5}, {}, ":query/binding", "5"),
    ({":query": FIND, ":args": "abc"}, {}, ":query/binding", "'abc'"),
    ({":query": FIND, ":limits": 5}, {}, ":parser/query", ":limits"),
    ({":find": ["?e"], ":where": deep()}, {}, ":parser/query", "nested"),
    ({":find": ["?e"], ":keys": 5, ":where": [["?e"]]}, {}, ":parser/return-maps", "5"),
    (10**5000, {}, ":parser/query", "int"),
]


@pytest.mark.parametrize(("query", "options", "keyword", "named"), QUERIES, ids=case_name)
async def test_queries(query, options, keyword, named):
    db = await value()
    inputs = () if isinstance(query, dict) and ":query" in query else (db,)
    with pytest.raises(d.QueryError) as caught:
        await d.q(query, *inputs, **options)
    check(caught, keyword, named)


async def test_inputs_of_queries():
    db = await value()
    own = {":find": ["?e"], ":where": [["?e", ":name", "?n"]]}
    with pytest.raises(d.QueryError) as caught:
        await d.q(own, [(1, ":name", "x"), 5])
    check(caught, ":query/where", "5")
    with pytest.raises(d.QueryError) as caught:
        await d.q({**own, ":in": ["$", "?n"]}, db, deep())
    check(caught, ":query/binding", "nested")
    with pytest.raises(d.QueryError) as caught:
        await d.q({**own, ":in": ["$", "%"]}, db, [[deep()]])
    check(caught, ":parser/query", "nested")


# -- transactions ------------------------------------------------------------------------------

TRANSACTIONS = [
    ([[":db/retractEntity", HUGE]], ":entity-id/syntax", str(HUGE)),
    ([[":db/add", HUGE, ":name", "x"]], ":entity-id/syntax", str(HUGE)),
    ([[":db/add", 2**31, ":name", "x"]], ":entity-id/syntax", str(2**31)),
    ([[":db/retract", HUGE, ":name", "x"]], ":entity-id/syntax", str(HUGE)),
    ([[":db/cas", HUGE, ":name", None, "x"]], ":entity-id/syntax", str(HUGE)),
    ([{":db/id": HUGE, ":name": "x"}], ":entity-id/syntax", str(HUGE)),
    ([[":db/add", 1, ":friend", HUGE]], ":entity-id/syntax", str(HUGE)),
    ([[":db/retract", 1, ":friend", HUGE]], ":entity-id/syntax", str(HUGE)),
    ([{":db/id": 1, ":friend": [2, HUGE]}], ":entity-id/syntax", str(HUGE)),
    ([{":boss": HUGE}], ":entity-id/syntax", str(HUGE)),
    ([[":db/add", [":boss", HUGE], ":name", "x"]], ":lookup-ref/syntax", str(HUGE)),
    ([[":db/add", 1, ":name", "x", NOW + 1]], ":transact/syntax", str(NOW + 1)),
    ([[":db/add", 1, ":name", "x", HUGE]], ":transact/syntax", str(HUGE)),
    ([[":db/add", 1, ":name", "x", "tx"]], ":transact/syntax", "'tx'"),
    ([[":db/retract", 1, ":name", "Ada", "tx"]], ":transact/syntax", "'tx'"),
    ([d.Datom(1, d.kw("name"), "x", NOW + 1)], ":transact/syntax", str(NOW + 1)),
    ([d.Datom([], d.kw("name"), "x", NOW)], ":entity-id/syntax", "[]"),
    ([d.Datom(1, [], "x", NOW)], ":transact/syntax", "[]"),
    ([nested_maps(2000)], ":transact/syntax", "nested"),
    ([nested_maps(2000)] * 20, ":transact/syntax", "nested"),
    ([10**5000], ":transact/syntax", "int"),
    ({None: 1, ":tx-data": []}, ":transact/syntax", "None"),
    (5, ":transact/syntax", "5"),
]


@pytest.mark.parametrize(("data", "keyword", "named"), TRANSACTIONS, ids=case_name)
async def test_transactions(data, keyword, named):
    db = await value()
    before = list(await db.datoms("eavt"))
    with pytest.raises(d.TransactionError) as caught:
        await db.with_(data)
    check(caught, keyword, named)
    assert list(await db.datoms("eavt")) == before


async def test_what_is_just_within_bounds_is_accepted():
    db = await value()
    top = 2**28 - 1
    after = await db.db_with([[":db/add", top, ":name", "x", NOW]])
    assert [x.tx for x in await after.datoms("eavt", top)] == [NOW]
    after = await db.db_with([nested_maps(100)])
    assert len(await after.datoms("aevt", ":friend")) == 101
    assert await db.entid(2**31 - 1) == 2**31 - 1
    db.as_of(2**31 - 1)


def attribute(ident: str, type_: str, **more: Any) -> dict[str, Any]:
    return {
        ":db/ident": ident,
        ":db/valueType": ":db.type/" + type_,
        ":db/cardinality": ":db.cardinality/one",
        **{":db/" + key: value for key, value in more.items()},
    }


MANY = attribute(":m", "long", cardinality=":db.cardinality/many")
PART, PAIR = attribute(":a", "long"), attribute(":a+b", "tuple", tupleAttrs=[":a", ":b"])
SCHEMAS = [
    ([attribute(":a+m", "tuple", tupleAttrs=[":a", ":m"]), PART, MANY], ":transact/schema", ":m"),
    ([attribute(":t", "tuple", tupleAttrs=[":a", 5]), PART], ":schema/validation", "5"),
    ([attribute(":t", "tuple", tupleAttrs=[":a", ":"]), PART], ":schema/validation", "':'"),
    ([attribute(":s", "string", maxLength=-1)], ":schema/validation", "-1"),
]


@pytest.mark.parametrize(("data", "keyword", "named"), SCHEMAS, ids=case_name)
async def test_schemas_that_are_transacted(data, keyword, named):
    db = d.empty_db(schema_flexibility="write")
    with pytest.raises(d.TransactionError) as caught:
        await db.with_(data)
    check(caught, keyword, named)


async def test_the_parts_of_a_tuple_may_come_after_it():
    db = await d.empty_db(schema_flexibility="write").db_with([PAIR, attribute(":b", "long"), PART])
    db = await db.db_with([{":a": 1, ":b": 2}])
    assert [x.v for x in await db.datoms("aevt", ":a+b")] == [(1, 2)]
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":db/ident": ":b", ":db/cardinality": ":db.cardinality/many"}])
    check(caught, ":transact/schema", ":a+b", ":b")


# -- making databases --------------------------------------------------------------------------

EMPTY = [
    ([5], {}, ":schema/validation", "5"),
    ([{":n": 5}], {}, ":schema/validation", ":n"),
    ([{5: {}}], {}, ":schema/validation", "5"),
    ([{":": {}}], {}, ":schema/validation", "':'"),
    ([{":n": {5: 5}}], {}, ":schema/validation", ":n"),
    ([{":n": {":db/ident": ":m"}}], {}, ":schema/validation", ":m"),
    ([{":n": {":db/doc": "?"}}], {"schema_flexibility": "write"}, ":transact/schema", ":n"),
    ([{":n": {}}], {"schema_flexibility": "write"}, ":transact/schema", ":db/valueType"),
    ([np.array([1, 2])], {}, ":schema/validation", "array"),
    ([], {"schema_flexibility": "loose"}, ":config/invalid", "'loose'"),
    ([], {"schema_flexibility": 5}, ":config/invalid", "5"),
    ([], {"keep_history": "yes"}, ":config/invalid", "'yes'"),
    ([], {"index": 5}, ":config/invalid", "5"),
    ([], {"index_config": "x"}, ":config/invalid", "'x'"),
]


@pytest.mark.parametrize(("arguments", "options", "keyword", "named"), EMPTY, ids=case_name)
def test_empty_db(arguments, options, keyword, named):
    with pytest.raises(d.DatahikeError) as caught:
        d.empty_db(*arguments, **options)
    check(caught, keyword, named)


@pytest.mark.parametrize(
    "datoms",
    [
        5,
        "datoms",
        [5],
        [(1, ":name")],
        [(1, ":name", "x", NOW, True, 1)],
        [("1", ":name", "x")],
        [(-1, ":name", "x")],
        [(HUGE, ":name", "x")],
        [(math.nan, ":name", "x")],
        [(1, 5, "x")],
        [(1, ":", "x")],
        [(1, ":name", "x", HUGE)],
        [(1, ":name", "x", "tx")],
        [(1, ":friend", HUGE)],
        [(1, ":friend", 2**40)],
        [(1, ":name", None)],
        [d.Datom(1, d.kw("name"), "x", NOW, False)],
    ],
    ids=case_name,
)
def test_init_db(datoms):
    with pytest.raises(d.TransactionError) as caught:
        d.init_db(datoms, SCHEMA)
    assert caught.value.data[":error"] in (":transact/syntax", ":transact/schema")


def test_init_db_does_not_invent_attributes_where_they_must_be_defined():
    with pytest.raises(d.TransactionError) as caught:
        d.init_db([(1, ":nmae", "x")], {}, schema_flexibility="write")
    check(caught, ":transact/syntax", ":nmae")


@pytest.mark.parametrize(
    "name", [None, 5, "", ":", b"x", ["x"], "\ud800", ":\ud800", np.array([1])]
)
@pytest.mark.parametrize("make", [d.kw, d.sym])
def test_names(make, name):
    if make is d.sym and name == ":":
        return
    with pytest.raises(ArgumentError) as caught:
        make(name)
    assert caught.value.data[":error"] == ":argument/invalid"
    assert isinstance(caught.value, ValueError)


def test_functions_by_name():
    for name, function, named in ((5, len, "5"), ("f", 5, "5"), (None, len, "None")):
        with pytest.raises(ArgumentError) as caught:
            d.register_function(name, function)
        check(caught, ":argument/invalid", named)


# -- connections -------------------------------------------------------------------------------


async def test_a_database_is_no_connection_and_a_connection_no_database():
    db = await value()
    calls = [(d.transact, (db, [])), (d.release, (db,)), (d.transact, (5, []))]
    for call, arguments in calls:
        with pytest.raises(ArgumentError) as caught:
            await call(*arguments)
        check(caught, ":datahike/conn-expected", shown(arguments[0]))
    for plain in (d.db, lambda c: d.listen(c, print), lambda c: d.unlisten(c, 1)):
        with pytest.raises(ArgumentError) as caught:
            plain(None)
        check(caught, ":datahike/conn-expected", "None")
    store = {"backend": "memory", "id": uuid.uuid4()}
    await d.create_database(store=store)
    entered = d.connect(store=store)
    with pytest.raises(ArgumentError, match="await connect"):
        d.db(entered)
    async with entered as conn:
        for coroutine in (d.with_(conn, []), d.db_with(conn, []), d.pull(conn, "[*]", 1)):
            with pytest.raises(d.QueryError) as caught:
                await coroutine
            check(caught, ":datahike/db-expected", "conn.db()")
        for arguments in ((5,), ([], print), ()):
            with pytest.raises(ArgumentError) as caught:
                d.listen(conn, *arguments)
            check(caught, ":argument/invalid")


@pytest.mark.parametrize(
    "config",
    [
        5,
        deep(),
        {"store": deep()},
        {"store": {"backend": "memory", "id": 5}},
        {"store": {"backend": "file", "path": "a\0b"}},
        {"store": {"backend": "file", "path": "\ud800x"}},
        {"store": {"backend": "memory"}, "name": 5},
        {"store": {"backend": "memory"}, "value-caps": np.array([1, 2])},
        {"store": {"backend": "memory"}, "branch": None},
        {"store": {"backend": "memory"}, "initial-tx": "no/such\0file"},
        {"store": {"backend": "memory"}, "initial-tx": "\ud800"},
    ],
    ids=case_name,
)
async def test_configs(config):
    with pytest.raises(d.ConfigError) as caught:
        await d.create_database(config)
    assert caught.value.data[":error"] in (":config/invalid", ":invalid-id-type")


async def test_a_config_that_is_refused_does_not_show_secrets():
    config = {"store": {"backend": "", "secret-key": "hunter2", "deep": {"token": "hunter2"}}}
    with pytest.raises(d.ConfigError) as caught:
        await d.create_database(config)
    assert "hunter2" not in str(caught.value)


# -- the key-value layer -----------------------------------------------------------------------


@pytest.fixture
async def store():
    made = await konserve.create_store({"backend": "memory", "id": uuid.uuid4()})
    await made.assoc("k", {"a": [1]})
    await made.bassoc("b", b"abc")
    yield made
    await made.release()


KEYS = [object(), 1j, datetime(2026, 1, 1), "\ud800", deep()]
STORE = [
    *[(name, [key], {}) for name in ("get", "exists", "dissoc", "bget", "log") for key in KEYS],
    *[("assoc", ["k", bad], {}) for bad in KEYS],
    *[("multi_assoc", [[("k", 1), ("l", bad)]], {}) for bad in KEYS],
    ("assoc", ["k", 1], {"meta": 5}),
    ("assoc", ["k", 1], {"expected_revision": 5}),
    ("get", ["k"], {"unless": np.array([1, 2])}),
    ("bassoc", ["k", "text"], {}),
    ("bget", ["b", "x"], {}),
    ("bget", ["b", -1], {}),
    ("bget", ["b", 2, 1], {}),
    ("bget", ["k"], {}),
    ("get_in", ["k"], {}),
    ("get_in", [[]], {}),
    ("get_in", [["k", []]], {}),
    ("assoc_in", ["k", 1], {}),
    ("assoc_in", [["k", "a", "b"], 1], {}),
    ("assoc_in", [["k", "a", 7], 1], {}),
    ("assoc_in", [["k", {}], 1], {}),
    ("update", ["k", 5], {}),
    ("update_in", [5, len], {}),
    ("multi_get", [5], {}),
    ("multi_get", [[["k"]]], {}),
    ("multi_assoc", [5], {}),
    ("multi_assoc", [["kv"]], {}),
    ("multi_assoc", [[("k",)]], {}),
    ("multi_dissoc", ["k"], {}),
    ("multi_dissoc", [["k", ["k"]]], {}),
    ("reduce_log", ["log", 5, 0], {}),
]


@pytest.mark.parametrize(("method", "arguments", "options"), STORE, ids=case_name)
async def test_the_store(store, method, arguments, options):
    with pytest.raises(konserve.BadArgument):
        await getattr(store, method)(*arguments, **options)
    assert await store.get("k") == {"a": [1]}
    assert await store.bget("b") == b"abc"


@pytest.mark.parametrize(
    "config",
    [5, {}, {5: 5}, {"backend": 5}, {"backend": "memory", "id": 5}, {"backend": deep()}]
    + [{"backend": "memory", "compressor": bad} for bad in ([], 5, "gzip")],
    ids=case_name,
)
async def test_store_configurations(config):
    with pytest.raises(konserve.StoreConfigError):
        await konserve.create_store(config)


async def test_hooks_and_handlers(store):
    for call in (
        lambda: store.add_write_hook("id", 5),
        lambda: store.add_write_hook([], print),
        lambda: store.remove_write_hook([]),
    ):
        with pytest.raises(konserve.BadArgument):
            call()
    for arguments in ((int, "40", str, int), (5, 40, str, int), (int, 40, 5, int)):
        with pytest.raises(konserve.StoreConfigError):
            store.register_handler(*arguments)
    with pytest.raises(konserve.StoreConfigError):
        store.assoc_serializers([5])
    with pytest.raises(konserve.BadArgument):
        await konserve.release_store(5)


# -- messages ----------------------------------------------------------------------------------


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


THINGS = [
    (deep(), "[[[["),
    (10**5000, "int"),
    (Unprintable(), "Unprintable"),
    ("x" * 10**6, "'xxxx"),
]


@pytest.mark.parametrize(("thing", "beginning"), THINGS, ids=case_name)
def test_anything_can_be_named_in_a_message(thing, beginning):
    text = shown(thing)
    assert 0 < len(text) <= 160
    assert text.removeprefix("a ").startswith(beginning)
