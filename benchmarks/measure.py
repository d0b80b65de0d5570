"""How all sides are timed, and what their answers are compared by.

The machine may be shared. So a fixed loop is timed before and after each measurement; one during
which it was slow is made again, and if it stays so, the figure says so.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

BUSY: Final = 1.25
"""A machine on which the fixed loop takes this many times its fastest is busy with other things."""
_ATTEMPTS: Final = 3
_loops: list[float] = []


class Timing(NamedTuple):
    """A median in milliseconds, and what the fixed loop took beside it."""

    ms: float
    loop: float

    @property
    def slow(self) -> float:
        """How many times its fastest so far the loop took; true once all is measured."""
        return self.loop / min(_loops)


class Figure(NamedTuple):
    """Something that no peer is needed for; a bar is the most it may be."""

    name: str
    unit: str
    value: float
    bar: float | None = None
    aim: float | None = None


async def timed(
    call: Callable[[], Awaitable[Any]],
    *,
    samples: int = 9,
    warm: float = 0.3,
    target: float = 0.1,
    attempts: int = _ATTEMPTS,
) -> Timing:
    """Time a call, after ``warm`` seconds of calling it; a sample is ``target`` seconds of calls.

    Of several attempts on a busy machine the least disturbed counts.
    """
    best: Timing | None = None
    for _ in range(attempts):
        before = calibration()
        ms = await _median(call, samples, warm, target)
        found = Timing(ms, max(before, calibration()))
        if best is None or found.loop < best.loop:
            best = found
        if found.slow < BUSY:
            break
    assert best is not None
    return best


async def _median(
    call: Callable[[], Awaitable[Any]], samples: int, warm: float, target: float
) -> float:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < warm or count < 2:
        await call()
        count += 1
    each = (time.perf_counter() - start) / count
    repeats = max(1, int(target / each))
    found = []
    for _ in range(samples if each < 1 else min(samples, 5)):
        start = time.perf_counter()
        for _ in range(repeats):
            await call()
        found.append((time.perf_counter() - start) / repeats * 1e3)
    return statistics.median(found)


def contents(answer: Any) -> dict[str, float]:
    """Return what answers are compared by: rows, and all numbers and lengths of strings added up.

    Where something was pulled, rows are the entities of the answer.
    """
    entities, total = 0, 0.0

    def walk(x: Any) -> None:
        nonlocal entities, total
        if isinstance(x, str):
            total += len(x)
        elif isinstance(x, (int, float)):
            total += x
        elif isinstance(x, dict):
            entities += 1
            walk(x.values())
        elif isinstance(x, Iterable):
            for item in x:
                walk(item)

    walk(answer)
    rows = entities if entities or isinstance(answer, dict) else len(answer)
    return {"rows": rows, "sum": total}


def digest(rows: Iterable[Any], *, ordered: bool = False) -> dict[str, int]:
    """Return the number of rows and a checksum of all that is in them; ``ordered``: and of where.

    A map is its keys and values in the order of the keys, a list within a row a bag.
    """
    count = total = 0
    for row in rows:
        text = f"{count if ordered else ''} {[_canonical(value) for value in row]}"
        total += zlib.crc32(text.encode())
        count += 1
    return {"rows": count, "digest": total}


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((str(key), _canonical(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return sorted(map(_canonical, value))
    return str(value)


def calibration() -> float:
    """Return the milliseconds of a fixed loop: how fast the machine is just now."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        seen: dict[int, int] = {}
        total = 0
        for i in range(100_000):
            k = i & 1023
            seen[k] = seen.get(k, 0) + i
            total += seen[k] % 7
        found.append((time.perf_counter() - start) * 1e3)
    _loops.append(statistics.median(found))
    return _loops[-1]
