"""The memory store, open on event loops of several threads."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

from datahike_async.konserve import ABSENT, KonserveError, RevisionMismatch, StoreExists
from datahike_async.konserve.backends import memory
from datahike_async.konserve.backends.memory import Blobs, MemoryBackend, MemoryBlobStore

NAME = "ab" * 16
ID = uuid.uuid4()


class Meeting(Blobs):
    """Between looking at a name and changing it, others get every chance to look too."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties)

    def get(self, *arguments: Any) -> Any:
        found = super().get(*arguments)
        with suppress(threading.BrokenBarrierError):  # They wait for a lock, as they should.
            self.barrier.wait(0.2)
        return found


def all_at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make each call on an event loop in a thread of its own; return results and errors."""
    outcomes: list[Any] = []

    async def on_a_loop(call: Callable[[], Any]) -> None:
        try:
            outcomes.append(await call())
        except KonserveError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=anyio.run, args=(on_a_loop, call)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def won(data: Blobs, *changes: Callable[[MemoryBlobStore], Any]) -> int:
    """Return how many of several changes at once were made."""
    outcomes = all_at_once(*(partial(change, MemoryBlobStore(data)) for change in changes))
    assert len(outcomes) == len(changes)
    return sum(not isinstance(outcome, RevisionMismatch) for outcome in outcomes)


def test_of_event_loops_in_threads_that_create_a_name_one_wins() -> None:
    def create(store: MemoryBlobStore) -> Any:
        return store.write(NAME, b"x", ABSENT)

    assert won(Meeting(2), create, create) == 1


def test_of_event_loops_in_threads_that_change_one_revision_one_wins() -> None:
    def replace(store: MemoryBlobStore) -> Any:
        return store.write(NAME, b"1", "old")

    def remove(store: MemoryBlobStore) -> Any:
        return store.delete(NAME, "old")

    for other in (replace, remove):
        data = Meeting(2)
        data[NAME] = (b"0", "old")
        assert won(data, replace, other) == 1


class Slow(dict[uuid.UUID, Blobs]):
    """Stores by id; between asking and adding one, others get every chance to ask too."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.2)
        return found

    barrier = threading.Barrier(2)


def test_of_threads_that_create_one_memory_store_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_stores", Slow())

    def create() -> Any:
        return MemoryBackend().create({"id": ID})

    outcomes = all_at_once(create, create)
    assert len(outcomes) == 2
    assert sum(isinstance(outcome, StoreExists) for outcome in outcomes) == 1
