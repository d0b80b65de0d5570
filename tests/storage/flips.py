"""Flip bytes of a small database, one at a time, and see whether verify notices each.

    python tests/storage/flips.py [--every] [--loop trio] [--fault no-room]

Goes over all files of the file layout, free room of logs included, and over all blobs of a memory
store through konserve. Without --every about a tenth of the bytes; each is inverted, or one bit of
it is. Prints what was flipped and what nobody noticed, and exits with 0 where that is
nothing. With a fault planted, which makes verify blind in one place, it must exit with 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import anyio

import datahike_async as d
from datahike_async.errors import DatahikeError
from datahike_async.konserve import opening as stores
from datahike_async.konserve.backends import file_check, file_journal
from datahike_async.konserve.blob import UNCHANGED
from datahike_async.storage import verify as verifying
from datahike_async.transactor.limits import Limits

__all__ = ["FAULTS", "flip_blobs", "flip_files", "made"]

LIMITS = Limits(flush_rows=25, close_rows=10**9)
ROOM = 2048
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/string :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :k :db/valueType :db.type/long :db/cardinality :db.cardinality/many}]
"""


@contextmanager
def _blind(target: object, name: str, instead: Any) -> Iterator[None]:
    with mock.patch.object(target, name, instead):
        yield


FAULTS: dict[str, Callable[[], Any]] = {
    "no-room": lambda: _blind(file_check, "_log", lambda *_: []),
    "no-marks": lambda: _blind(file_check, "_mark", lambda *_: []),
    "no-locks": lambda: _blind(file_check, "_lock", lambda *_: []),
    "no-marker": lambda: _blind(file_check, "_marker", lambda *_: []),
    "no-blobs": lambda: _blind(verifying._Look, "_look_at", lambda *_: None),
}
"""Ways in which verify overlooks something."""


async def made(config: dict[str, Any]) -> None:
    """Make a database with two branches, checkpoints, segments, a journal and an orphan."""
    async with d.connect(config, create=True, limits=LIMITS) as conn:
        await conn.transact(SCHEMA)
        for i in range(12):
            await conn.transact(
                [
                    {":n": f"name {i}", ":k": [i, i + 1]},
                    [":db/retractEntity", i + 1 if i > 2 else 99],
                ]
            )
            await anyio.sleep(0.005)
        await d.branch(conn, ":db", ":trial")
        async with d.connect(config, branch=":trial", limits=LIMITS) as trial:
            await trial.transact([{":n": "elsewhere"}])
    # By whom nothing is flushed: this one lies in a journal, where there are any.
    async with d.connect(config, limits=Limits(close_rows=10**9)) as conn:
        await conn.transact([{":n": "the last"}])
    store = await stores.connect_store(config["store"])
    await store.bassoc("probe/" + uuid4().hex, b"nobody names me")
    await store.release()


def flipped(data: bytes, i: int, rng: random.Random) -> bytes:
    """Return bytes with one of them inverted, or with one bit of it turned over."""
    mask = rng.choice((255, 1 << rng.randrange(8)))
    return data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :]


async def noticed(config: dict[str, Any]) -> bool:
    """Say whether verify finds something, or does not even come so far."""
    try:
        return not (await d.verify(config)).ok
    except DatahikeError:
        return True


async def flip_files(
    folder: Path, places: Callable[[int], list[int]], rng: random.Random, only: str = ""
) -> Any:
    """Flip bytes of every file, or of those whose names end so; return how many, and which
    nobody noticed.
    """
    config = {"store": {"backend": "file", "path": str(folder)}}
    with mock.patch.object(file_journal, "ROOM", ROOM):
        await made({**config, "schema-flexibility": "write"})
    assert (await d.verify(config, deep=True)).ok
    count: Counter[str] = Counter()
    missed: list[tuple[str, int]] = []
    assert any(path.suffix == ".log" for path in await _files(folder))
    with mock.patch.object(file_check, "_LOOKS", 1), mock.patch.object(file_check, "_PAUSE", 0):
        for path in sorted(await _files(folder)):
            if not path.name.endswith(only):
                continue
            whole = await anyio.Path(path).read_bytes()
            for i in places(len(whole)):
                await anyio.Path(path).write_bytes(flipped(whole, i, rng))
                count[path.suffix or path.name] += 1
                if not await noticed(config):
                    missed.append((path.name, i))
            await anyio.Path(path).write_bytes(whole)
    assert (await d.verify(config, deep=True)).ok
    return count, missed


async def _files(folder: Path) -> list[Path]:
    return [Path(path) async for path in anyio.Path(folder).iterdir()]


async def flip_blobs(
    store_config: dict[str, Any], places: Callable[[int], list[int]], rng: random.Random
) -> Any:
    """Flip bytes of every blob of a store; return how many, and what nobody noticed."""
    config = {"store": store_config}
    await made({**config, "schema-flexibility": "write"})
    store = await stores.connect_store(store_config)
    count: Counter[str] = Counter()
    missed: list[tuple[str, int]] = []
    names = [name async for page in store.blobs.names() for name in page]
    for name in names:
        whole = await store.blobs.read_latest(name)
        assert whole is not None
        assert whole is not UNCHANGED
        for i in places(len(whole.data)):
            await store.blobs.write(name, flipped(whole.data, i, rng))
            count["blobs"] += 1
            if not await noticed(config):
                missed.append((name, i))
        await store.blobs.write(name, whole.data)
    assert (await d.verify(config, deep=True)).ok
    await store.release()
    return count, missed


def some(rng: random.Random, most: int) -> Callable[[int], list[int]]:
    """Return a choice of at most so many places of a file, its ends among them."""
    return lambda size: sorted(
        {0, size - 1, *(rng.randrange(size) for _ in range(most))} if size else ()
    )


async def _run(every: bool, fault: str | None, seed: int) -> int:
    rng = random.Random(seed)
    places = (lambda size: list(range(size))) if every else some(rng, 60)
    with tempfile.TemporaryDirectory() as folder, FAULTS[fault]() if fault else _nothing():
        files, missed = await flip_files(Path(folder) / "db", places, rng)
        blobs, more = await flip_blobs({"backend": "memory", "id": uuid4()}, places, rng)
    for kind, number in sorted((files + blobs).items()):
        print(f"{kind}: {number} bytes flipped, one at a time")
    for name, i in [*missed, *more][:20]:
        print(f"not noticed: byte {i} of {name}")
    print(f"{len(missed) + len(more)} flips that nobody noticed")
    return 1 if missed or more else 0


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(anyio.run(partial(_run, given.every, given.fault, given.seed), backend=given.loop))
