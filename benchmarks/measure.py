"""How all sides are timed, and what their answers are compared by."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any


async def timed(
    call: Callable[[], Awaitable[Any]],
    *,
    samples: int = 9,
    warm: float = 0.3,
    target: float = 0.1,
) -> float:
    """Return the median milliseconds of a call, after ``warm`` seconds of calling it.

    A sample is as many calls as take ``target`` seconds.
    """
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


def calibration() -> float:
    """Return the milliseconds of a fixed loop: how fast the machine is just now."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        seen: dict[int, int] = {}
        total = 0
        for i in range(300_000):
            k = i & 1023
            seen[k] = seen.get(k, 0) + i
            total += seen[k] % 7
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)
