"""Requests and answers that are lost on the way: nothing is lost or done twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.servers.programs import S3Server
from tests.servers.proxy import (
    DROP_REQUEST,
    DROP_RESPONSE,
    Fault,
    Plan,
    Proxy,
    Record,
    late,
    status,
)
from tests.servers.s3 import config_on
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

FAULTS = [DROP_RESPONSE, DROP_REQUEST, late(0.02), status(503), status(500), status(409)]


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as proxy:
        yield proxy
        proxy.settle()


@pytest.fixture
async def store(server: S3Server, proxy: Proxy) -> dict[str, Any]:
    config = {**config_on(server), "endpoint": proxy.url, "retry-seconds": 2}
    made = await d.create_database(store=config, schema_flexibility="read")
    return dict(made.store)


def is_head(record: Record) -> bool:
    return record.method == "PUT" and "if-match" in record.headers


def every(count: int, faults: list[Fault]) -> Plan:
    """Each write of a head meets a fault, until there were ``count``; what is sent again passes."""
    turns = itertools.cycle(faults)
    left = count
    struck: set[str] = set()

    def plan(record: Record) -> Fault | None:
        nonlocal left
        if not is_head(record) or not left or record.headers["if-match"] in struck:
            return None
        struck.add(record.headers["if-match"])
        left -= 1
        return next(turns)

    return plan


async def chain(store: dict[str, Any]) -> list[int]:
    """Return every :n that was ever asserted, from the history of a fresh connection."""
    async with Strangers(store) as conn:
        db = conn.db().history()
        return sorted(x.v for x in await db.datoms("aevt", ":n") if x.added)


async def test_a_hundred_head_writes_without_an_answer(store: dict[str, Any], proxy: Proxy) -> None:
    count = 100
    proxy.plan = every(count, FAULTS)
    async with Strangers(store) as conn:
        for n in range(count):
            # The writer asks the head, and knows.
            await conn.transact([{":n": n}])
    faults = [r for r in proxy.requests if r.fault is not None and is_head(r)]
    assert len(faults) == count
    assert {f.fault.kind for f in faults if f.fault} == {f.kind for f in FAULTS}
    proxy.plan = None
    proxy.settle()
    assert await chain(store) == list(range(count))


async def test_two_writers_and_lost_answers(store: dict[str, Any], proxy: Proxy) -> None:
    chance = random.Random(7)

    def plan(record: Record) -> Fault | None:
        return chance.choice(FAULTS) if is_head(record) and chance.random() < 0.3 else None

    proxy.plan = plan
    acknowledged: list[int] = []

    async def write(numbers: range) -> None:
        async with Strangers(store, limits=Limits(flush_rows=40)) as conn:
            for n in numbers:
                await conn.transact([{":n": n}])
                acknowledged.append(n)

    async with anyio.create_task_group() as group:
        group.start_soon(write, range(40))
        group.start_soon(write, range(100, 140))
    proxy.plan = None
    proxy.settle()
    assert await chain(store) == sorted(acknowledged)
    assert len(acknowledged) == 80


async def test_an_outcome_that_nobody_can_tell_is_called_unknown(
    store: dict[str, Any], proxy: Proxy
) -> None:
    done: set[int] = set()
    unknown: set[int] = set()
    faults = itertools.cycle([DROP_RESPONSE, DROP_REQUEST, late(0.3)])
    limits = Limits(settle_seconds=0.2)
    for n in range(12):
        async with Strangers({**store, "retry-seconds": 0.1}, limits=limits) as conn:
            await conn.transact([{":n": n}])
            done.add(n)
            fault = next(faults)
            struck = False

            def plan(record: Record, fault: Fault = fault) -> Fault | None:
                nonlocal struck
                if is_head(record) and not struck:
                    struck = True
                    return fault
                return status(503) if struck else None

            proxy.plan = plan
            with pytest.raises(d.TransactionOutcomeUnknown):
                await conn.transact([{":n": 1000 + n}])
            unknown.add(1000 + n)
            # Nothing more is taken, for nobody knows on what.
            with pytest.raises(d.WriterError):
                await conn.transact([{":n": 2000 + n}])
            proxy.plan = None
            proxy.settle()
    found = await chain(store)
    assert len(found) == len(set(found))
    assert done <= set(found) <= done | unknown


async def test_what_was_surely_not_written_is_said_to_be_not_written(
    store: dict[str, Any], proxy: Proxy
) -> None:
    async with Strangers({**store, "retry-seconds": 0.1}) as conn:
        await conn.transact([{":n": 1}])
        proxy.plan = lambda record: status(403) if is_head(record) else None
        with pytest.raises(d.StorageError, match=r"403|AccessDenied") as caught:
            await conn.transact([{":n": 2}])
        assert not isinstance(caught.value, d.TransactionOutcomeUnknown)
        proxy.plan = None
        # The writer lives: permissions may come back.
        await conn.transact([{":n": 3}])
    assert await chain(store) == [1, 3]


async def test_reads_and_packs_are_asked_for_again(store: dict[str, Any], proxy: Proxy) -> None:
    chance = random.Random(11)
    faults = [DROP_RESPONSE, DROP_REQUEST, status(503), status(500)]
    struck: set[str] = set()

    def plan(record: Record) -> Fault | None:
        if is_head(record):
            return None
        # The first of each method for certain: how many packs there are depends on timing.
        if record.method in struck and chance.random() < 0.6:
            return None
        struck.add(record.method)
        return chance.choice(faults)

    async with Strangers(store, limits=Limits(flush_rows=100, close_rows=1)) as conn:
        proxy.plan = plan
        for n in range(0, 400, 20):
            await conn.transact([{":n": m} for m in range(n, n + 20)])
    async with Strangers(store) as conn:
        assert await conn.db().q("[:find (count ?e) . :where [?e :n _]]") == 400
    assert any(r.fault for r in proxy.requests if r.method == "GET")
    assert any(r.fault for r in proxy.requests if r.method == "PUT")
    proxy.plan = None
