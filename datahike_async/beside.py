"""Transactions beside the event loop: long ones are read, applied and merged in worker threads.

Small ones stay on the loop, for a thread costs more than they do. Knows transactions and the event
loop, and neither storage nor who sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from datahike_async.collector import set_aside
from datahike_async.edn.reader import read
from datahike_async.edn.types import Char
from datahike_async.hosting import on_loop, run_in_thread
from datahike_async.konserve.threads import in_thread
from datahike_async.pausing import pause
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.tx.apply import ABSORB_AT, Applied, absorbed
from datahike_async.tx.forms import LARGE, is_large, reaches_far, replace_items

__all__ = ["FAR", "HUGE", "LONG_TEXT", "apply_beside", "read_input"]

LONG_TEXT: Final = 16 * 1024
"""Characters from which the text of a transaction is read in a worker thread."""

HUGE: Final = 8 * LARGE
"""Facts from which what lives is spared by the garbage collector while they are applied."""

FAR: Final = 1 << 16
"""Datoms of a state from which what may touch many of them is done in a worker thread."""

_BETWEEN: Final = 64


async def read_input(tx_data: Any) -> Any:
    """Return transaction data with text read and iterators gone through; else as it is."""
    if type(tx_data) in (list, tuple):
        return tx_data
    if isinstance(tx_data, str) and not isinstance(tx_data, Char) and len(tx_data) > LONG_TEXT:
        with set_aside():
            return await in_thread(read, tx_data)
    if isinstance(tx_data, Mapping):
        return await replace_items(tx_data, read_input)
    if isinstance(tx_data, (str, bytes, list, tuple)) or not isinstance(tx_data, Iterable):
        return tx_data
    if hasattr(tx_data, "__len__"):
        return tx_data
    items = []
    for item in tx_data:
        items.append(item)
        if not len(items) % _BETWEEN:
            await pause()
    return items


async def _in_thread(items: Any, apply: Callable[..., Coroutine[Any, Any, Applied]]) -> Applied:
    async def run() -> Applied:
        with set_aside() if is_large(items, HUGE) else nullcontext():
            return await apply(await_on=on_loop)

    return await run_in_thread(run)


async def apply_beside(
    state: Snapshot,
    items: Any,
    apply: Callable[..., Coroutine[Any, Any, Applied]],
    *,
    absorb: bool = False,
) -> Applied:
    """Call ``apply(**options)``, for items on a state, where it holds up nobody.

    In a worker thread it is given ``await_on``: what it has to await, because a transaction
    function is a coroutine, runs on the event loop. With ``absorb`` a large memtable is merged into
    the trees.
    """

    long = is_large(items) or (len(state.trees) + state.n >= FAR and reaches_far(items))
    applied = await (_in_thread(items, apply) if long else apply())
    if absorb and applied.after.n > ABSORB_AT:
        applied.after = await run_in_thread(lambda: absorbed(applied.after))
    return applied
