"""Any public function, called with anything, succeeds or raises an error of ours with a keyword.

Hypothesis drives the choices, so that a failure shrinks to few odd values. ``--hypothesis-profile``
scales the budget; ``--slow`` tests spend twenty times as much.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async import konserve
from datahike_async.errors import shown

FEW = settings(
    max_examples=max(settings.default.max_examples // 4, 1),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=20 * FEW.max_examples)

SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":age": {":db/valueType": ":db.type/long", ":db/index": True},
    ":any": {":db/index": True},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":email": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":boss": {":db/valueType": ":db.type/ref", ":db/unique": ":db.unique/identity"},
    ":pair": {
        ":db/valueType": ":db.type/tuple",
        ":db/tupleTypes": [":db.type/long", ":db.type/string"],
    },
    ":name+age": {
        ":db/valueType": ":db.type/tuple",
        ":db/tupleAttrs": [":name", ":age"],
        ":db/unique": ":db.unique/identity",
    },
    ":at": {":db/valueType": ":db.type/instant", ":db/index": True},
    ":floats": {":db/valueType": ":db.type/float-array"},
}
STRICT = {
    name: {":db/cardinality": ":db.cardinality/one", **props}
    for name, props in SCHEMA.items()
    if ":db/valueType" in props
}
PEOPLE = [
    {":db/id": 1, ":name": "Ada", ":age": 36, ":friend": [2], ":email": "a@x"},
    {":db/id": 2, ":name": "Bob", ":age": 36, ":friend": [1], ":any": 5, ":boss": 1},
    {":db/id": 3, ":any": "x", ":at": datetime(2026, 1, 1, tzinfo=UTC)},
]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class EqualToAll:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def nested(make: Callable[[Any], Any], levels: int = 3000) -> Any:
    out = make(None)
    for _ in range(levels):
        out = make(out)
    return out


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
LATEST = datetime.max.replace(tzinfo=UTC)
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**62, 2**63, 2**80, -(2**80), 10**5000, 1.5),
    *(math.nan, math.inf, "", ":", "::", "x", "\0", ":name", ":a/b", "\ud800", ":\ud800"),
    *("[", "]", "{", "?x", "$", "%", "_", "...", ".", "*", "[*]", "[:find ?e :where [?e :name]]"),
    *([], [[]], [None], [1], ["x"], [":name"], [":name", "x"], [":email", "a@x"], [":email", None]),
    *([":email", []], [":boss", 2**80], [":email", "\ud800"], [[":email", "x"]], (), (1, 2), ((),)),
    *({}, {":n": 5}, {5: {}}, {None: None}, {":db/id": 1}, {":db/id": []}, set(), {1}, {"x"}),
    *(frozenset({"x"}), b"", b"x", bytearray(b"x"), object(), Unprintable(), EqualToAll()),
    *(lambda *_: 1, range(3), np.int64(1), np.uint64(2**63), np.float64(1.5), np.array([1, 2])),
    *(np.array([[1]]), np.str_("x"), np.datetime64("NaT"), Decimal("1.5"), Decimal("nan")),
    *(Decimal("snan"), Fraction(1, 3), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
    *(LATEST, date(2026, 1, 1), timedelta(1), uuid.UUID(int=1), 1j, Ellipsis, NotImplemented),
    *(d.kw("name"), d.kw("x"), d.kw("eavt"), d.sym("?x"), d.sym("$"), d.sym("x"), d.Char("x")),
    *(d.Tagged("x", []), d.Datom(1, d.kw("name"), "x", 536870913), d.Datom([], [], [], [])),
    *(d.Datom(None, None, None, None), d.Datom(2**80, d.kw("name"), "x", 2**80), CYCLE),
    *(nested(lambda x: [x]), nested(lambda x: (x,)), nested(lambda x: {":friend": x}), "x" * 5000),
    *("eavt", "aevt", "avet", ":eavt"),
]


class World:
    """What is called, and the choice of what it is called with."""

    def __init__(self, rng: Random, dbs: list[d.Database], store: konserve.Store) -> None:
        self.rng = rng
        self.db = rng.choice(dbs)
        self.store = store

    def odd(self, *usual: Any, levels: int = 3) -> Any:
        """Return one of the usual values, if any are given, or else anything."""
        rng = self.rng
        if usual and rng.random() < 0.6:
            return rng.choice(usual)
        if not levels or rng.random() < 0.75:
            return rng.choice(ODD)
        made = [self.odd(levels=levels - 1) for _ in range(rng.randrange(4))]
        kind = rng.randrange(3)
        if kind:
            return made if kind == 1 else tuple(made)
        return {rng.choice((":name", "x", 5, None, (1,))): value for value in made}

    def some(self, make: Callable[[], Any], least: int = 0, most: int = 3) -> list[Any]:
        return [make() for _ in range(self.rng.randrange(least, most + 1))]

    async def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call ``function``; fail where it raises anything but an error of ours."""
        try:
            result = function(*arguments, **options)
            if isinstance(result, Awaitable):
                result = await result
            return (
                list(result)
                if isinstance(result, (d.Datoms, d.QueryList, d.QueryResult))
                else result
            )
        except d.DatahikeError as error:
            assert error.data.get(":error"), f"no keyword: {error}"
            assert str(error)
        except konserve.KonserveError as error:
            assert str(error)
        except Exception as error:
            name = getattr(function, "__qualname__", function)
            raise AssertionError(
                f"{name}({', '.join(map(shown, arguments))}, {shown(options)}): "
                f"{type(error).__name__}: {shown(error)}"
            ) from error
        return None


