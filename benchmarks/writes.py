"""How many bytes an update of one long writes to a store: log, nodes, heads, and merges.

``python -m benchmarks writes [N …] [--plain] [--each K] [--store S]``: databases of N entities with
history; N are 100,000 and a million, if none are given. Updates are uniform over entities
and values, ``each`` of them in a transaction; the attribute is indexed, unless ``--plain``. The
store is ``file``, ``lmdb`` or ``s3``, which is moto on loopback. Counts what the process hands to
the kernel, which Linux alone tells, or the bodies of requests: not what else the machine does.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio

import datahike_async as d
from benchmarks.scale import rss, used
from tests.servers.programs import Servers
from tests.servers.proxy import Proxy
from tests.servers.s3 import config_on

__all__ = ["run"]

UPDATES = 200_000
VALUES = 2**20
BATCH = 1000


def handed() -> int:
    """Return how many bytes this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


@contextmanager
def place(name: str) -> Iterator[tuple[dict[str, Any], Callable[[], int], Callable[[], int]]]:
    """Have an empty store: its configuration, what was handed to it so far, and what lies there."""
    if name != "s3":
        with tempfile.TemporaryDirectory() as folder:
            store = {"backend": name, "path": folder + "/db"}
            yield store, handed, lambda: used(Path(folder))
        return
    servers = Servers()
    try:
        moto = servers.get("moto")
        with Proxy(moto.endpoint) as proxy:
            sent = 0

            def bodies() -> int:
                nonlocal sent
                proxy.settle()
                sent += sum(record.bytes_in for record in proxy.requests)
                proxy.clear()
                return sent

            yield config_on(moto, proxy.url), bodies, lambda: 0
    finally:
        servers.stop()


async def measure(name: str, count: int, each: int, *, indexed: bool) -> None:
    """Load ``count`` entities, update them, and print what that wrote."""
    rng = random.Random(1)
    attribute: dict[str, Any] = {
        ":db/ident": ":u",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/index": indexed,
    }
    with place(name) as (store, written, taken):
        async with d.connect({"store": store}, create=True) as conn:
            await conn.transact([attribute])
            for start in range(0, count, 50_000):
                size = min(50_000, count - start)
                await conn.transact([{":u": rng.randrange(VALUES)} for _ in range(size)])
            entities = [x.e for x in await conn.db().datoms("aevt", ":u")]
            # What loading has left to be merged is not what updates write.
            await d.compact(conn)

            def update() -> list[dict[str, Any]]:
                chosen = rng.sample(entities, each)
                return [{":db/id": e, ":u": rng.randrange(VALUES)} for e in chosen]

            marks = [written()]
            for _ in range(2):
                for _ in range(0, UPDATES // 2, BATCH):
                    await conn.transact_many([update() for _ in range(BATCH // each)])
                marks.append(written())
            runs, waiting = conn.db().snapshot.trees.runs
            disk = taken()
    first, second = ((after - before) * 2 / UPDATES for before, after in pairwise(marks))
    print(
        f"{name} {count:>10,} entities, {each} a transaction: {(first + second) / 2:.0f} bytes "
        f"an update (first half {first:.0f}, second {second:.0f}); "
        f"{runs} runs of {waiting:,} rows; "
        f"{disk / 1e6:.0f} MB on disk, peak {rss():.0f} MB",
        flush=True,
    )


def run(*words: str) -> int:
    """Measure for each number of entities that is given."""
    rest, options = list(words), {"--each": "1", "--store": "file"}
    for option in options:
        if option in rest:
            at = rest.index(option)
            options[option] = rest[at + 1]
            del rest[at : at + 2]
    counts = [int(word) for word in rest if not word.startswith("-")]
    for count in counts or [100_000, 1_000_000]:
        name, each = options["--store"], int(options["--each"])
        anyio.run(partial(measure, name, count, each, indexed="--plain" not in rest))
    return 0
