"""Databases as a whole: creating them, finding out whether they are there, deleting them."""

from __future__ import annotations

from functools import partial
from typing import Any

from datahike_async.config import Config
from datahike_async.env import SYSTEM, Env
from datahike_async.errors import ConfigError, ConnectionClosed, DatabaseNotFound
from datahike_async.events import DELETED
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import StoreNotFound
from datahike_async.konserve.loops import surely
from datahike_async.konserve.redaction import public
from datahike_async.storage import creating
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.translate import konserve_errors
from datahike_async.transactor.sharing import forget

__all__ = ["create_database", "database_exists", "delete_database"]


async def create_database(config: Any = None, *, env: Env = SYSTEM, **options: Any) -> Config:
    """Create a database, run ``:initial-tx``, and return the completed config.

    Of several who create it at once one wins; the others wait for it and raise DatabaseExists
    ``:db-already-exists`` (``connect`` with ``create=True`` opens it instead). Nothing stays behind
    where the initial transaction is refused; what a process leaves that ends half way is no
    database, and the next creation takes it over. Raises ConfigError, TransactionError,
    StorageError.
    """
    return await creating.create(Config.of(config, **options), env)


async def database_exists(config: Any = None, **options: Any) -> bool:
    """Say whether there is a database at a config."""
    config = Config.of(config, **options)
    with konserve_errors():
        if not await creating.store_exists(config):
            return False
        try:
            store = await stores.connect_store(config.opening())
        except StoreNotFound:
            return False
        try:
            return await read_branch(store, config.branch, None) is not None
        except DatabaseNotFound:
            return False  # the branch was deleted
        finally:
            await surely(partial(stores.release_store, store))


async def delete_database(config: Any = None, **options: Any) -> None:
    """Delete a database with all its branches; one that is not there is ignored.

    Only what is its own is removed: other files in its folder, or objects under its prefix, stay.
    Connections of this event loop to it fail from then on. Raises ConfigError
    ``:store-identity-mismatch`` where another store lies there than the config names.
    """
    config = Config.of(config, **options)
    store_config = dict(config.store)
    if config.read_only:
        raise ConfigError(
            "A database cannot be deleted with read_only=True; leave it out.", key=":read-only?"
        )
    with konserve_errors():
        if not await creating.store_exists(config):
            return
        if store_config.get("id") is not None:
            await _refuse_other(store_config)
        gone = ConnectionClosed("The database was deleted.", error=":connection-has-been-released")
        transactors = forget(await stores.store_place(store_config))
        for transactor in transactors:
            transactor.shut(gone)
        for transactor in transactors:
            # What came to its end after the deletion would be in the way of the next database.
            await transactor.still()
        await stores.delete_store(store_config)
    DELETED(store=public(store_config))


async def _refuse_other(store_config: dict[str, Any]) -> None:
    """Raise what connecting raises where the store has another id; nothing where it is gone."""
    try:
        store = await stores.connect_store(store_config)
    except StoreNotFound:
        return
    await surely(partial(stores.release_store, store))
