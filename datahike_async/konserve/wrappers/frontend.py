"""Opening and removing the store that is a frontend, and never one that is somebody's data.

A frontend is emptied without asking, so it carries a mark. A store that holds anything and has no
mark is refused.
"""

from __future__ import annotations

import os
from typing import Final

from datahike_async.konserve.backends.folders import is_path
from datahike_async.konserve.base import listing
from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.errors import StoreConfigError, StoreNotFound
from datahike_async.konserve.loops import surely
from datahike_async.konserve.threads import in_thread
from datahike_async.konserve.wrappers.nested import Nested

__all__ = ["check_frontend", "open_frontend", "refuse_same", "remove_frontend"]

_MARK: Final = b"konserve frontend".hex()


async def refuse_same(front: Nested, back: Nested) -> None:
    """Raise StoreConfigError where both are one store."""
    mine, theirs = front.config, back.config
    given = [c["path"] for c in (mine, theirs) if is_path(c.get("path"))]
    paths = await in_thread(lambda: [os.path.realpath(path) for path in given])
    if mine == theirs or (len(paths) == 2 and paths[0] == paths[1]):
        raise StoreConfigError(
            "frontend-config and backend-config name the same store; a frontend is a cache and "
            "needs a place of its own."
        )


async def _refuse_data(blobs: BlobStore, front: Nested) -> None:
    if await blobs.read(_MARK) is not None:
        return
    async with listing(blobs.names()) as pages:
        async for page in pages:
            if page:
                raise StoreConfigError(
                    f"The {front.config['backend']} store that frontend-config names holds data "
                    "and is no frontend. A frontend is a cache, and emptied at will: give it a "
                    "place of its own.",
                    error=":frontend-holds-data",
                )


async def open_frontend(front: Nested) -> BlobStore:
    """Open a frontend; make it where it is missing. Raises StoreConfigError where it holds data."""
    try:
        blobs = await front.connect()
    except StoreNotFound:
        blobs = await front.create()
    try:
        await _refuse_data(blobs, front)
        await blobs.write(_MARK, b"1")
    except BaseException:
        await surely(blobs.close)
        raise
    return blobs


async def check_frontend(front: Nested) -> bool:
    """Say whether a frontend is there. Raises StoreConfigError where it holds data."""
    try:
        blobs = await front.connect()
    except StoreNotFound:
        return False
    try:
        await _refuse_data(blobs, front)
    finally:
        await surely(blobs.close)
    return True


async def remove_frontend(front: Nested) -> None:
    """Remove a frontend, if it is there. Raises StoreConfigError where it holds data."""
    if await check_frontend(front):
        await front.delete()
