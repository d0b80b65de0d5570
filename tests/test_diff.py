"""What two databases differ in, against sets of their datoms."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.index.levels.levels import Levels
from datahike_async.index.source import fetched
from datahike_async.transactor.limits import Limits
from datahike_async.values.types import typed_key
from tests.indexes import TREE

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=60, flush_bytes=4_000, flush_journal_bytes=6_000, close_rows=10**9)
NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
TX0 = 0x20000000


def facts(datoms: Any, *, transactions: bool) -> list[tuple[Any, ...]]:
    found = [(x.e, str(x.a), typed_key(x.v)) for x in datoms if transactions or x.e < TX0]
    assert len(found) == len(set(found))
    return found


async def check(before: d.Database, after: d.Database) -> int:
    for transactions in (False, True):
        found = await d.diff(before, after, transactions=transactions)
        old = set(facts(await before.datoms("eavt"), transactions=transactions))
        new = set(facts(await after.datoms("eavt"), transactions=transactions))
        assert set(facts(found.added, transactions=True)) == new - old
        assert set(facts(found.removed, transactions=True)) == old - new
    return len(found.added) + len(found.removed)


def some(rng: random.Random, name: str) -> list[Any]:
    out: list[Any] = []
    for _ in range(rng.randrange(1, 5)):
        e = rng.randrange(1, 40)
        kind = rng.randrange(8)
        value = rng.choice([rng.randrange(5), f"v{rng.randrange(5)}", 1.0, True, d.kw("x/y")])
        if kind < 4:
            out.append([":db/add", e, rng.choice([":one", ":other"]), value])
        elif kind == 4:
            out.append([":db/add", e, f":{name}{rng.randrange(3)}", value])
        elif kind == 5:
            out.append([":db/retractEntity", e])
        else:
            out.append([":db/retract", e, ":one"])
    if not rng.randrange(9):
        out += [[":db/add", 100 + i, ":one", i % 7] for i in range(700)]
    return out


@pytest.mark.parametrize("limits", [SMALL, NEVER], ids=["flushing", "tail"])
@pytest.mark.parametrize("backend", ["memory", "file"])
async def test_states_differ_in_what_their_sets_of_datoms_differ_in(
    backend: str, limits: Limits, tmp_path: Path
) -> None:
    """On one branch, on two that went their own ways, and after reopening."""
    rng = random.Random(3)
    store: dict[str, Any] = {"backend": backend, "id": uuid4()}
    if backend == "file":
        store["path"] = str(tmp_path / "db")
    config = {"store": store, "schema-flexibility": "read", **({} if backend == "file" else TREE)}
    most = 0
    async with d.connect(config, create=True, limits=limits) as main:
        states = [main.db()]
        states += [(await main.transact(some(rng, "m"))).db_after for _ in range(25)]
        await d.branch(main, d.commit_id(states[12]), ":side")
        async with d.connect(config, branch=":side", limits=limits) as side:
            states += [(await side.transact(some(rng, "s"))).db_after for _ in range(15)]
        for _ in range(40):
            most = max(most, await check(rng.choice(states), rng.choice(states)))
        assert await check(states[5], states[5]) == 0
        await check(states[20].as_of(states[3].max_tx), states[-1])
        await check(states[20], states[20].as_of(states[3].max_tx))
    assert most > 500
    async with d.connect(config, limits=limits) as main:
        await check(await d.branch_as_db(main, ":side"), main.db())
        other: Any = await d.commit_as_db(main, d.commit_id(states[2]))
        await check(other, main.db())


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "with the top of one side"])
async def test_what_is_shared_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    schema = {":n": {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/one"}}
    config: dict[str, Any] = {"store": {"backend": "memory", "id": uuid4()}}
    if warm:
        config["index_config"] = {"branching-factor": 64}  # for trees of three levels
    once = Limits(flush_rows=10, close_rows=1)
    async with d.connect(config, create=True, limits=once) as conn:
        await conn.transact([{":db/ident": a, **props} for a, props in schema.items()])
        await conn.transact([{":n": i} for i in range(60_000)])
        before = conn.db()
        await conn.transact([[":db/add", 100 + i * 5_000, ":n", -1] for i in range(10)])
        after = conn.db()
    async with d.connect(config, limits=once) as conn:
        old: Any = await d.commit_as_db(conn, d.commit_id(before))
        new: Any = await d.commit_as_db(conn, d.commit_id(after))
        if warm:
            assert await old.datoms("eavt", 1)
        waves: list[int] = []
        token = fetched.set(waves)
        found = await d.diff(old, new)
        fetched.reset(token)
        assert (len(found.added), len(found.removed)) == (10, 10)
        # Ten leaves of either side and the branches above them, of some 120 a side; then no more.
        assert sum(waves) <= 2 * (10 + 1 + 3) + 4
        looked: list[int] = []
        apart = Levels.apart

        def noted(self: Any, other: Any) -> Any:
            rows = apart(self, other)
            looked.append(sum(len(run) for side in rows for run in side))
            return rows

        monkeypatch.setattr(Levels, "apart", noted)
        await d.diff(old, new)
        assert 0 < looked[-1] <= 2 * 10 * 768
        assert not (await d.diff(new, new)).added


async def test_values_without_a_store_differ_too() -> None:
    one = await d.empty_db().db_with([{":db/id": 1, ":a": 1, ":b": [1, 1.0]}])
    two = await d.empty_db().db_with([{":db/id": 1, ":a": 1.0, ":c": "x"}])
    assert await check(one, two) > 0
    found = await d.diff(one, two)
    assert {(str(x.a), x.v) for x in found.added} == {(":a", 1.0), (":c", "x")}
    with pytest.raises(d.QueryError):
        await d.diff(one, 5)  # type: ignore[arg-type]
