"""The support matrix: what each store declares, and what of it a run of the suite has shown.

The suite attaches properties to its tests (pytest's ``record_property``): the store and the event
loop, the declared capabilities, and the promises that were kept or seen to be refused. A
:class:`Matrix` gathers them with the outcomes, from whatever runs the tests, and
:func:`support_matrix` renders the rows as Markdown. ::

    python -m datahike_async.konserve.testing.matrix tests backends

runs pytest with :mod:`~datahike_async.konserve.testing.plugin`, which prints the matrix at the end.
Knows nothing of how tests are run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Matrix", "Row", "support_matrix"]

LOOPS: Final = ("asyncio", "trio")
_COLUMNS: Final = (
    "backend",
    "durable",
    "compare-and-set",
    "atomic multi-key",
    "journal",
    "ranged reads",
    "remote",
    *LOOPS,
)
LEGEND: Final = (
    "A capability is declared by the store and held to by the laws of the suite. "
    "no: not declared, and seen to be refused where it can be asked for; "
    "*unproven*: none of its laws has run; **broken**: one of its laws failed."
)


@dataclass
class Row:
    """One store: what it declares, the promises kept, refused and broken, and tests by loop."""

    backend: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def shown(self, promise: str, declared: str) -> str:
        """Return the cell of a promise; ``declared`` is how it is declared, "no" if it is not."""
        if promise in self.broken:
            return f"{declared} (**broken**)"
        if promise in (self.refused if declared == "no" else self.kept):
            return declared
        return f"{declared} (*unproven*)"


class Matrix:
    """Gathers the outcomes of tests, by store."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, properties: Iterable[tuple[str, Any]], passed: bool) -> None:
        """Add the outcome of one test; one that is not of the suite, or of no name, is left out."""
        found = list(properties)
        stores = [value for name, value in found if name == "konserve.store"]
        backend, loop = stores[0] if stores else ("", "")
        if not backend:
            return
        row = self._rows.setdefault(backend, Row(backend))
        counts = row.passed if passed else row.failed
        counts[loop] = counts.get(loop, 0) + 1
        for name, value in found:
            if name == "konserve.capabilities":
                row.capabilities = value
            elif name == "konserve.promise":
                promise, outcome = value
                said = row.refused if outcome == "refused" else row.kept
                (said if passed else row.broken).add(promise)

    def rows(self) -> list[Row]:
        """Return the stores by name."""
        return [self._rows[name] for name in sorted(self._rows)]


def _cells(row: Row) -> list[str]:
    declared = row.capabilities

    def yes(name: str) -> str:
        return "yes" if declared.get(name) else "no"

    conditional = str(declared.get("conditional", "none"))
    cells = [
        f"`{row.backend}`",
        row.shown("durable", yes("durable")),
        row.shown("compare-and-set", "no" if conditional == "none" else conditional),
        row.shown("atomic multi-key", yes("atomic_multi")),
        row.shown("journal", yes("journal")),
        row.shown("ranged reads", yes("ranged_reads")),
        yes("remote"),
    ]
    for loop in LOOPS:
        passed, failed = row.passed.get(loop, 0), row.failed.get(loop, 0)
        if failed:
            cells.append(f"{passed} passed, **{failed} failed**")
        else:
            cells.append(f"{passed} passed" if passed else "not run")
    return cells


def support_matrix(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table, a line that explains it, and a newline."""
    table = [list(_COLUMNS), ["---"] * len(_COLUMNS), *map(_cells, rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([*lines, "", LEGEND, ""])


def main() -> int:
    """Run pytest with the arguments of the command line, and print the matrix at the end."""
    # A process of its own: pytest wants to be there before what it tests is imported.
    plugin = "datahike_async.konserve.testing.plugin"
    return subprocess.call([sys.executable, "-m", "pytest", "-p", plugin, *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
