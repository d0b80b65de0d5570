"""Plain text tables for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datahike_async.edn.writer import write

__all__ = ["table"]

_WIDEST = 60


def table(names: Sequence[str], rows: Iterable[Sequence[Any]], *, limit: int | None = None) -> str:
    """Return rows under their names; numbers to the right; at most ``limit`` rows are shown."""
    everything = list(rows)
    shown = everything if limit is None else everything[:limit]
    cells = [[_cell(value) for value in row] for row in shown]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    right = [
        bool(shown) and all(isinstance(row[i], (int, float)) for row in shown)
        for i in range(len(names))
    ]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  " + "  ".join(padded).rstrip()

    out = [line(names), line(["-" * w for w in widths]), *map(line, cells)]
    if not cells:
        out.append("  (none)")
    if len(everything) > len(shown):
        out.append(f"  … and {len(everything) - len(shown)} more")
    return "\n".join(out) + "\n"


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else write(value)
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
