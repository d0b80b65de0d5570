"""Probe: does a store that promises compare-and-set keep its word?

Some servers accept a conditional write and ignore the condition; two writers would then lose each
other's commits without an error. So a store that several machines share is tried out, on a key of
its own, before the first write is entrusted to it. Who only reads never pays for it.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import anyio

from datahike_async.env import Env
from datahike_async.errors import FencingUnsupported
from datahike_async.konserve.blob import ABSENT, ConditionalDomain, Expected
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreUnavailable,
    UnsupportedOperation,
)
from datahike_async.konserve.store import Store
from datahike_async.storage.keys import probe_key

__all__ = ["Probe"]

_AT_ONCE: Final = 8
_ATTEMPTS: Final = 4
_REMOVE_SECONDS: Final = 5.0

_trusted: set[tuple[UUID, str]] = set()
"""Stores of this process that kept their word, with the server that was asked."""


class Probe:
    """Whether the conditional writes of one store can be trusted: found out once, when asked.

    With ``trust`` it is not asked, which is for whoever is sure to be the only writer. ``passed``
    says that it need not be asked any more.
    """

    def __init__(
        self, store: Store, store_id: UUID, backend: str, env: Env, *, trust: bool = False
    ) -> None:
        self._store = store
        self._backend = backend
        self._env = env
        self._store_id = store_id
        self.passed = trust
        self._wrong: str | None = None

    async def check(self) -> None:
        """Raise FencingUnsupported, naming server and reason, unless the store can be trusted.

        Raises konserve's definite errors where the store cannot be asked.
        """
        if self.passed:
            return
        if self._wrong is None:
            self._wrong = await self._look()
        if self._wrong:
            raise FencingUnsupported(
                f"{self._wrong} Two writers could lose each other's transactions without an "
                "error, so nothing is written; reading goes on. Use another server or backend; "
                "or, where this process is sure to be the only writer, set :unsafe-unfenced? true "
                "in :writer.",
                backend=self._backend,
                server=self._store.server,
            )
        self.passed = True

    async def _look(self) -> str:
        store = self._store
        domain = store.capabilities.conditional
        if domain is ConditionalDomain.NONE:
            return f"The store :{self._backend} cannot compare before it writes."
        place = (self._store_id, store.server)
        if domain is not ConditionalDomain.GLOBAL or place in _trusted:
            # Of one process or machine: the backend itself compares, and its tests show it.
            return ""
        try:
            wrong = await self._tried()
        except UnsupportedOperation as error:
            wrong = f"it refuses them ({error})"
        if not wrong:
            _trusted.add(place)
            return ""
        at = f", {store.server}," if store.server else ""
        return f"The store :{self._backend}{at} does not honour conditional writes: {wrong}."

    async def _tried(self) -> str | None:
        for attempt in range(_ATTEMPTS):
            key = probe_key(self._env.new_uuid())
            try:
                return await _what_is_wrong(self._store, key)
            except OutcomeUnknown as error:
                if attempt == _ATTEMPTS - 1:
                    # Nothing of the caller's was sent yet.
                    raise StoreUnavailable(
                        f"The store could not be tried out, nothing was written: {error}"
                    ) from error
            finally:
                with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
                    await _removed(self._store, key)
        raise AssertionError("the last attempt returns or raises")


async def _removed(store: Store, key: str) -> None:
    try:
        await store.dissoc(key)
    except KonserveError:
        # A few bytes stay behind, which nobody names.
        return


async def _what_is_wrong(store: Store, key: str) -> str | None:
    first = await store.assoc(key, 0, expected_revision=ABSENT)
    if await _accepted(store, key, 1, ABSENT):
        return "a key was created twice"
    second = await store.assoc(key, 2, expected_revision=first)
    if await _accepted(store, key, 3, first):
        return "a write with an old revision was accepted"
    accepted: list[bool] = []
    failed: list[KonserveError] = []

    async def contend(n: int) -> None:
        try:
            accepted.append(await _accepted(store, key, n, second))
        except KonserveError as error:
            # Kept bare: the group would wrap it.
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for n in range(_AT_ONCE):
            tasks.start_soon(contend, 10 + n)
    won = sum(accepted)
    if won > 1:
        return f"{won} of {_AT_ONCE} writes with one revision were accepted"
    if failed:
        raise failed[0]
    if len(accepted) < _AT_ONCE:
        # asyncio can cancel a single task; its group then ends without an error.
        raise OutcomeUnknown("A try was cancelled from outside.")
    return None if won else "of several writes with the right revision none was accepted"


async def _accepted(store: Store, key: str, value: int, expected: Expected) -> bool:
    try:
        await store.assoc(key, value, expected_revision=expected)
    except RevisionMismatch:
        return False
    return True
