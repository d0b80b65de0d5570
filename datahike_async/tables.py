"""Tables of rows: plain text for terminals, HTML for notebooks.

What is shown was stored by anyone: text is cleared of control characters, HTML is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from datahike_async.edn.writer import write
from datahike_async.errors import shown as cut

__all__ = ["html_table", "table"]

_WIDEST = 60
_WIDEST_HTML = 200
# What moves a terminal's cursor or cannot be encoded.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    limit: int | None = None,
    more: int = 0,
) -> str:
    """Return rows under their names; numbers to the right; at most ``limit`` rows are shown.

    ``more`` is the number of rows that were not handed over.
    """
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
    more += len(everything) - len(shown)
    if more:
        out.append(f"  … and {more} more")
    return "\n".join(out) + "\n"


def html_table(names: Sequence[str], rows: Iterable[Sequence[Any]], *, count: int) -> str:
    """Return rows as an HTML table, every name and value escaped; ``count`` rows exist in all."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(v, _WIDEST_HTML))}</td>" for v in row) + "</tr>\n"
        for row in rows
    )
    word = "row" if count == 1 else "rows"
    return (
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        f"<p>{count} {word}</p>"
    )


def _cell(value: Any, widest: int = _WIDEST) -> str:
    if isinstance(value, str):
        # Only the beginning is shown, so only that is looked at.
        text = value[: 8 * widest]
    else:
        try:
            text = write(value)
        except (TypeError, ValueError):
            text = cut(value)
    text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return text if len(text) <= widest else text[: widest - 1] + "…"
