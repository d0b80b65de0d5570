"""The table of a comparison: ours beside peers of the same run, the bars, and what differs."""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import BUSY, Figure, Timing
from benchmarks.plan import Bar
from datahike_async.tables import table

UNKNOWN = "not measured"
OURS = "ours"
DOUBT = ", machine busy"
"""The machine was busy beside one of the two figures of a ratio: measure again."""

Found = Mapping[str, Mapping[str, Any] | None]
"""Peer → its version, and of each workload its milliseconds, how slow the machine was, and what
answers are compared by; None where it is not there."""


@dataclass
class Measured:
    """One workload, ours."""

    ms: float
    whole: float | None
    """Built as a set of tuples; of relation queries only."""
    contents: Mapping[str, float]
    timings: list[Timing]

    @property
    def slow(self) -> float:
        """How many times its fastest the fixed loop took beside it."""
        return max((timing.slow for timing in self.timings), default=1.0)


def machine() -> str:
    """Return which Python and machine the figures are of: a plain build halves the ratios."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    optimized = [o for o in ("--enable-optimizations", "--with-lto") if o in options]
    build = " ".join(optimized) or "built without optimizations"
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return (
        f"{platform.python_implementation()} {platform.python_version()}, {build},"
        f" {platform.python_compiler()}; {cpu}, {os.cpu_count()} cores"
    )


def differences(mine: Mapping[str, Measured], found: Found) -> list[str]:
    """Return a line for each answer of a peer that is not ours."""
    out = []
    for peer, answers in found.items():
        for name, theirs in (answers or {}).get("results", {}).items():
            own = mine[name].contents
            if any(_apart(own[key], theirs[key]) for key in own):
                shown = {key: theirs[key] for key in own}
                out.append(f"{name}: ours has {dict(own)}, {peer}'s {shown}")
    return out


def _apart(own: float, theirs: float) -> bool:
    """Whether whole numbers differ, or sums by more than adding up in another order does."""
    if isinstance(own, int) and isinstance(theirs, int):
        return own != theirs
    return abs(own - theirs) > 1e-6 * max(1.0, abs(own))


def shown(ms: float | None) -> str:
    """Return a time as text."""
    if ms is None:
        return ""
    return f"{ms * 1000:.1f} µs" if ms < 0.1 else f"{ms:.3g} ms" if ms < 100 else f"{ms:.0f} ms"


def compared(
    mine: Mapping[str, Measured],
    found: Found,
    bars: Mapping[str, Bar],
    set_bars: Mapping[str, Bar] | None = None,
) -> list[list[str]]:
    """Return a row for each workload: times, the ratio to the bar's peer, bar, aim, verdict."""
    rows = []
    for name, own in mine.items():
        times: dict[str, float] = {}
        busy = {OURS} if own.slow >= BUSY else set()
        for peer, answers in found.items():
            if answers and name in answers["results"]:
                result = answers["results"][name]
                times[peer] = result["ms"]
                if result["slow"] >= BUSY:
                    busy.add(peer)
        rows.append(_row(name, own.ms, times, busy, bars.get(name), list(found)))
        if own.whole is not None:
            bar = (set_bars or {}).get(name)
            rows.append(_row(f"{name}, as a set", own.whole, times, busy, bar, list(found)))
    return rows


def _row(
    name: str,
    ms: float,
    times: Mapping[str, float],
    busy: set[str],
    bar: Bar | None,
    peers: Sequence[str],
) -> list[str]:
    verdict = UNKNOWN if bar else ""
    ratio = ""
    if bar and bar.peer in times:
        got = times[bar.peer] / ms
        ratio = _ratio(got)
        verdict = "missed" if got < bar.least else "met"
        if bar.aim is not None and got >= bar.aim:
            verdict = "met, and the aim"
        if busy & {OURS, bar.peer}:
            verdict += DOUBT
    limit = f"{bar.least:g}x {bar.peer}" if bar else ""
    aim = f"{bar.aim:g}x" if bar and bar.aim else ""
    return [name, *(shown(times.get(p)) for p in peers), shown(ms), ratio, limit, aim, verdict]


def _ratio(found: float) -> str:
    return f"{found:.3g}x" if found < 1000 else f"{found:.0f}x"


def limited(figures: Sequence[Figure], peers: int) -> list[list[str]]:
    """Return rows of what no peer is needed for, in a table of so many peers."""
    rows = []
    for name, unit, value, bar, aim in figures:
        verdict = limit = ""
        if bar is not None:
            verdict, limit = "missed" if value > bar else "met", f"at most {bar:g} {unit}"
        if aim is not None and value <= aim:
            verdict = "met, and the aim"
        aimed = f"{aim:g} {unit}" if aim is not None else ""
        rows.append([name, *[""] * peers, f"{value:.3g} {unit}", "", limit, aimed, verdict])
    return rows


def conclude(found: Found, rows: list[list[str]], apart: Sequence[str]) -> int:
    """Print the table, and what it says; return 1 where a bar is missed or an answer differs."""
    print(machine())
    for peer, answers in found.items():
        if answers:
            print(f"{peer} {answers['version']}", end="; ")
    print("medians; a ratio is the time of the bar's peer to ours")
    print(table(["workload", *found, OURS, "ratio", "bar", "aim", ""], rows))
    for difference in apart:
        print("The answers differ:", difference)
    missed, unknown, doubtful = (
        [row[0] for row in rows if part in row[-1]] for part in ("missed", UNKNOWN, DOUBT)
    )
    if doubtful:
        print("Measure again, the machine was busy: " + "; ".join(doubtful))
    if unknown:
        print("Without their peer: " + "; ".join(unknown))
    print("Missed: " + "; ".join(missed) if missed else "Every bar that was measured is met.")
    return 1 if missed or apart else 0
