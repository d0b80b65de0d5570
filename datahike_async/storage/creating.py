"""Creating a database, of several who begin at once by one; the others wait for it.

A database is there once the head of its branch is, which is published by compare-and-set: whatever
else is in its store, nobody takes that for a database. Until then the store says by whom it is
being created, under the key ``creating``: a *claim*, with the id of the store and its owner.
Whoever finds the claim of somebody who is no longer at it takes it over, by compare-and-set too. It
does no harm to judge wrongly: of two who create one database the head has one winner.

A store that holds anything, and neither a claim nor a database, is somebody's data and refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any, Final
from uuid import UUID

import anyio

from datahike_async.config import Config
from datahike_async.edn import read_all
from datahike_async.env import Env
from datahike_async.errors import ConfigError, DatabaseExists, shown
from datahike_async.events import CREATED
from datahike_async.konserve import opening as stores
from datahike_async.konserve.base import listing
from datahike_async.konserve.blob import ABSENT, Expected, Revision
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreExists,
    StoreNotFound,
)
from datahike_async.konserve.loops import surely
from datahike_async.konserve.redaction import public
from datahike_async.konserve.store import Store
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.create import first_head, write_first_head
from datahike_async.storage.branches.read import is_live, read_head
from datahike_async.storage.keys import CREATING, OURS
from datahike_async.storage.probe import Probe
from datahike_async.storage.translate import konserve_errors
from datahike_async.tx.apply import Applied

__all__ = ["create", "has_lapsed", "holds_other_data", "make_store", "probe_of", "store_exists"]

_LOOKED_AT: Final = 16
_ATTEMPTS: Final = 20
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
_PATIENCE: Final = 30.0
"""Seconds after which a claim that nobody renews lapses though its owner is alive."""
_PATIENCE_AFAR: Final = 5.0
"""The same for an owner on another machine, of whom nobody here can say."""

_at_it: Final[set[UUID]] = set()
"""The owners of this process: who was cancelled is at it no more, whatever its claim says."""


async def create(config: Config, env: Env) -> Config:
    """Create a database, run ``:initial-tx``, and return the completed config.

    Waits for others who are creating it. Raises DatabaseExists ``:db-already-exists``, ConfigError,
    TransactionError, StorageError.
    """
    if config.read_only:
        raise ConfigError(
            "A database cannot be created with read_only=True; leave it out.", key=":read-only?"
        )
    initial = await _initial_tx(config.initial_tx)
    # What is wrong with the input shows before a store is made.
    made = await first_head(config, initial, env)
    with konserve_errors():
        store, fresh = await make_store(config, env)
        try:
            store_id = store.id or await _identity(store, config) or env.new_uuid()
            if store.capabilities.remote:
                made = await first_head(config, initial, env, remote=True)
            try:
                if not store.capabilities.compares:
                    await probe_of(store, store_id, config, env).check()
                    await write_first_head(store, store_id, config, *made, env)
                else:
                    await _Claim(store, store_id, config, env).keep(made, fresh)
            except RevisionMismatch:
                raise _exists(config) from None
        finally:
            await surely(partial(stores.release_store, store))
    completed = config.in_store({**config.store, "id": store_id})
    CREATED(branch=completed.branch, store=public(completed.store))
    return completed


def probe_of(store: Store, store_id: UUID, config: Config, env: Env) -> Probe:
    """Return what finds out whether the store of a config can be trusted."""
    return Probe(store, store_id, config.store["backend"], env, trust=config.writer.trusting)


async def store_exists(config: Config) -> bool:
    """Say whether there is a store at a config. Raises konserve's errors."""
    if config.store["backend"] == "memory" and config.store.get("id") is None:
        return False
    return await stores.store_exists(config.opening())


async def make_store(config: Config, env: Env) -> tuple[Store, bool]:
    """Return the store, and whether it was made here: others may make or delete it meanwhile.

    Raises konserve's errors.
    """
    plain = {key: value for key, value in config.store.items() if value is not None}
    for attempt in range(_ATTEMPTS):
        try:
            if await store_exists(config):
                return await stores.connect_store(plain), False
            return await stores.create_store({"id": env.new_uuid(), **plain}), True
        except (StoreExists, StoreNotFound):
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _identity(store: Store, config: Config) -> UUID | None:
    head, _ = await read_head(store, config.branch)
    return None if head is None else head.base.store


