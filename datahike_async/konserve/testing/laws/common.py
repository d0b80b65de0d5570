"""What the laws share: fixtures, the record for the support matrix, and ways to run calls at once.

Laws that read what another handle wrote do so with a revision, which is to say past every cache:
other reads may lag behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import anyio
import pytest

from datahike_async.konserve.blob import Capabilities
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.opening import connect_store, create_store, delete_store
from datahike_async.konserve.store import Store

__all__ = ["Laws", "latest", "race", "together"]

T = TypeVar("T")


class Laws:
    """The fixtures of the suite."""

    matrix_name: str | None = None
    """The store's name in the support matrix, by default that of its backend; "" keeps it out."""
    record: Callable[[str, object], None]

    @pytest.fixture
    def store_config(self, tmp_path: Any) -> Mapping[str, Any]:
        """Return the configuration of a store that does not exist yet."""
        raise NotImplementedError("override the fixture store_config")

    @pytest.fixture(autouse=True)
    def recorded(
        self,
        store_config: Mapping[str, Any],
        anyio_backend_name: str,
        record_property: Callable[[str, object], None],
    ) -> None:
        """Note which store a test is about, for whoever collects reports."""
        self.record = record_property
        name = str(store_config["backend"]) if self.matrix_name is None else self.matrix_name
        self.record("konserve.store", (name, anyio_backend_name))

    def record_capabilities(self, capabilities: Capabilities) -> None:
        """Note what the store declares."""
        declared = asdict(capabilities) | {"conditional": capabilities.conditional.value}
        self.record("konserve.capabilities", declared)

    @pytest.fixture
    async def store(self, store_config: Mapping[str, Any]) -> AsyncIterator[Store]:
        """Make a store for one test and delete it afterwards."""
        store = await create_store(store_config)
        self.record_capabilities(store.capabilities)
        yield store
        await store.release()
        await delete_store(store_config)

    @pytest.fixture
    async def other(self, store: Store, store_config: Mapping[str, Any]) -> AsyncIterator[Store]:
        """Open the store once more."""
        other = await connect_store(store_config)
        yield other
        await other.release()

    @pytest.fixture(params=["one handle", "two handles"])
    def handles(self, request: pytest.FixtureRequest, store: Store, other: Store) -> list[Store]:
        """Return the store, open once or open twice."""
        return [store] if request.param == "one handle" else [store, other]


async def latest(store: Store, key: Any) -> Any:
    """Return the value of a key as it is now, whoever wrote it; None where there is none."""
    return (await store.get(key, with_revision=True))[0]


async def together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T | Exception]:
    """Run calls at once and return of each what it returned or raised."""
    results: dict[int, T | Exception] = {}

    async def run(index: int) -> None:
        try:
            results[index] = await calls[index]()
        except Exception as error:
            results[index] = error

    async with anyio.create_task_group() as group:
        for index in range(len(calls)):
            group.start_soon(run, index)
    return [results[index] for index in range(len(calls))]


async def race(calls: Sequence[Callable[[], Awaitable[T]]]) -> tuple[int, T]:
    """Run calls of which one must win, and return its place and what it returned.

    Every other must have raised RevisionMismatch.
    """
    results = await together(calls)
    won = [(i, result) for i, result in enumerate(results) if not isinstance(result, Exception)]
    lost = [result for result in results if isinstance(result, Exception)]
    assert {type(error) for error in lost} <= {RevisionMismatch}, lost
    assert len(won) == 1, f"{len(won)} of {len(calls)} have won"
    return won[0]
