"""One transactor for all connections of an event loop to one branch at one place.

It belongs to the event loop: a task of the loop opens it, is the actor, and closes it and its
store once nobody uses it any more, or once the loop ends. Connections are shares in it, which any
task of the loop may take and give back; cancelling such a task ends a share and nothing else.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

import anyio
from anyio.lowlevel import RunVar

from datahike_async.config import Config
from datahike_async.env import Env
from datahike_async.errors import ConfigError
from datahike_async.events import CLOSED, CONNECTED, OPENED, RELEASED
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.loops import Every, Home, abandon_closed, outlast, start
from datahike_async.konserve.opening import connect_store, release_store, store_place
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.branching import is_listed, list_branch
from datahike_async.storage.branches.read import missing_branch, read_branch
from datahike_async.storage.opened import Opened
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.collecting import collecting
from datahike_async.transactor.failures import loop_ended
from datahike_async.transactor.transactor import Limits, Transactor, Wrap

__all__ = ["Member", "Opening", "forget", "join", "sharers"]

_log = logging.getLogger("datahike_async.transactor")


class _Key(NamedTuple):
    """Where a store lies, and a branch in it. A copy lies elsewhere, under the same id.

    Whoever only reads shares nothing with those who write.
    """

    place: Hashable
    branch: str
    read_only: bool


class Opening(NamedTuple):
    """How a transactor is to be opened where nobody has it open."""

    config: Config
    env: Env
    wrap: Callable[[Transactor], Wrap]
    limits: Limits


class _Registry:
    """The transactors of one event loop, held by those who use them and by their own tasks.

    Not by the registry: it lives as long as the loop is known, and must not keep a closed one.
    """

    def __init__(self) -> None:
        self.live: WeakValueDictionary[_Key, _Shared] = WeakValueDictionary()
        self._stores: WeakValueDictionary[tuple[Hashable, bool], Opened] = WeakValueDictionary()

    def store(self, key: _Key) -> Opened:
        """Return what is open of the store at a place, or will be."""
        found = self._stores.get((key.place, key.read_only))
        if found is None or found.closed:
            found = self._stores[key.place, key.read_only] = Opened()
        return found

    def forget_store(self, opened: Opened) -> None:
        """Let nobody join any more in what is open of a store."""
        for key in [key for key, one in self._stores.items() if one is opened]:
            del self._stores[key]

    def forget_stores(self, place: Hashable) -> None:
        """Let nobody join in what is open at a place."""
        for key in [key for key in self._stores if key[0] == place]:
            del self._stores[key]


_registries: RunVar[_Registry] = RunVar("datahike_async.transactors")


def _registry() -> _Registry:
    try:
        return _registries.get()
    except LookupError:
        made = _Registry()
        _registries.set(made)
        return made


class _Shared:
    """A transactor from its opening to its end, and those who use it.

    ``opened`` is set once it can be used or ``error`` is there; ``ended`` once all is closed.
    """

    transactor: Transactor

    def __init__(self, registry: _Registry, key: _Key, opening: Opening) -> None:
        self.key = key
        self.home = Home()
        self.opened = anyio.Event()
        self.ended = anyio.Event()
        self.error: BaseException | None = None
        self.members: set[Member] = set()
        self._registry = registry
        self._opening = opening
        self._scope = anyio.CancelScope()
        self._collecting: Every | None = None
        registry.live[key] = self

    def begin(self) -> None:
        """Start the task, for the first member."""
        start(
            self._live,
            f"the writer of :{self.key.branch}",
            ending=self._loop_ends,
            seconds=self._opening.limits.close_seconds,
            unbegun=self._unbegun,
            abandoned=self._abandoned,
        )

    @property
    def closing(self) -> bool:
        """Whether nobody can join any more."""
        return not self.members

    def fits(self, config: Config) -> bool:
        """Say whether it is the database that a config asks for."""
        return config.store.get("id") in (None, self.transactor.branch.store_id)

    @property
    def is_open(self) -> bool:
        """Whether there is a transactor."""
        return self.opened.is_set() and self.error is None

    def is_of(self, born: UUID) -> bool:
        """Say whether it is that of the branch that a publication began."""
        return self.is_open and self.transactor.branch.line[0].born == born

    # -- its task ------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            if not await self._open():
                return
            await self.transactor.run()
            await self._close()
        finally:
            self._over()

    def _unbegun(self) -> None:
        self.error = loop_ended()
        self._over()

    def _over(self) -> None:
        self._forget()
        self.opened.set()
        self.ended.set()

    async def _open(self) -> bool:
        cancelled = anyio.get_cancelled_exc_class()
        monotonic = self._opening.env.monotonic
        began = monotonic()
        try:
            with self._scope, konserve_errors():
                self.transactor = await _opened(self._opening, self._registry, self.key)
        except cancelled:
            self.error = loop_ended()
        except BaseException as error:
            self.error = error
        if not hasattr(self, "transactor"):
            return False
        if not self.members:
            self.transactor.stop()
        gc = self._opening.config.gc
        if gc is not None and not self.transactor.branch.store.read_only:
            self._collecting = collecting(self.transactor, gc)
        OPENED(**self._described(), seconds=round(monotonic() - began, 6))
        self.opened.set()
        return True

    def _described(self) -> dict[str, Any]:
        transactor = self.transactor
        store = transactor.branch.store.config
        return {"branch": self.key.branch, "store": store, "tx": transactor.snapshot.max_tx}

    def _loop_ends(self) -> None:
        """Be told by a loop whose end does not interrupt its tasks."""
        if self.opened.is_set():
            self.transactor.end()
        else:
            self._scope.cancel()

    async def _close(self) -> None:
        lost = self.transactor.lost
        if lost:
            for member in list(self.members):
                member.complain("its event loop ended")
        with anyio.move_on_after(self._opening.limits.close_seconds if lost else None, shield=True):
            try:
                if self._collecting is not None:
                    await self._collecting.stop()
                await self.transactor.close()
            except Exception:
                # What was acknowledged is durable; the flush only speeds up the next open.
                _log.exception("closing :%s", self.key.branch)
            finally:
                # Also where the loop ends meanwhile.
                await self.transactor.branch.opened.leave()
        CLOSED(**self._described())

    def _abandoned(self) -> None:
        """Be told that the loop was closed, and that no task of it will run again."""
        if self.home.forked:
            return  # all of it is the parent's
        self._forget()
        for member in list(self.members):
            member.complain("its event loop was closed")
        if hasattr(self, "transactor"):
            self.transactor.abandon()

    def _forget(self) -> None:
        if self._registry.live.get(self.key) is self:
            del self._registry.live[self.key]

    # -- its members ---------------------------------------------------------------------------

    def leave(self, member: Member) -> None:
        """Do without a member; the last one ends it."""
        self.members.discard(member)
        if self.members:
            return
        if self.opened.is_set():
            if self.error is None:
                self.transactor.stop()
        else:
            self._scope.cancel()


class Member:
    """One connection's share in a transactor; give it back with ``leave``."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._name = f"connection to :{shared.key.branch}"
        self._complained = False
        self._connected = False
        shared.members.add(self)

    @property
    def transactor(self) -> Transactor:
        """The transactor."""
        return self._shared.transactor

    @property
    def home(self) -> Home:
        """The event loop that it belongs to."""
        return self._shared.home

    @property
    def over(self) -> bool:
        """Whether nothing is open any more."""
        return self._shared.ended.is_set()

    def connected(self) -> None:
        """Tell that a connection was opened."""
        self._connected = True
        CONNECTED(branch=self._shared.key.branch, connections=len(self._shared.members))

    def called(self, name: str) -> None:
        """Say what it is called in warnings."""
        self._name = name

    async def leave(self) -> None:
        """Give the share back once what was sent is committed; the last one closes the store.

        Raises nothing but a cancellation, afterwards.
        """
        shared = self._shared
        try:
            if shared.opened.is_set() and shared.error is None and len(shared.members) > 1:
                await outlast(shared.transactor.settled)
        finally:
            shared.leave(self)
            if self._connected:
                RELEASED(branch=shared.key.branch, connections=len(shared.members))
            if shared.closing:
                await outlast(shared.ended.wait)

    def complain(self, why: str) -> None:
        """Warn that nobody gave the share back, once."""
        if self._complained:
            return
        self._complained = True
        _Complaint(f"unclosed {self._name}: {why}. Await its release(), or use async with.")

    def drop(self) -> None:
        """Give the share back for a connection that nobody holds any more, in any thread."""
        self.complain("nobody holds it any more")
        if not self.home.call_soon(lambda: self._shared.leave(self)):
            abandon_closed()


