"""Warming up: what is read before it is asked for, how much of it, and in how many waves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.index.levels.levels import Levels
from datahike_async.index.source import fetched
from datahike_async.storage.nodes.cache import NodeCache
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.transactor.limits import Limits
from tests.indexes import INDEXES

pytestmark = pytest.mark.anyio

SCHEMA: list[Any] = [
    {
        ":db/ident": ident,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": ":db.cardinality/one",
        **more,
    }
    for ident, kind, more in (
        (":code", "long", {":db/unique": ":db.unique/identity"}),
        (":name", "string", {":db/index": True}),
        (":age", "long", {}),
    )
]
PEOPLE = 400
FLUSHING = Limits(flush_rows=300, flush_journal_bytes=10**9, close_rows=1)


async def filled(path: Path, index: str = "persistent-set", **options: Any) -> dict[str, Any]:
    """Return the configuration of a database with runs, of which nothing is in memory."""
    config = {"store": {"backend": "file", "path": str(path / "db")}, **INDEXES[index], **options}
    async with d.connect(config, create=True, initial_tx=SCHEMA, limits=FLUSHING) as conn:
        people = [{":code": i, ":name": f"n{i % 90}", ":age": i % 7} for i in range(PEOPLE)]
        await conn.transact(people)
    for n in range(2):
        async with d.connect(config, limits=FLUSHING) as conn:
            changes = [{":code": i, ":age": 50 + n} for i in range(n, PEOPLE, 9)]
            await conn.transact(changes)
    async with d.connect(config) as conn:
        assert conn.db().snapshot.trees.runs[0] > 1, "it is about runs too"
    return config


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the waves of reads inside the block, and the nodes of each."""
    waves: list[int] = []
    token = fetched.set(waves)
    try:
        yield waves
    finally:
        fetched.reset(token)


def sides(db: d.Database) -> list[Levels]:
    return list(db.snapshot.trees.indexes())


def source_of(db: d.Database) -> NodeStore:
    found = sides(db)[0].source
    assert isinstance(found, NodeStore)
    return found


async def ask_everything(db: d.Database) -> None:
    for index in ("eavt", "aevt", "avet"):
        assert await db.datoms(index)
    for code in range(0, PEOPLE, 7):
        assert (await db.pull("[*]", [":code", code]))[":code"] == code
    assert await db.q("[:find (count ?e) . :where [?e :name] [?e :age]]") == PEOPLE


@pytest.mark.parametrize("index", INDEXES)
async def test_what_is_warm_is_not_read_again(index: str, tmp_path: Path) -> None:
    config = await filled(tmp_path, index)
    async with d.connect(config) as conn:
        for db in (conn.db(), conn.db().as_of(conn.db().max_tx - 1)):
            with counted() as waves:
                found = await d.warm_db(db)
            assert found.complete
            assert found.stopped is None
            assert found.nodes == sum(waves) == sum(found.by_index.values()) > 0
            assert found.waves == len(waves) < 12
            told = json.loads(json.dumps(d.jsonable(found)))
            assert told == d.jsonable(found)
            assert (told["nodes"], told["by_index"]) == (found.nodes, found.by_index)
            with counted() as waves:
                await ask_everything(db)
                again = await db.warm_db()
            assert waves == []
            assert (again.nodes, again.bytes, again.waves, again.complete) == (0, 0, 0, True)
            assert found.by_index.keys() == again.by_index.keys()
        assert "temporal-eavt" in found.by_index


@pytest.mark.parametrize("index", INDEXES)
async def test_inner_nodes_alone(index: str, tmp_path: Path) -> None:
    config = await filled(tmp_path, index)
    async with d.connect(config) as conn:
        db = conn.db()
        found = await db.warm_db(depth="interior")
        assert found.complete
        source = source_of(db)
        below = db.snapshot.trees.factory.below
        leaves: set[Any] = set()
        for levels in db.snapshot.trees.current.values():
            for depth in range(1, 12):
                leaves.update(x.address for x in levels.at_depth(depth) or () if x.leaf)
        assert len(leaves) > 100
        assert not any(source.get(address) for address in leaves)
        with counted() as waves:
            await db.datoms("eavt", [":code", 5])
        # A look each into AVET and into EAVT, at leaves alone.
        assert len(waves) <= 2
        assert below is not None
    async with d.connect(config) as conn:
        top = await conn.db().warm_index("eavt", depth=1)
        # Of the base its root; of runs their roots, and what tells whether to look at all.
        runs = conn.db().snapshot.trees.current[_order("eavt")].runs
        assert (top.waves, top.complete) == (1, True)
        assert len(runs) < top.nodes <= 1 + 3 * len(runs)
        more = await conn.db().warm_index(":eavt", depth=2)
        assert (more.waves, more.complete) == (1, True)


