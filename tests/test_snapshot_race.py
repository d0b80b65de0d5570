"""A hundred tasks read while one writes: every snapshot is consistent, and no reader takes a lock.

The model: money moves between accounts, so the sum is the same in every state; and each transfer
is counted, so a state says how far it is. Flushes happen all the time.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

ACCOUNTS, START, TRANSFERS, READERS = 20, 100, 24, 100
SCHEMA = """
[{:db/ident :account/id :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :account/balance :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :bank/transfers :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]
"""
BANK = 1000
SUM = "[:find (sum ?b) (count ?a) . :with ?a :where [?a :account/balance ?b]]"
BALANCES = "[:find ?i ?b :where [?a :account/id ?i] [?a :account/balance ?b]]"


@pytest.fixture
def locks(monkeypatch):
    """Count the locks that each task takes."""
    taken: Counter[str] = Counter()
    for kind in (anyio.Lock, anyio.Semaphore, anyio.CapacityLimiter):
        original = kind.acquire

        async def acquire(self, *args, original=original, **options):
            taken[anyio.get_current_task().name or ""] += 1
            return await original(self, *args, **options)

        monkeypatch.setattr(kind, "acquire", acquire)
    return taken


@pytest.mark.parametrize("backend", ["memory", "file"])
async def test_every_snapshot_is_consistent(backend, tmp_path, locks):
    store = {"backend": backend, "id": str(uuid.uuid4())}
    if backend == "file":
        store["path"] = str(tmp_path / "bank")
    await d.create_database(store=store)
    done = False
    seen: set[int] = set()
    async with d.connect(store=store, limits=Limits(flush_rows=40)) as conn:
        await conn.transact(SCHEMA)
        await conn.transact(
            [{":account/id": i, ":account/balance": START} for i in range(ACCOUNTS)]
            + [{":db/id": BANK, ":bank/transfers": 0}]
        )

        async def write() -> None:
            nonlocal done
            rng = random.Random(1)
            balances = dict.fromkeys(range(ACCOUNTS), START)
            for n in range(1, TRANSFERS + 1):
                one, other = rng.sample(range(ACCOUNTS), 2)
                amount = rng.randrange(1, 30)
                balances[one] -= amount
                balances[other] += amount
                await conn.transact(
                    [
                        {":account/id": one, ":account/balance": balances[one]},
                        {":account/id": other, ":account/balance": balances[other]},
                        {":db/id": BANK, ":bank/transfers": n},
                    ]
                )
            done = True

        async def read(number: int) -> None:
            last = 0
            held = conn.db()
            kept = await held.q(BALANCES)
            while not done:
                db = conn.db()
                before = await db.q("[:find ?n . :where [1000 :bank/transfers ?n]]")
                balances = dict(await db.q(BALANCES))
                await anyio.lowlevel.checkpoint()
                assert len(balances) == ACCOUNTS
                assert sum(balances.values()) == ACCOUNTS * START
                # Later, with other states in between, the value still says the same.
                assert dict(await db.q(BALANCES)) == balances
                pulled = await db.pull("[:bank/transfers]", BANK)
                assert pulled[":bank/transfers"] == before
                assert before >= last
                last = before
                seen.add(before)
            assert await held.q(BALANCES) == kept

        async with anyio.create_task_group() as group:
            for number in range(READERS):
                group.start_soon(read, number, name=f"reader {number}")
            group.start_soon(write, name="writer")
        assert await conn.db().q("[:find ?n . :where [1000 :bank/transfers ?n]]") == TRANSFERS
    assert len(seen) > 10
    if backend == "memory":
        assert not [name for name in locks if name.startswith("reader")]
