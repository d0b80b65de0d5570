"""Sensors write and a dashboard reads, concurrently, on trio.

    python examples/on_trio.py

Every reading is kept; the dashboard asks one database value several things, and they agree.
"""

from __future__ import annotations

import random
import uuid

import trio

import datahike_async as d

SCHEMA = """
[{:db/ident :sensor/name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :sensor/celsius :db/valueType :db.type/double :db/cardinality :db.cardinality/one}]
"""
AVERAGE = "[:find (avg ?c) (count ?s) :where [?s :sensor/celsius ?c]]"


async def sensor(conn: d.Connection, name: str) -> None:
    """Report five readings; each replaces the one before, and none is lost."""
    for _ in range(5):
        reading = random.uniform(15, 25)
        await conn.transact([{":sensor/name": name, ":sensor/celsius": reading}])
        await trio.sleep(0.01)


async def dashboard(conn: d.Connection, done: trio.Event) -> None:
    """Print averages until all sensors are done."""
    while not done.is_set():
        rows = await d.q(AVERAGE, conn.db())
        for average, count in rows:
            print(f"{count} sensors, {average:.1f} °C on average")
        await trio.sleep(0.02)


async def main() -> None:
    """Run four sensors and a dashboard, then look at the past."""
    config = {"store": {"backend": "memory", "id": str(uuid.uuid4())}}
    async with d.connect(config, create=True, initial_tx=SCHEMA) as conn:
        done = trio.Event()
        async with trio.open_nursery() as outer:
            outer.start_soon(dashboard, conn, done)
            async with trio.open_nursery() as sensors:
                for name in ("attic", "cellar", "kitchen", "garden"):
                    sensors.start_soon(sensor, conn, name)
            done.set()
        readings = await d.q(
            "[:find (count ?c) . :with ?tx :where [?s :sensor/celsius ?c ?tx true]]",
            conn.db().history(),
        )
        print(f"{readings} readings are kept")


if __name__ == "__main__":
    trio.run(main)