def _order(name: str) -> Any:
    from datahike_async.index.protocol import Order

    return Order(name)


async def test_no_budget_is_passed(tmp_path: Path) -> None:
    config = await filled(tmp_path)
    async with d.connect(config) as conn:
        whole = await conn.db().warm_db()
    for budget in (1, 7, {"nodes": whole.nodes // 2}, {"bytes": whole.bytes // 3}):
        async with d.connect(config) as conn:
            with counted() as waves:
                found = await d.warm_db(conn.db(), budget=budget)
            nodes = budget if isinstance(budget, int) else budget.get("nodes", whole.nodes)
            most = whole.bytes if isinstance(budget, int) else budget.get("bytes", whole.bytes)
            assert 0 < found.nodes == sum(waves) <= nodes
            assert 0 < found.bytes <= most
            assert found.stopped == ("bytes" if "bytes" in str(budget) else "nodes")
            assert not found.complete
            if found.nodes > 50:
                # Each index has its share.
                assert min(found.by_index.values()) * 2 > max(found.by_index.values())
    async with d.connect(config) as conn:
        for name in ("nodes", "bytes", "seconds"):
            none = await conn.db().warm_db(budget={name: 0})
            assert (none.nodes, none.waves, none.stopped) == (0, 0, name)
        enough = {"nodes": whole.nodes, ":bytes": whole.bytes, d.kw("seconds"): 1000}
        assert (await conn.db().warm_db(budget=enough)).complete


@pytest.mark.parametrize("size", [3, 8, 30])
async def test_nodes_do_not_push_each_other_out(size: int, tmp_path: Path) -> None:
    config = await filled(tmp_path)
    async with d.connect(config, store_cache_size=size) as conn:
        db = conn.db()
        source = source_of(db)
        read: list[Any] = []
        fetch = source.fetch

        async def noted(addresses: Sequence[Any], pin: Any = None) -> None:
            read.extend(addresses)
            await fetch(addresses, pin)

        source.fetch = noted  # type: ignore[method-assign]
        found = await d.warm_db(db.history())
        assert found.stopped == (None if size == 30 else "cache")
        assert len(set(read)) == len(read) == found.nodes > 0
        nodes = [source.cache.get(address) for address in read]
        assert all(node is not None for node in nodes)
        assert sum(node.nbytes for node in nodes) <= source.capacity == size * 32 * 1024
        # As much of it as there is room for, or nearly.
        if size == 8:
            assert sum(node.nbytes for node in nodes) > source.capacity // 2
            assert (await d.warm_db(db.history())).nodes <= found.nodes // 10
        assert all(source.cache.get(address) is not None for address in read)


def test_what_a_cache_can_hold_stays_in_whatever_order_it_is_read() -> None:
    class Node:
        nbytes = 10

    for before in range(25):
        cache = NodeCache(200)
        for i in range(before):
            cache.put(("other", i), Node())  # type: ignore[arg-type]
        held: list[Any] = [("held", i) for i in range(cache.capacity // 10)]
        for address in held:
            cache.put(address, Node())
        for order in (held, held[::-1], held[::3] + held):
            assert all(cache.get(address) is not None for address in order)


async def test_what_a_scan_reads_is_warm_and_no_more(tmp_path: Path) -> None:
    config = await filled(tmp_path)
    scans: list[tuple[Any, bool, Any]] = [
        (("aevt", [":name"]), False, lambda db: db.datoms("aevt", ":name")),
        (("avet", [":name", "n5"]), False, lambda db: db.datoms("avet", ":name", "n5")),
        (("eavt", (30,)), False, lambda db: db.datoms("eavt", 30)),
        (("eavt", (30, ":name")), False, lambda db: db.datoms("eavt", 30, ":name")),
        (("avet", [":name", "n5"]), True, lambda db: db.seek_datoms("avet", ":name", "n5")),
        (("eavt", []), False, lambda db: db.datoms("eavt")),
    ]
    for (index, components), unbounded, scan in scans:
        for past in (False, True):
            async with d.connect(config) as conn:
                db = conn.db().history() if past else conn.db()
                with counted() as waves:
                    await scan(db)
                read = sum(waves)
            async with d.connect(config) as conn:
                db = conn.db().history() if past else conn.db()
                found = await d.warm_datoms(db, index, components, unbounded=unbounded)
                assert found.complete
                # Beside what the scan reads at most the tops of all runs.
                assert read <= found.nodes <= read + 3 * conn.db().snapshot.trees.runs[0]
                with counted() as waves:
                    await scan(db)
                assert waves == []
    async with d.connect(config) as conn:
        found = await d.warm_datoms(conn.db(), "avet", [":age", 3])
        assert (found.nodes, found.complete) == (0, True), "it is not indexed"
        found = await d.warm_datoms(conn.db(), "aevt", [":name"], depth="interior", budget=1)
        assert (found.nodes, found.stopped) == (1, "nodes")


async def test_time_that_is_up_leaves_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await filled(tmp_path)
    async with d.connect(config) as conn:
        # The tops come, the leaves do not.
        db, left = conn.db(), 1
        read_all = NodeStore._read_all

        async def stuck(self: NodeStore, *arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                await anyio.sleep_forever()
            await read_all(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(NodeStore, "_read_all", stuck)
            found = await d.warm_db(db, budget={"seconds": 1.0})
        assert (found.stopped, found.complete) == ("seconds", False)
        assert found.nodes > 0
        with monkeypatch.context() as patch:
            patch.setattr(NodeStore, "_read_all", stuck)
            with anyio.move_on_after(0.2) as scope:
                await d.warm_db(db)
        assert scope.cancelled_caught
        rest = await d.warm_db(db)
        assert rest.complete
        await ask_everything(db)
    async with d.connect(config) as conn:
        assert (await d.warm_db(conn.db())).nodes == found.nodes + rest.nodes


async def test_many_may_warm_and_read_at_once(tmp_path: Path) -> None:
    config = await filled(tmp_path)
    async with d.connect(config) as conn:
        db, done = conn.db(), []

        async def warm(**options: Any) -> None:
            done.append(await d.warm_db(db, **options))

        async with anyio.create_task_group() as group:
            for options in ({}, {"indexes": [":avet"]}, {"depth": "interior"}):
                group.start_soon(lambda options=options: warm(**options))
            group.start_soon(ask_everything, db)
        assert all(found.complete for found in done)


async def test_there_is_nothing_to_read_without_a_store() -> None:
    db = d.init_db([(1, ":name", "Ann")])
    for found in (await d.warm_db(db), await db.warm_index(":eavt"), await db.warm_datoms("aevt")):
        assert (found.nodes, found.bytes, found.waves, found.complete) == (0, 0, 0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "leaves"}, "depth is"),
        ({"depth": 0}, "depth is"),
        ({"depth": True}, "depth is"),
        ({"budget": "much"}, "A budget is a number of nodes"),
        ({"budget": True}, "A budget is"),
        ({"budget": {"rows": 5}}, "Unknown budget 'rows'"),
        ({"budget": {"nodes": 1.5}}, "The budget nodes is"),
        ({"budget": {"bytes": -1}}, "The budget bytes is"),
        ({"budget": {"seconds": float("nan")}}, "The budget seconds is"),
        ({"budget": -1}, "The budget nodes is"),
        ({"indexes": ":eavt"}, "indexes are a list"),
    ],
)
async def test_bad_options_say_what_is_wrong(options: Any, message: str) -> None:
    db = d.empty_db()
    with pytest.raises(d.ArgumentError, match=message):
        await d.warm_db(db, **options)


async def test_other_bad_arguments_say_what_is_wrong() -> None:
    db = d.empty_db()
    with pytest.raises(d.QueryError, match="There is no index"):
        await d.warm_db(db, indexes=["eavt", "vaet"])
    with pytest.raises(d.QueryError, match="There is no index"):
        await d.warm_index(db, "vaet")
    with pytest.raises(d.ArgumentError, match="components are a list"):
        await d.warm_datoms(db, "avet", ":name")
    with pytest.raises(d.QueryError, match="A database is expected"):
        await d.warm_db(5)  # type: ignore[arg-type]
