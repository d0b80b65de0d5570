"""Databases as a whole: creating them, finding out whether they are there, deleting them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import anyio

from datahike_async.config import Config
from datahike_async.edn import read_all
from datahike_async.env import SYSTEM, Env
from datahike_async.errors import (
    ConfigError,
    ConnectionClosed,
    DatabaseExists,
    DatahikeError,
    shown,
)
from datahike_async.events import CREATED, DELETED
from datahike_async.konserve import store as stores
from datahike_async.konserve.errors import KonserveError, RevisionMismatch, StoreNotFound
from datahike_async.konserve.redaction import public
from datahike_async.konserve.store import Store
from datahike_async.storage.create import first_head, write_first_head
from datahike_async.storage.open import read_branch
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.sharing import forget

__all__ = ["create_database", "database_exists", "delete_database"]


async def create_database(config: Any = None, *, env: Env = SYSTEM, **options: Any) -> Config:
    """Create a database, run ``:initial-tx``, and return the completed config.

    Nothing stays behind where the initial transaction is refused. Raises DatabaseExists
    ``:db-already-exists``, ConfigError, TransactionError, StorageError.
    """
    wanted = Config.of(config, **options)
    initial = await _initial_tx(wanted.initial_tx)
    # What is wrong with the input shows before a store is made.
    empty, applied = await first_head(wanted, initial, env)
    store_config = dict(wanted.store)
    with konserve_errors():
        made = not await _store_exists(store_config)
        if made:
            store_config["id"] = store_config.get("id") or env.new_uuid()
            store = await stores.create_store(store_config)
        else:
            store = await stores.connect_store(store_config)
        created = False
        try:
            if store.capabilities.remote:
                empty, applied = await first_head(wanted, initial, env, remote=True)
            store_id = store_config.get("id") or await _identity(store, wanted) or env.new_uuid()
            await write_first_head(store, store_id, wanted, empty, applied, env)
            created = True
        except RevisionMismatch:
            raise DatabaseExists(
                f"Database already exists: branch :{wanted.branch} at {shown(wanted)}. Connect "
                "to it, or delete it first.",
                error=":db-already-exists",
                branch=wanted.branch,
            ) from None
        finally:
            with anyio.CancelScope(shield=True):
                # Somebody may have found the store that was made here, and been faster.
                unused = made and not created and not await _may_have_head(store, wanted)
                await stores.release_store(store)
                if unused:
                    await stores.delete_store(store_config)
    completed = wanted.in_store({**store_config, "id": store_id})
    CREATED(branch=completed.branch, store=public(completed.store))
    return completed


async def _store_exists(store_config: dict[str, Any]) -> bool:
    if store_config["backend"] == "memory" and store_config.get("id") is None:
        return False
    return await stores.store_exists(store_config)


async def _may_have_head(store: Store, config: Config) -> bool:
    try:
        return await read_branch(store, config.branch, None) is not None
    except (KonserveError, DatahikeError):
        # Better a store that nobody uses than a database that is gone.
        return True


async def _identity(store: Store, config: Config) -> UUID | None:
    state = await read_branch(store, config.branch, None)
    return None if state is None else state.head.base.store


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


async def database_exists(config: Any = None, **options: Any) -> bool:
    """Say whether there is a database at a config."""
    config = Config.of(config, **options)
    store_config = dict(config.store)
    with konserve_errors():
        if not await _store_exists(store_config):
            return False
        try:
            store = await stores.connect_store(store_config)
        except StoreNotFound:
            return False
        try:
            return await read_branch(store, config.branch, None) is not None
        finally:
            with anyio.CancelScope(shield=True):
                await stores.release_store(store)


async def delete_database(config: Any = None, **options: Any) -> None:
    """Delete a database with all its branches; one that is not there is ignored.

    Connections of this event loop to it fail from then on.
    """
    config = Config.of(config, **options)
    store_config = dict(config.store)
    with konserve_errors():
        if not await _store_exists(store_config):
            return
        gone = ConnectionClosed("The database was deleted.", error=":connection-has-been-released")
        for transactor in forget(await stores.store_place(store_config)):
            transactor.shut(gone)
        await stores.delete_store(store_config)
    DELETED(store=public(store_config))
