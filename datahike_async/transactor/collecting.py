"""Collecting: the collection of garbage that runs by itself beside the writer of a branch.

Of several connections and processes that do so one collects at a time: the registry says when the
last one began.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from weakref import WeakKeyDictionary

import anyio

from datahike_async.config.collecting import GcConfig, Retention, retention
from datahike_async.events import COLLECT_FAILED, COLLECTED
from datahike_async.konserve.loops import start
from datahike_async.storage.branches.pins import Watch
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.collecting import Collected, Collection
from datahike_async.transactor.failures import as_ours
from datahike_async.transactor.transactor import Transactor

__all__ = ["Collecting", "collect"]

_EARLY: Final = 0.9

_watches: WeakKeyDictionary[Transactor, Watch] = WeakKeyDictionary()
"""What the collections of each writer have seen of pins."""


async def collect(
    transactor: Transactor, retain: Retention | None, *, dry_run: bool = False
) -> Collected:
    """Collect the garbage of the store of a branch. Without ``retain`` what is usual is kept."""
    keep = retain or retention(None, keep_history=transactor.config.keep_history)
    run = Collection(
        transactor.store,
        transactor.source,
        transactor.factory,
        keep,
        transactor.env,
        _watches.setdefault(transactor, Watch()),
        dry_run=dry_run,
    )
    done = await run.run()
    if not dry_run:
        COLLECTED(epoch=done.epoch, freed=done.freed, bytes=done.bytes, kept=done.kept)
    return done


class Collecting:
    """A task that collects every so many seconds, until it is stopped."""

    def __init__(self, transactor: Transactor, gc: GcConfig) -> None:
        self._transactor = transactor
        self._gc = gc
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    def begin(self) -> None:
        """Start the task."""
        name = self._transactor.config.branch
        start(self._run, f"the collection beside :{name}", unbegun=self._ended.set)

    async def stop(self) -> None:
        """End it, also in the midst of a collection."""
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                while True:
                    await anyio.sleep(self._gc.every)
                    await self._once()
        finally:
            self._ended.set()

    async def _once(self) -> None:
        transactor = self._transactor
        try:
            last = (await read_registry(transactor.store)).collected
            wait = timedelta(seconds=self._gc.every * _EARLY)
            if last is not None and abs(transactor.env.now() - last) < wait:
                return
            await transactor.probe.check()
            await collect(transactor, self._gc.retain)
        except Exception as error:
            COLLECT_FAILED(branch=transactor.config.branch, error=as_ours(error))
