"""How many calls of Python functions a commit takes, on a store in memory and on files.

Counts do not depend on the machine, nor on who else is using it, as seconds would.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d

SCHEMA = [
    {
        ":db/ident": ":uid",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    },
    {
        ":db/ident": ":name",
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
    },
]
ROUNDS = 40


class Calls:
    """Counts calls in all threads that begin from now on, and in this one, while it is ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.count = 0

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.on and event == "call":
            self.count += 1


async def calls_of_a_commit(config: dict[str, Any], tasks: int, calls: Calls) -> float:
    async with d.connect(config, create=True) as conn:
        await conn.transact(SCHEMA)

        async def client(number: int) -> None:
            for i in range(ROUNDS):
                await conn.transact([{":uid": 1000 * number + i, ":name": "Ivan"}])

        await client(1000)
        calls.on = True
        await asyncio.gather(*map(client, range(tasks)))
        calls.on = False
    return calls.count / (tasks * ROUNDS)


@pytest.mark.parametrize(
    ("backend", "tasks", "most"),
    [("memory", 1, 330), ("memory", 32, 230), ("file", 1, 380), ("file", 32, 200)],
)
def test_a_commit_takes_no_more_calls_than_it_did(
    backend: str, tasks: int, most: int, tmp_path: Path
) -> None:
    place = {"id": uuid4()} if backend == "memory" else {"path": str(tmp_path / "store")}
    calls = Calls()
    before = sys.getprofile()
    threading.setprofile(calls.note)
    sys.setprofile(calls.note)
    try:
        found = asyncio.run(
            calls_of_a_commit({"store": {"backend": backend, **place}}, tasks, calls)
        )
    finally:
        threading.setprofile(None)
        sys.setprofile(before)
    assert 50 < found <= most