class _Complaint:
    """A warning in a finalizer, where one that is made an error harms nobody."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        warnings.warn(self._text, ResourceWarning, stacklevel=2)


async def join(opening: Opening) -> Member:
    """Return a share in the transactor of a branch; it is opened where nobody has it open.

    Raises DatabaseNotFound, ConfigError, CorruptData, UnsupportedFormat, StorageError.
    """
    config = opening.config
    if config.store["backend"] == "memory" and config.store.get("id") is None:
        raise ConfigError(
            "A :memory store is found by its :id; use the config that create_database returned.",
            error=":missing-id",
        )
    registry = _registry()
    with konserve_errors():
        key = _Key(await store_place(dict(config.store)), config.branch, config.read_only)
    while True:
        shared = registry.live.get(key)
        mine = shared is None or (shared.opened.is_set() and _is_broken(shared))
        if shared is None or mine:
            if shared is not None and hasattr(shared, "transactor"):
                registry.forget_store(shared.transactor.branch.opened)  # it may be what is broken
            shared = _Shared(registry, key, opening)
        elif shared.closing:
            await shared.ended.wait()
            continue
        member = Member(shared)
        if mine:
            shared.begin()
        try:
            await shared.opened.wait()
            if shared.error is None and shared.fits(config):
                if not mine:
                    config.check_same(shared.transactor.config)
                member.connected()
                return member
            if mine and shared.error is not None:
                raise shared.error
        except BaseException:
            await member.leave()
            raise
        await member.leave()
        if shared.error is None:
            await _replaced(config, shared)


def _is_broken(shared: _Shared) -> bool:
    return shared.error is not None or shared.transactor.fatal is not None


async def _replaced(config: Config, shared: _Shared) -> None:
    """Raise what opening another database than the one that is open raises, if it is not there.

    Where the one that is open was replaced, nobody joins it any more.
    """
    with konserve_errors():
        await _release(await connect_store(config.opening()))
    shared._forget()
    shared._registry.forget_store(shared.transactor.branch.opened)


async def _opened(opening: Opening, registry: _Registry, key: _Key) -> Transactor:
    while True:
        opened = registry.store(key)
        joined = False
        try:
            joined = await opened.share(opening.config.opening())
            try:
                return await _on(opened, opening)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await opened.leave()
                raise
        except (KonserveError, ConfigError) as error:
            if isinstance(error, ConfigError) and error.error != ":store-identity-mismatch":
                raise
            # What is open may be a store that others have deleted, and made anew.
            registry.forget_store(opened)
            if not joined:
                raise


async def _on(opened: Opened, opening: Opening) -> Transactor:
    config, env, wrap, limits = opening
    store = opened.store
    state = await read_branch(store, config.branch, config.store.get("id"))
    if state is None:
        await release_store(await connect_store(config.opening()))
        raise missing_branch(config.branch)
    if not store.read_only and not await is_listed(store, state.head):
        if not await list_branch(store, config.branch, env):
            raise missing_branch(config.branch)
        state = await read_branch(store, config.branch, None) or state
    base = state.head.base
    adopted = config.adopting(base.config)
    adopted = adopted.in_store({**config.store, "id": base.store})
    return await Transactor.open(opened, state, adopted, env, wrap, limits)


async def _release(store: Store) -> None:
    try:
        await release_store(store)
    except Exception:
        _log.exception("releasing a store")


def sharers(opened: Opened) -> list[Transactor]:
    """Return the transactors of this event loop that have a share in what is open of a store."""
    found = [shared.transactor for shared in _registry().live.values() if shared.is_open]
    return [one for one in found if one.branch.opened is opened and one.fatal is None]


def forget(place: Hashable, born: UUID | None = None) -> list[Transactor]:
    """Return the transactors of a store that is deleted, or of the branch of it that was ``born``.

    Nobody joins them any more.
    """
    live = _registry().live
    if born is None:
        _registry().forget_stores(place)
    gone = [
        shared
        for key, shared in live.items()
        if key.place == place and (born is None or shared.is_of(born))
    ]
    for shared in gone:
        shared._forget()
    return [shared.transactor for shared in gone if hasattr(shared, "transactor")]
