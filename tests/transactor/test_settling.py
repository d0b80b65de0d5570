"""The ends of the commit path that few stores show: refusals that were none, and full mailboxes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import (
    DatahikeError,
    StorageError,
    TransactionOutcomeUnknown,
    WriterError,
)
from datahike_async.konserve import opening as stores
from datahike_async.konserve.blob import Expected, Revision
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch, StoreIOError
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.anyio

Sending = Callable[[Callable[[], Awaitable[Revision]]], Awaitable[Revision]]


class Intercepted(PassingBlobStore):
    """Hands publications to ``on_send``; without one they pass."""

    on_send: Sending | None = None

    async def _sent(self, call: Callable[[], Awaitable[Revision]]) -> Revision:
        return await (call() if self.on_send is None else self.on_send(call))

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        return await self._sent(lambda: self.blobs.write(name, data, expected))

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        return await self._sent(lambda: self.journals.append(name, record, expected))


@pytest.fixture
async def store() -> dict[str, Any]:
    store = {"backend": "memory", "id": uuid4()}
    await d.create_database(store=store, schema_flexibility="read")
    return store


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> list[Intercepted]:
    """What the stores of connections opened from now on are wrapped in."""
    made: list[Intercepted] = []

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        store = await stores.connect_store(config, **options)
        made.append(Intercepted(store.blobs))
        store.blobs = made[-1]
        return store

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    return made


async def test_a_sending_that_the_deadline_cut_off_leaves_a_doubt(
    store: dict[str, Any], blobs: list[Intercepted]
) -> None:
    sendings = 0

    async def refused_first(call: Callable[[], Awaitable[Revision]]) -> Revision:
        nonlocal sendings
        sendings += 1
        if sendings == 1:
            raise RevisionMismatch("a server in disorder")
        await call()
        await anyio.sleep_forever()
        raise AssertionError

    async with d.connect(store=store, limits=Limits(settle_seconds=0.1)) as conn:
        blobs[0].on_send = refused_first
        with pytest.raises(TransactionOutcomeUnknown):
            await conn.transact([{":n": 1}])
    async with d.connect(store=store) as conn:
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [1]


async def test_a_head_that_vanished_after_a_lost_answer_leaves_a_doubt(
    store: dict[str, Any], blobs: list[Intercepted]
) -> None:
    async def lost(call: Callable[[], Awaitable[Revision]]) -> Revision:
        await call()
        other = await stores.connect_store(store)
        await other.dissoc("head/db")
        await other.release()
        raise OutcomeUnknown("no answer came")

    async with d.connect(store=store) as conn:
        blobs[0].on_send = lost
        with pytest.raises(TransactionOutcomeUnknown, match="vanished"):
            await conn.transact([{":n": 1}])


async def test_a_writer_that_closed_itself_with_a_full_mailbox_can_be_released(
    store: dict[str, Any], blobs: list[Intercepted]
) -> None:
    refused: list[DatahikeError] = []
    all_waiting = anyio.Event()

    async def broken(call: Callable[[], Awaitable[Revision]]) -> Revision:
        await all_waiting.wait()
        raise StoreIOError("the medium failed")

    async def send(conn: d.Connection) -> None:
        try:
            await conn.transact([{":n": 1}])
        except DatahikeError as error:
            refused.append(error)

    with anyio.fail_after(30):
        async with d.connect(store=store, writer={"transaction-queue-size": 1}) as conn:
            blobs[0].on_send = broken
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(send, conn)
                await anyio.wait_all_tasks_blocked()
                all_waiting.set()
    assert len(refused) == 6
    assert all(isinstance(error, (StorageError, WriterError)) for error in refused)