Surface = Callable[[World], Awaitable[Any]]

# -- reading -----------------------------------------------------------------------------------


async def datoms(w: World) -> None:
    for method in (w.db.datoms, w.db.seek_datoms, w.db.rseek_datoms):
        parts = w.some(lambda: w.odd(1, ":name", ":age", ":friend", ":any", ":at"), most=5)
        await w.call(method, w.odd("eavt", "aevt", "avet"), *parts)
    attr = w.odd(":age", ":any", ":friend", ":at", ":name+age", ":email")
    await w.call(w.db.index_range, attr, w.odd(), w.odd())
    await w.call(w.db.entid, w.odd())


async def views(w: World) -> None:
    for view in (w.db.as_of, w.db.since):
        made = await w.call(view, w.odd(536870913, 2**31 - 1))
        if made is not None:
            await w.call(made.datoms, "eavt")


def pattern(w: World, depth: int = 0) -> Any:
    def item() -> Any:
        kind = w.rng.randrange(6)
        if kind == 0 and depth < 3:
            key = w.rng.choice([":friend", ":_friend", ":name", (":friend", ":limit", 1), 5, None])
            sub = w.rng.choice([pattern(w, depth + 1), w.odd("...", 2)])
            return {key: sub}
        if kind == 1:
            option = w.odd(":as", ":limit", ":default", ":xform")
            return [w.odd(":name", ":friend"), option, w.odd()]
        if kind == 2:
            return (w.odd("limit", "default"), w.odd(":name", ":friend"), w.odd())
        return w.odd(":name", ":friend", ":_friend", "*", ":db/id", ":name+age")

    return w.some(item, 1) if w.rng.random() < 0.9 else w.odd()


async def pulls(w: World) -> None:
    await w.call(w.db.pull, pattern(w), w.odd(1, [":email", "a@x"]))
    await w.call(w.db.pull_many, pattern(w), w.odd([1, w.odd()], [w.odd(), w.odd()]))


# -- queries -----------------------------------------------------------------------------------

FUNCTIONS = [
    "=",
    "<",
    "+",
    "-",
    "*",
    "/",
    "count",
    "get-else",
    "get-some",
    "missing?",
    "ground",
    "tuple",
    "untuple",
    "str",
    "subs",
    "re-find",
    "q",
    "rand",
    "range",
    "nope",
    "not",
    "min",
    "max",
    "name",
    "quot",
    "even?",
    "compare",
    "keyword",
    "nth",
    "get",
    "vector",
    "first",
]
FINDS: list[Any] = [["?e"], ["?e", "?v"], [["?e", "..."]], ["?e", "."], [["?e", "?v"]]]
FINDS += [[(name, "?v")] for name in ("count", "sum", "avg", "median", "min", "distinct")]


