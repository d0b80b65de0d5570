"""Cold scans of LMDB: nodes decoded in the map, beside the generic path of values.

Both have the same people, in an environment each. The one is LMDB as it is: its nodes lie there
uncompressed and are decoded inside the read transaction. The other says that it cannot do that: its
nodes are compressed, copied, taken from their envelopes and decoded afterwards, as on any store.
Processor time counts, for the machine may be shared: of all threads, the median of several turns in
which the two alternate.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from datahike_async_lmdb import LmdbBackend, LmdbBlobStore

import datahike_async as d
from benchmarks.data import entities, people, schema
from datahike_async.index.source import Address, read
from datahike_async.konserve.blob import Capabilities
from datahike_async.konserve.registry import register_backend
from datahike_async.storage.nodes.store import NodeStore

PEOPLE: Final = 60_000
TURNS: Final = 7
BAR: Final = 1.5
QUERIES: Final = {
    "sum of longs": "[:find (sum ?s) . :with ?e :where [?e :salary ?s]]",
    "groups of strings": "[:find ?n (count ?e) :where [?e :name ?n]]",
    "all datoms": "[:find (count ?v) . :with ?e ?a :where [?e ?a ?v]]",
}
KINDS: Final = {"lmdb": "in the map", "lmdb-generic": "generic"}


class Generic(LmdbBlobStore):
    """A store whose bytes are copied before anybody looks at them."""

    @property
    def capabilities(self) -> Capabilities:
        """All but reads in place."""
        return replace(super().capabilities, in_place=False)


class GenericBackend(LmdbBackend):
    """LMDB without handlers of its own."""

    store = Generic


def _config(kind: str, folder: str) -> dict[str, Any]:
    return {"store": {"backend": kind, "path": str(Path(folder) / kind)}}


async def _make(config: Mapping[str, Any]) -> None:
    attributes = [{":db/ident": name, **rest} for name, rest in schema(uid=True).items()]
    rows = entities(people(PEOPLE), uid=True)
    async with d.connect(config, create=True) as conn:
        await conn.transact(attributes)
        for start in range(0, len(rows), 5_000):
            await conn.transact(rows[start : start + 5_000])
        await d.compact(conn)


def _addresses(index: Any) -> list[Address]:
    return list(index.addresses())


async def _leaves(conn: d.Connection) -> dict[str, tuple[NodeStore, list[Address]]]:
    """Return of each order where its nodes come from, and where its leaves lie."""
    out = {}
    trees = conn.db().snapshot.trees
    for order, index in trees.side(past=False).items():
        source = index.base._source
        below = await read(_addresses, index)
        with source.pinned() as pin:
            await source.fetch(below, pin)
            leaves = [a for a in below if not trees.factory.below(source.get(a))]
        out[order.name] = source, leaves
    return out


async def _cpu(call: Callable[[], Awaitable[Any]]) -> float:
    start = time.process_time()
    await call()
    return (time.process_time() - start) * 1e3


async def _measure(folder: str) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(TURNS):
        for kind, name in KINDS.items():
            for text, query in QUERIES.items():
                # Opened anew each time: nothing is in memory.
                async with d.connect(_config(kind, folder)) as conn:
                    ms = await _cpu(partial(d.q, query, conn.db()))
                found.setdefault(f"query, {text}", {}).setdefault(name, []).append(ms)
            async with d.connect(_config(kind, folder)) as conn:
                for order, (source, leaves) in (await _leaves(conn)).items():
                    source.cache.clear()
                    ms = await _cpu(partial(source.fetch, leaves))
                    text = f"leaves of {order} ({len(leaves)})"
                    found.setdefault(text, {}).setdefault(name, []).append(ms)
    return found


def _ratio(sides: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    own, generic = (statistics.median(sides[name]) for name in KINDS.values())
    return own, generic, generic / own


def run() -> int:
    """Print processor milliseconds of each scan, and return 1 where the bar is missed."""
    register_backend("lmdb-generic", GenericBackend())
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            anyio.run(_make, _config(kind, folder))
            size = (Path(folder) / kind / "data.mdb").stat().st_size
            print(f"{KINDS[kind]}: {size / 1e6:.1f} MB")
        found = anyio.run(_measure, folder)
    total = [0.0, 0.0]
    for text, sides in found.items():
        own, generic, ratio = _ratio(sides)
        print(f"{text}: {own:.1f} ms, generic {generic:.1f} ms: {ratio:.2f} times")
        if text.startswith("leaves"):
            total[0] += own
            total[1] += generic
    ratio = total[1] / total[0]
    print(f"all leaves: {ratio:.2f} times; bar {BAR}: " + ("met." if ratio >= BAR else "missed."))
    return 0 if ratio >= BAR else 1
