"""Run a plan of workloads on the peers: DataScript on node, Cozo in a process of its own.

A workload's query is written once, in our syntax; DataScript's differs in how attributes look.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.data import ATTRIBUTES, graphs, people

HERE = Path(__file__).parent
_ATTRIBUTE = re.compile(
    rf"(?<![\w/?]):({'|'.join([*ATTRIBUTES, 'uid', 'follows', 'note'])})(?![\w-])"
)


@dataclass(frozen=True)
class Workload:
    """One thing to measure, on every side."""

    name: str
    data: str
    """people, people with uid, big, notes (strings), or the name of a graph."""
    kind: str
    """load, query, point (one call an id), pull or pull many (with the query as the pattern)."""
    query: str = ""
    inputs: tuple[Any, ...] = ()
    ids: tuple[int, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    """Peer → the same in its language; who is not there is left out, but for DataScript."""
    parameters: dict[str, Any] = field(default_factory=dict)
    samples: int = 10
    warm: int = 800
    """Milliseconds of calling before peers are measured."""
    ordered: bool = False
    """Whether the order of the answer's rows is part of it."""


def _for_datascript(text: Any) -> Any:
    return _ATTRIBUTE.sub(r'"\1"', text) if isinstance(text, str) else text


def write_plan(
    folder: Path, plan: Sequence[Workload], count: int, big: int, more: Mapping[str, Any]
) -> None:
    """Write the data of a plan, and the plan, where the programs of the peers read it."""
    for name, values in more.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    (folder / "people.json").write_text(json.dumps(people(count)))
    (folder / "graphs.json").write_text(json.dumps(graphs()))
    if any(w.data == "big" for w in plan):
        (folder / "big.json").write_text(json.dumps(people(big)))
    written = [
        {
            **vars(w),
            "query": _for_datascript(w.query),
            "inputs": [_for_datascript(value) for value in w.inputs],
        }
        for w in plan
    ]
    (folder / "plan.json").write_text(json.dumps(written))


def datascript(
    plan: Sequence[Workload], count: int, big: int = 0, more: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Run a plan on node; None where node or npm is missing. ``more`` is further data by name."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node or npm is not installed: DataScript is left out.")
        return None
    if not (HERE / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit"], cwd=HERE, check=True)
    return _run(["node", "--max-old-space-size=6000", "datascript.js"], plan, count, big, more)


def cozo(plan: Sequence[Workload], count: int, big: int = 0) -> dict[str, Any] | None:
    """Run the part of a plan that has scripts on Cozo; None where it is not installed."""
    if find_spec("cozo_embedded") is None:
        print("cozo-embedded is not installed: Cozo is left out.")
        return None
    return _run(
        [sys.executable, str(HERE / "cozo.py")], [w for w in plan if "Cozo" in w.texts], count, big
    )


def _run(
    command: list[str],
    plan: Sequence[Workload],
    count: int,
    big: int,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_plan(Path(folder), plan, count, big, more or {})
        done = subprocess.run([*command, folder], cwd=HERE, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
