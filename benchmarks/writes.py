"""How many bytes an update of one long writes to a file store: log, nodes, heads, and merges.

``python -m benchmarks writes [N …] [--plain] [--each K]``: databases of N entities with history; N
are 100,000 and a million, if none are given. Updates are uniform over entities and values, ``each``
of them in a transaction; the attribute is indexed, unless ``--plain``. Counts what the process
hands to the kernel, so other work on the machine does not matter. Linux alone tells that.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio

import datahike_async as d
from benchmarks.scale import rss, used

__all__ = ["run"]

UPDATES = 200_000
VALUES = 2**20
BATCH = 1000


def handed() -> int:
    """Return how many bytes this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


async def measure(count: int, each: int, *, indexed: bool) -> None:
    """Load ``count`` entities, update them, and print what that wrote."""
    rng = random.Random(1)
    attribute: dict[str, Any] = {
        ":db/ident": ":u",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/index": indexed,
    }
    with tempfile.TemporaryDirectory() as folder:
        store = {"backend": "file", "path": folder + "/db"}
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

            marks = [handed()]
            for _ in range(2):
                for _ in range(0, UPDATES // 2, BATCH):
                    await conn.transact_many([update() for _ in range(BATCH // each)])
                marks.append(handed())
            runs, waiting = conn.db().snapshot.trees.runs
            disk = used(Path(folder))
    first, second = ((after - before) * 2 / UPDATES for before, after in pairwise(marks))
    print(
        f"{count:>10,} entities, {each} a transaction: {(first + second) / 2:.0f} bytes an update "
        f"(first half {first:.0f}, second {second:.0f}); {runs} runs of {waiting:,} rows; "
        f"{disk / 1e6:.0f} MB on disk, peak {rss():.0f} MB",
        flush=True,
    )


def run(*words: str) -> int:
    """Measure for each number of entities that is given."""
    each = int(words[words.index("--each") + 1]) if "--each" in words else 1
    skipped = {words.index("--each") + 1} if "--each" in words else set()
    counts = [int(w) for i, w in enumerate(words) if i not in skipped and not w.startswith("-")]
    for count in counts or [100_000, 1_000_000]:
        anyio.run(partial(measure, count, each, indexed="--plain" not in words))
    return 0
