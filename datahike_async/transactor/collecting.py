"""Collecting: the collection of garbage that runs by itself beside the writer of a branch.

Of several connections and processes that do so one collects at a time: the registry says when the
last one began.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final

from datahike_async.config.collecting import GcConfig, Retention, retention
from datahike_async.events import COLLECT_FAILED, COLLECTED
from datahike_async.konserve.loops import Every
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.collecting import Collected, Collection
from datahike_async.transactor.failures import as_ours
from datahike_async.transactor.transactor import Transactor

__all__ = ["collect", "collect_in_turn", "collecting"]

_EARLY: Final = 0.9


async def collect(
    transactor: Transactor, retain: Retention | None, *, dry_run: bool = False
) -> Collected:
    """Collect the garbage of the store of a branch. Without ``retain`` what is usual is kept."""
    keep = retain or retention(None, keep_history=transactor.config.keep_history)
    run = Collection(
        transactor.branch.store,
        transactor.branch.source,
        transactor.branch.factory,
        keep,
        transactor.branch.env,
        transactor.branch.opened.watch,
        dry_run=dry_run,
    )
    done = await run.run()
    if not dry_run:
        COLLECTED(epoch=done.epoch, freed=done.freed, bytes=done.bytes, kept=done.kept)
    return done


def collecting(transactor: Transactor, gc: GcConfig) -> Every:
    """Start a task that collects every so many seconds, until it is stopped."""
    call = partial(collect_in_turn, transactor, gc)
    return Every(gc.every, call, f"the collection beside :{transactor.config.branch}")


async def collect_in_turn(transactor: Transactor, gc: GcConfig) -> bool:
    """Collect unless somebody has a moment ago; what goes wrong is told. True: go on."""
    try:
        last = (await read_registry(transactor.branch.store)).collected
        wait = timedelta(seconds=gc.every * _EARLY)
        if last is None or abs(transactor.branch.env.now() - last) >= wait:
            await transactor.branch.probe.check()
            await collect(transactor, gc.retain)
    except Exception as error:
        COLLECT_FAILED(branch=transactor.config.branch, error=as_ours(error))
    return True