def term(w: World) -> Any:
    return w.odd("?e", "?v", "?a", "_", "$", ":name", ":age", 1, "x", "?t")


def clause(w: World, depth: int = 0) -> Any:
    kind = w.rng.randrange(8)
    if kind < 3:
        return w.some(lambda: term(w), 1, 5)
    call = (w.rng.choice(FUNCTIONS), *w.some(lambda: term(w)))
    if kind == 3:
        return [call]
    if kind == 4:
        return [call, w.odd("?r", ["?r", "?s"], ["?r", "..."], [["?r"]])]
    if kind == 5 and depth < 3:
        head = w.rng.choice(("not", "or", "and", "or-join", "not-join"))
        return (head, *w.some(lambda: w.rng.choice([["?e"], clause(w, depth + 1)])))
    return ("rule", *w.some(lambda: term(w), most=2)) if kind == 6 else w.odd()


def query(w: World) -> Any:
    find = w.odd(*FINDS, [("pull", "?e", pattern(w))], [("sample", w.odd(), "?v")])
    made = {":find": find, ":where": [["?e", ":name", "?v"], *w.some(lambda: clause(w), most=2)]}
    for section in (":in", ":with", ":keys", ":strs", ":order-by", ":limit", ":offset", ":timeout"):
        if w.rng.random() < 0.08:
            made[section] = w.odd([w.odd()], ["$", "?i"], ["$", ["?i", "..."]], ["$", "%"])
    return made


async def queries(w: World) -> None:
    find = "[:find ?e :where [?e :name]]"
    name = [["?e", ":name", "?v"]]
    await w.call(w.db.q, query(w), *w.some(w.odd, most=1))
    await w.call(d.q, w.odd(), w.odd())
    await w.call(d.q, {":find": ["?e"], ":where": [["?e", ":name", term(w)]]}, w.odd())
    options = {k: w.odd(1) for k in ("limit", "offset", "timeout") if w.rng.random() < 0.6}
    await w.call(w.db.q, find, **options)
    option = w.rng.choice([":limit", ":offset", ":timeout", ":x", "x", 5, None])
    await w.call(d.q, {":query": w.odd(find), ":args": w.odd([w.db]), option: w.odd()})
    bound = w.odd("?e", ["?e", "..."], ["?e", "?x"], [["?e", "?x"]], [["?e", "..."], "..."], "f")
    await w.call(w.db.q, {":find": ["?e"], ":in": ["$", bound], ":where": name}, w.odd())
    rules = w.odd([[("r", "?e"), clause(w), clause(w)]], [[w.odd(), clause(w)]])
    await w.call(w.db.q, {":find": ["?e"], ":in": ["$", "%"], ":where": [("r", "?e")]}, rules)


# -- transactions ------------------------------------------------------------------------------

OPERATIONS = [
    ":db/add",
    ":db/retract",
    ":db/retractEntity",
    ":db/cas",
    ":db.fn/call",
    ":db.fn/retractAttribute",
    ":db/purge",
    ":x",
    "x",
]
ATTRIBUTES = [
    ":name",
    ":age",
    ":any",
    ":friend",
    ":email",
    ":boss",
    ":pair",
    ":name+age",
    ":at",
    ":floats",
    ":db/ident",
    ":db/doc",
    ":db/valueType",
    ":db/cardinality",
    ":db/tupleAttrs",
    ":db/tupleTypes",
    ":db/unique",
    ":db/maxLength",
    ":db.attr/preds",
    ":db/txInstant",
    ":_friend",
    ":db/id",
    ":db/ensure",
    ":db.entity/attrs",
    ":db/isComponent",
]
VALUES: list[Any] = [":db.type/ref", ":db.type/tuple", ":db.cardinality/many", [":name"], [":nope"]]


