"""Probe: does a store that promises compare-and-set keep its word?

Some servers accept a conditional write and ignore the condition; two writers would then lose each
other's commits without an error. So a store that several machines share is tried out once, on a
key of its own, before anything is entrusted to it.
"""

from __future__ import annotations

from typing import Final

import anyio

from datahike_async.env import Env
from datahike_async.errors import ConfigError
from datahike_async.konserve.blob import ABSENT, ConditionalDomain, Expected
from datahike_async.konserve.errors import KonserveError, RevisionMismatch
from datahike_async.konserve.store import Store

__all__ = ["require_fencing"]

_AT_ONCE: Final = 8


async def require_fencing(store: Store, backend: str, env: Env) -> None:
    """Try the store's conditional writes where machines share it.

    Raises ConfigError naming what went wrong; konserve's errors where the store fails.
    """
    if store.capabilities.conditional is ConditionalDomain.NONE:
        raise ConfigError(
            f"The store :{backend} cannot compare before it writes, so two writers could lose each "
            "other's transactions. Use another backend.",
            backend=backend,
        )
    if store.capabilities.conditional is not ConditionalDomain.GLOBAL:
        return
    key = f"probe/{env.new_uuid().hex}"
    try:
        wrong = await _what_is_wrong(store, key)
    finally:
        with anyio.CancelScope(shield=True):
            await store.dissoc(key)
    if wrong:
        raise ConfigError(
            f"The store :{backend} does not honour conditional writes: {wrong}. Two writers could "
            "lose each other's transactions without an error. Use another server or backend; or, "
            "where this process is sure to be the only writer, set :unsafe-unfenced? true in "
            ":writer.",
            backend=backend,
        )


async def _what_is_wrong(store: Store, key: str) -> str | None:
    first = await store.assoc(key, 0, expected_revision=ABSENT)
    if await _accepted(store, key, 1, ABSENT):
        return "a key was created twice"
    second = await store.assoc(key, 2, expected_revision=first)
    if await _accepted(store, key, 3, first):
        return "a write with an old revision was accepted"
    won: list[int] = []
    failed: list[KonserveError] = []

    async def contend(n: int) -> None:
        try:
            if await _accepted(store, key, n, second):
                won.append(n)
        except KonserveError as error:
            # Kept bare: the group would wrap it.
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for n in range(_AT_ONCE):
            tasks.start_soon(contend, 10 + n)
    if failed:
        raise failed[0]
    if len(won) != 1:
        return f"{len(won)} of {_AT_ONCE} writes with one revision were accepted"
    return None


async def _accepted(store: Store, key: str, value: int, expected: Expected) -> bool:
    try:
        await store.assoc(key, value, expected_revision=expected)
    except RevisionMismatch:
        return False
    return True
