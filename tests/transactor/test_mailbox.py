from __future__ import annotations

import anyio
import pytest

from datahike_async.transactor.mailbox import Mailbox

pytestmark = pytest.mark.anyio


async def send(box: Mailbox[int], message: int) -> None:
    if not box.put_nowait(message):
        await box.room()
        box.put_after_room(message)


async def test_order_is_kept_and_the_bound_holds() -> None:
    box: Mailbox[int] = Mailbox(3)
    out: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            for i in range(50):
                await send(box, i)

        tasks.start_soon(sender)
        while len(out) < 50:
            if not len(box):
                await box.wait()
            assert len(box) <= 3
            out.append(box.take())
            await anyio.lowlevel.checkpoint()
    assert out == list(range(50))


async def test_many_senders_all_get_through() -> None:
    box: Mailbox[int] = Mailbox(2)
    out: list[int] = []
    async with anyio.create_task_group() as tasks:
        for i in range(40):
            tasks.start_soon(send, box, i)
        while len(out) < 40:
            if not len(box):
                await box.wait()
            assert len(box) <= 2
            out.append(box.take())
    assert sorted(out) == list(range(40))


async def test_a_cancelled_sender_leaves_no_gap() -> None:
    box: Mailbox[int] = Mailbox(1)
    assert box.put_nowait(0)
    async with anyio.create_task_group() as tasks:
        cancelled = anyio.CancelScope()

        async def gives_up() -> None:
            with cancelled:
                await send(box, 1)

        tasks.start_soon(gives_up)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(send, box, 2)
        await anyio.wait_all_tasks_blocked()
        # Its turn comes in the step in which it is cancelled: the next must get the room.
        cancelled.cancel()
        assert box.take() == 0
        await anyio.wait_all_tasks_blocked()
        assert box.take() == 2
        assert not len(box)
    assert box.put_nowait(3)


async def test_drain_lets_everyone_go() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(0)
    async with anyio.create_task_group() as tasks:
        for i in range(3):
            tasks.start_soon(send, box, i)
        await anyio.wait_all_tasks_blocked()
        assert list(box.drain()) == [0]