def form(w: World, depth: int = 0) -> Any:
    kind = w.rng.randrange(5)
    if kind < 2:
        tail = w.some(lambda: w.odd(*VALUES, levels=2))
        attr = w.odd(*ATTRIBUTES)
        return [w.rng.choice(OPERATIONS), w.odd(1, -1, "t"), *([attr, *tail] if kind else tail)]
    if kind < 4:
        made = {}
        for name in w.some(lambda: w.rng.choice([*ATTRIBUTES, ":x", "x", 5, None, "", ":"]), 1):
            inner = depth < 3 and w.rng.random() < 0.2
            made[name] = [form(w, depth + 1)] if inner else w.odd(*VALUES)
        return made
    return w.odd()


async def transactions(w: World) -> None:
    before = await w.db.count()
    await w.call(w.db.with_, w.some(lambda: form(w), 1))
    await w.call(w.db.with_, w.odd(), w.odd(None))
    meta = {w.rng.choice([":x", ":name", ":age", ":friend", ":db/txInstant", "x", 5]): w.odd()}
    await w.call(w.db.with_, [], meta)
    await w.call(d.db_with, w.odd(w.db), w.odd())
    assert await w.db.count() == before


async def values(w: World) -> None:
    shape = w.odd({":n": {w.rng.choice(ATTRIBUTES): w.odd(*VALUES)}}, {":n": w.odd()})
    await w.call(d.empty_db, shape)
    tuple_ = {
        ":db/valueType": ":db.type/tuple",
        ":db/tupleAttrs": w.odd(),
        ":db/tupleTypes": w.odd(),
    }
    del tuple_[w.rng.choice([":db/tupleAttrs", ":db/tupleTypes"])]
    await w.call(d.empty_db, {":n": tuple_})
    option = w.rng.choice(["keep_history", "schema_flexibility", "index", "index_config"])
    await w.call(d.empty_db, None, **{option: w.odd()})
    datom = (w.odd(1), w.odd(":name", ":friend"), w.odd("x"), *w.some(w.odd, most=2))
    await w.call(d.init_db, w.odd([datom], [w.odd()]), w.odd(SCHEMA, None))
    for make in (d.kw, d.sym, d.Char):
        await w.call(make, w.odd())
    name = f"fuzz/{w.rng.randrange(9)}"
    await w.call(d.register_function, w.odd(name), w.odd())
    await w.call(d.unregister_function, w.odd(name))


# -- everything that takes a database, a connection or a config ----------------------------------


async def verbs(w: World) -> None:
    for verb in (d.pull, d.pull_many, d.datoms, d.seek_datoms, d.rseek_datoms, d.index_range):
        await w.call(verb, w.odd(w.db), w.odd(), w.odd())
    for verb in (d.as_of, d.since, d.with_, d.transact, d.unlisten):
        await w.call(verb, w.odd(), w.odd())
    for verb in (d.history, d.schema, d.reverse_schema, d.db, d.release):
        await w.call(verb, w.odd())
    await w.call(d.listen, w.odd(), *w.some(w.odd))


OPTIONS = [
    "initial-tx",
    "keep-history?",
    "schema-flexibility",
    "attribute-refs?",
    "index",
    "index-config",
    "branch",
    "name",
    "store-cache-size",
    "search-cache-size",
    "crypto-hash?",
    "commit-graph?",
    "writer",
    "remote-peer",
    "online-gc",
    "value-caps",
    "allow-index-backfill?",
]


async def configs(w: World) -> None:
    store = {"backend": "memory", "id": uuid.UUID(int=w.rng.getrandbits(120))}
    part = {
        "backend": w.odd("memory", "file", levels=0),
        w.rng.choice(["id", "path", "x"]): w.odd(),
    }
    config = w.odd({"store": part}, {"store": store, w.rng.choice(OPTIONS): w.odd()})
    await w.call(d.Config.of, config)
    await w.call(d.connect, w.odd())
    await w.call(d.database_exists, w.odd({"store": store}))
    await w.call(d.create_database, {"store": store, "initial-tx": w.odd()})
    await w.call(d.delete_database, {"store": store})
    await w.call(d.delete_database, {"store": w.odd()})