class _Claim:
    """The right to write the first head of a branch."""

    def __init__(self, store: Store, store_id: UUID, config: Config, env: Env) -> None:
        self._store = store
        self._id = store_id
        self._config = config
        self._env = env
        self._owner = env.new_uuid()
        self._mine = {
            "id": store_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "owner": self._owner,
        }

    async def keep(self, made: tuple[Snapshot, Applied | None], fresh: bool) -> None:
        """Take the claim, write the head, and let go of the claim.

        Raises DatabaseExists, or RevisionMismatch, where others were faster; ConfigError where the
        store holds other data; FencingUnsupported; konserve's errors.
        """
        _at_it.add(self._owner)
        try:
            store = self._store
            expected = ABSENT if fresh else await self._awaited()
            await probe_of(store, self._id, self._config, self._env).check()
            claim = await self._taken(expected)
            try:
                await write_first_head(store, self._id, self._config, *made, self._env)
            except BaseException as error:
                with anyio.move_on_after(_PATIENCE_AFAR, shield=True):
                    if isinstance(error, RevisionMismatch):
                        # Somebody's head is there; who creates another branch must not wait for us.
                        await _removed(store, claim)
                    else:
                        await self._given_up(claim)
                raise
            await _removed(store, claim)
        finally:
            _at_it.discard(self._owner)

    async def _taken(self, expected: Expected) -> Revision:
        while True:
            try:
                return await self._store.assoc(CREATING, self._mine, expected_revision=expected)
            except (RevisionMismatch, OutcomeUnknown):
                found, revision = await self._found()
                if found is not None and found.get("owner") == self._owner:
                    return str(revision)
                expected = await self._awaited()

    async def _found(self) -> tuple[dict[str, Any] | None, Any]:
        found, revision = await self._store.get(CREATING, with_revision=True)
        if found is not None and not isinstance(found, dict):
            raise _occupied(self._config)
        return found, revision

    async def _awaited(self) -> Expected:
        """Return the revision over which the claim may be taken, once it may.

        Raises DatabaseExists where its owner has come to the end.
        """
        pause, seen, since = _FIRST_PAUSE, None, 0.0
        while True:
            found, revision = await self._found()
            if is_live((await read_head(self._store, self._config.branch))[0]):
                raise _exists(self._config)
            if found is not None and found.get("copy") is not None:
                raise ConfigError(
                    f"The store at {shown(self._config)} holds a copy of a database that was begun "
                    "and not finished. Finish it by the same backup or restore, or remove it with "
                    "delete_database.",
                    error=":backup/incomplete",
                )
            if found is None:
                if await holds_other_data(self._store):
                    raise _occupied(self._config)
                return ABSENT
            now = anyio.current_time()
            if revision != seen:
                seen, since = revision, now
            if now - since >= _patience(found):
                return seen or ABSENT
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _given_up(self, claim: Revision) -> None:
        """Say that nobody is at it any more."""
        try:
            gone = {**self._mine, "owner": None}
            await self._store.assoc(CREATING, gone, expected_revision=claim)
        except KonserveError:
            return  # then it lapses


async def holds_other_data(store: Store) -> bool:
    """Say whether a store is neither empty nor that of a database, or of what was to be one."""
    names: list[str] = []
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            names += islice(page, _LOOKED_AT - len(names))
            if len(names) >= _LOOKED_AT:
                break
    if not names:
        return False
    found = await store.blobs.read_many(names)
    keys = [
        store.encoding.meta(store.encoding.open(name, blob.data)).get("key")
        for name, blob in found.items()
    ]
    ours = [k for k in keys if isinstance(k, str) and (k == CREATING or k.startswith(OURS))]
    return bool(keys) and not ours


async def _removed(store: Store, claim: Revision) -> None:
    try:
        await store.dissoc(CREATING, expected_revision=claim)
    except KonserveError:
        return  # Beside a head nobody looks at it.


def has_lapsed(claim: Mapping[str, Any]) -> bool:
    """Say whether nobody is creating the database any more that a claim speaks of."""
    return _patience(claim) == 0


def _patience(claim: Mapping[str, Any]) -> float:
    """Return how many seconds a claim is waited for that does not change."""
    if claim.get("owner") is None:
        return 0.0
    if claim.get("host") != socket.gethostname():
        return _PATIENCE_AFAR
    if claim.get("pid") == os.getpid():
        return _PATIENCE if claim["owner"] in _at_it else 0.0
    if os.name == "nt":
        # There that call is no question: it interrupts the process.
        return _PATIENCE_AFAR
    try:
        os.kill(int(claim["pid"]), 0)
    except ProcessLookupError:
        return 0.0
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return _PATIENCE_AFAR
    return _PATIENCE


def _exists(config: Config) -> DatabaseExists:
    return DatabaseExists(
        f"Database already exists: branch :{config.branch} at {shown(config)}. Connect to it, or "
        "delete it first.",
        error=":db-already-exists",
        branch=config.branch,
    )


def _occupied(config: Config) -> ConfigError:
    return ConfigError(
        f"The store at {shown(config)} holds other data and no database. Give the database a store "
        "of its own.",
        error=":config/invalid",
    )


async def _initial_tx(initial: Any) -> Any:
    if initial is None or not isinstance(initial, str):
        return initial
    text = initial
    if not initial.lstrip().startswith(("[", "{", "(")):
        try:
            text = await anyio.Path(initial).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            # A ValueError: the name is none, or the file is not in UTF-8.
            raise ConfigError(
                f":initial-tx names the file {shown(initial)}, which cannot be read: {error}",
                key=":initial-tx",
            ) from error
    forms = read_all(text)
    return forms[0] if len(forms) == 1 else forms
