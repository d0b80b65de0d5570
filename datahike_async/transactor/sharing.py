"""One transactor for all connections of an event loop to one branch.

Each connection brings a runner, a task of its own; the runner whose turn it is runs the actor.
When its connection closes, the next one takes over. The last one drains the mailbox, closes the
transactor and releases the store. Runners are shielded: cancelling the task that holds a
connection ends the connection, never a commit half way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

import anyio
from anyio.lowlevel import RunVar

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import ConfigError
from datahike_async.index.registry import index_factory
from datahike_async.konserve.store import Store, connect_store, release_store
from datahike_async.storage.create import NODE_BYTES
from datahike_async.storage.node_store import NodeStore
from datahike_async.storage.open import missing_branch, read_branch
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.transactor import Limits, Transactor, Wrap

__all__ = ["Member", "forget", "join"]

_log = logging.getLogger("datahike_async.transactor")

_Key = tuple[UUID, str]


class _Shared:
    """A transactor and those who use it; the first member's runner is running."""

    def __init__(self, key: _Key, transactor: Transactor) -> None:
        self.key = key
        self.transactor = transactor
        self.members: list[Member] = []


class _Registry:
    """The transactors of one event loop. ``lock`` guards opening and closing."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.live: dict[_Key, _Shared] = {}


_registries: RunVar[_Registry] = RunVar("datahike_async.transactors")


def _registry() -> _Registry:
    try:
        return _registries.get()
    except LookupError:
        made = _Registry()
        _registries.set(made)
        return made


class Member:
    """One connection's share in a transactor. Start ``run`` in a task, end it with ``leave``."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._turn = anyio.Event()
        self._done = anyio.Event()
        self._leaving = False
        shared.members.append(self)
        if len(shared.members) == 1:
            self._turn.set()

    @property
    def transactor(self) -> Transactor:
        """The transactor."""
        return self._shared.transactor

    async def run(self) -> None:
        """Wait for the turn of this member, and be the actor until it leaves."""
        shared = self._shared
        try:
            with anyio.CancelScope(shield=True):
                await self._turn.wait()
                if shared.members[0] is self:
                    await shared.transactor.run(
                        lambda: self._leaving, lambda: len(shared.members) == 1
                    )
        finally:
            first = shared.members[0] is self
            shared.members.remove(self)
            if first and shared.members:
                shared.members[0]._turn.set()
            self._done.set()

    async def leave(self) -> None:
        """Hand over to another member; as the last one, close the transactor and its store.

        What was sent is still committed. Raises nothing.
        """
        with anyio.CancelScope(shield=True):
            async with _registry().lock:
                await self._stop()
                if not self._shared.members:
                    await _close(self._shared)

    async def _stop(self) -> None:
        self._leaving = True
        self._turn.set()
        self.transactor.mailbox.wake()
        await self._done.wait()


async def join(
    config: Config, env: Env, wrap: Callable[[Transactor], Wrap], limits: Limits | None = None
) -> Member:
    """Return a share in the transactor of a branch; it is opened where nobody has it open.

    Raises DatabaseNotFound, ConfigError, CorruptData, UnsupportedFormat, StorageError.
    """
    if config.store["backend"] == "memory" and config.store.get("id") is None:
        raise ConfigError(
            "A :memory store is found by its :id; use the config that create_database returned.",
            error=":missing-id",
        )
    registry = _registry()
    async with registry.lock:
        for shared in registry.live.values():
            if _same_place(shared, config):
                return _member(shared, config)
        with konserve_errors():
            # The head has to be there: reading it tells whether the store is.
            store = await connect_store(dict(config.store), verify=False)
        try:
            made = await _open(registry, store, config, env, wrap, limits)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _release(store)
            raise
        if made.transactor.store is not store:
            with anyio.CancelScope(shield=True):
                await _release(store)
            return _member(made, config)
        return Member(made)


def _same_place(shared: _Shared, config: Config) -> bool:
    existing = shared.transactor
    return (
        existing.fatal is None
        and existing.config.branch == config.branch
        and dict(existing.config.store) == {**config.store, "id": existing.store_id}
        and config.store.get("id") in (None, existing.store_id)
    )


def _member(shared: _Shared, config: Config) -> Member:
    config.check_same(shared.transactor.config)
    return Member(shared)


async def _open(
    registry: _Registry,
    store: Store,
    config: Config,
    env: Env,
    wrap: Callable[[Transactor], Wrap],
    limits: Limits | None,
) -> _Shared:
    with konserve_errors():
        state = await read_branch(store, config.branch, config.store.get("id"))
        if state is None:
            await release_store(await connect_store(dict(config.store)))
            raise missing_branch(config.branch)
        base = state.head.base
        key = (base.store, config.branch)
        live = registry.live.get(key)
        if live is not None and live.transactor.fatal is None:
            return live
        adopted = config.adopting(base.config)
        adopted = adopted.in_store({**config.store, "id": base.store})
        factory = index_factory(adopted.index)
        source = NodeStore(store, factory.decode, adopted.store_cache_size * NODE_BYTES)
        transactor = await Transactor.open(store, state, adopted, source, env, wrap, limits)
    shared = _Shared(key, transactor)
    registry.live[key] = shared
    return shared


async def _close(shared: _Shared) -> None:
    registry = _registry()
    if registry.live.get(shared.key) is shared:
        del registry.live[shared.key]
    try:
        await shared.transactor.close()
    except Exception:
        # All that was acknowledged is durable; the flush only speeds up the next open.
        _log.exception("closing :%s", shared.key[1])
    await _release(shared.transactor.store)


async def _release(store: Store) -> None:
    try:
        await release_store(store)
    except Exception:
        _log.exception("releasing a store")


def forget(store_id: UUID) -> list[Transactor]:
    """Take the transactors of a store that is to be deleted out of the registry."""
    registry = _registry()
    gone = [key for key in registry.live if key[0] == store_id]
    return [registry.live.pop(key).transactor for key in gone]