async def connections(w: World) -> None:
    store = {"backend": "memory", "id": uuid.uuid4()}
    await d.create_database(store=store, schema_flexibility=w.rng.choice(["read", "write"]))
    async with d.connect(store=store) as conn:
        for _ in range(3):
            await w.call(conn.transact, w.odd([form(w)]), w.odd(None))
        await w.call(conn.unlisten, await w.call(conn.listen, w.odd(), w.odd()))
        # Whatever was refused, the writer goes on.
        await conn.transact([{":db/id": 1, ":db/doc": "still here"}])
        assert len(await conn.db().datoms("eavt", 1, ":db/doc")) == 1
    await d.delete_database(store=store)


async def stores(w: World) -> None:
    store = w.store
    revision = w.odd(None, konserve.ABSENT)
    await w.call(store.assoc, w.odd("k"), w.odd(), meta=w.odd(None), expected_revision=revision)
    await w.call(store.bassoc, w.odd("b"), w.odd(b"abc"))
    for read in (store.get, store.exists, store.get_meta, store.bget, store.dissoc, store.log):
        await w.call(read, w.odd("k"))
    await w.call(store.get, w.odd("k"), with_revision=True, unless=w.odd(None))
    await w.call(store.bget, "b", w.odd(0), w.odd(None))
    path = w.odd(["k", w.odd()], ["k", w.odd("a"), w.odd()])
    await w.call(store.get_in, path)
    await w.call(store.assoc_in, path, w.odd())
    await w.call(store.update_in, path, w.odd(lambda _: w.odd()))
    await w.call(store.multi_get, w.odd(["k", w.odd()]))
    await w.call(store.multi_assoc, w.odd([("k", w.odd())], [(w.odd(), 1)], [w.odd()]))
    await w.call(store.multi_dissoc, w.odd([w.odd()]))
    await w.call(store.append, w.odd("log"), w.odd())
    await w.call(store.reduce_log, "log", w.odd(), w.odd())
    await w.call(store.journal_append, w.odd(), w.odd(), expected_revision=w.odd())
    await w.call(store.add_write_hook, w.odd("hook"), w.odd())
    for id_ in list(store._hooks):
        await w.call(store.remove_write_hook, id_)
    await w.call(store.remove_write_hook, w.odd())
    await w.call(store.register_handler, w.odd(), w.odd(), w.odd(), w.odd())
    await w.call(store.assoc_serializers, w.odd([w.odd()]))
    config = {"backend": w.odd("memory"), w.rng.choice(["id", "compressor", "x"]): w.odd()}
    for call in (konserve.create_store, konserve.connect_store, konserve.store_exists):
        await w.call(call, w.odd(config))
    await w.call(konserve.release_store, w.odd())
    await w.call(store.keys)


SURFACES = [
    datoms,
    views,
    pulls,
    queries,
    transactions,
    values,
    verbs,
    configs,
    connections,
    stores,
]


async def run(surface: Surface, rng: Random) -> None:
    full = await d.empty_db(SCHEMA, keep_history=True).db_with(PEOPLE)
    strict = d.empty_db(STRICT, keep_history=True, schema_flexibility="write")
    dbs = [full, full.history(), full.as_of(536870913), await strict.db_with(PEOPLE[:1])]
    dbs.append(d.init_db([(1, ":name", "Ada"), (1, ":friend", 1)], SCHEMA))
    store = await konserve.create_store({"backend": "memory", "id": uuid.uuid4()})
    try:
        await surface(World(rng, dbs, store))
    finally:
        await store.release()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("surface", SURFACES, ids=lambda f: f.__name__)
@FEW
@given(rng=st.randoms(use_true_random=False))
def test_anything_gets_an_answer_or_an_error_of_ours(surface, backend, rng):
    anyio.run(run, surface, rng, backend=backend)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("surface", SURFACES, ids=lambda f: f.__name__)
@MANY
@given(rng=st.randoms(use_true_random=True))
def test_anything_at_length(surface, rng):
    anyio.run(run, surface, rng)
