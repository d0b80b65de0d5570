"""However a state came about, it is the same: written, read bit by bit, or opened anew.

Two writers and a reader share a branch and flush at different times; after random transactions
their states, history included, must be that of a fresh connection, which replays the log.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.indexes import INDEXES
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :u :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :o :db/valueType :db.type/long :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :m :db/valueType :db.type/long :db/cardinality :db.cardinality/many}
 {:db/ident :nh :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/noHistory true}
 {:db/ident :r :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}]
"""


async def state(conn: d.Connection) -> tuple[Any, ...]:
    db = conn.db()
    past = sorted(repr(tuple(x)) for x in await db.history().datoms("eavt"))
    present = [repr(tuple(x)) for x in await db.datoms("eavt")]
    values = [repr(tuple(x)) for x in await db.datoms("avet", ":o")]
    return past, present, values, db.max_tx, db.max_eid


def transaction(chance: random.Random) -> list[Any]:
    """Return one to four changes; some will be refused."""

    def number() -> int:
        return chance.randint(0, 3)

    def one() -> Any:
        name = f"u{chance.randint(0, 8)}"
        ref = [":u", name]
        definition = {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/one"}
        return chance.choice(
            [
                {":u": name, ":o": number(), ":nh": number()},
                {":u": name, ":o": number(), ":nh": number()},
                {":u": name, ":m": [number(), number()]},
                [":db/retract", ref, ":m", number()],
                [":db/retract", ref, ":o", number()],
                [":db/retractEntity", ref],
                {":u": name, ":r": {":u": f"u{chance.randint(0, 8)}"}},
                [":db/cas", ref, ":o", number(), number()],
                {":db/ident": f":new{number()}", **definition},
                {":db/ident": ":m", ":db/index": True},
            ]
        )

    return [one() for _ in range(chance.randint(1, 4))]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("backend", ["memory", "file", "lmdb"])
async def test_states_agree(seed: int, backend: str, tmp_path: Path) -> None:
    chance = random.Random(seed)
    store: dict[str, Any] = {"backend": backend, "id": uuid4()}
    if backend != "memory":
        store["path"] = str(tmp_path / "db")
    index = list(INDEXES.values())[seed % len(INDEXES)]
    await d.create_database(store=store, initial_tx=SCHEMA, **index)

    def stranger() -> Strangers:
        rows, size = chance.choice([3, 10, 40, 1000]), chance.choice([300, 3_000, 100_000])
        limits = Limits(flush_rows=rows, flush_bytes=size, flush_journal_bytes=size)
        return Strangers(store, limits=limits._replace(close_rows=chance.choice([1, 1000])))

    async def send(conn: d.Connection) -> None:
        with contextlib.suppress(d.TransactionError):
            await conn.transact(transaction(chance))

    async def fresh() -> tuple[Any, ...]:
        async with Strangers(store) as conn:
            return await state(conn)

    async with stranger() as one, stranger() as two, stranger() as reader:
        for _ in range(60):
            if chance.random() < 0.1:
                async with anyio.create_task_group() as group:
                    for conn in (one, two, one):
                        group.start_soon(send, conn)
            else:
                await send(chance.choice([one, one, two]))
            if chance.random() < 0.3:
                await reader.sync()
                assert await state(reader) == await fresh()
        for conn in (one, two):
            await conn.sync()
            assert await state(conn) == await fresh()


@pytest.mark.parametrize("rows", [1, 3, 1000])
async def test_intervals_that_began_with_one_transaction_are_kept_apart(rows: int) -> None:
    store = {"backend": "memory", "id": uuid4()}
    await d.create_database(store=store, initial_tx=SCHEMA)
    async with Strangers(store, limits=Limits(flush_rows=rows)) as conn:
        first = await conn.transact([{":u": "a"}])
        ref, ends = [":u", "a"], []
        for _ in range(3):
            # Asserted anew, as of the transaction that asserted it before.
            await conn.transact([[":db/add", ref, ":o", 1, first.tx]])
            ends.append((await conn.transact([[":db/retract", ref, ":o", 1]])).tx)
            await anyio.wait_all_tasks_blocked()
        found = [x for x in await conn.db().history().datoms("aevt", ":o") if not x.added]
        assert [x.tx for x in found] == ends
        written = await state(conn)
    async with Strangers(store) as conn:
        assert await state(conn) == written
