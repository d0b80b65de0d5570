"""House rules that a reader relies on: no circles, imports on top, files of a size to be read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "datahike_async"
MOST_LINES = 580
# Installed by who wants what they are for: imported where they are used.
OPTIONAL = {
    "aiofiles",
    "fastapi",
    "lz4",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "pydantic_core",
    "trio",
    "zstandard",
}


@cache
def modules() -> Mapping[str, ast.Module]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Go through what is imported, as module and name ("" for a whole module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def graph(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return which files import which, for types alone too; a room's own file counts as none."""
    rooms = {name.rpartition(".")[0] for name in trees}
    out: dict[str, set[str]] = {}
    for name, tree in trees.items():
        named = {
            f"{module}.{what}" if f"{module}.{what}" in trees else module
            for module, what in imported(tree)
        }
        out[name] = {x for x in named if x in trees and x not in rooms} - {name}
    return out


def circle_in(edges: Mapping[str, set[str]]) -> list[str]:
    """Return files that import one another in a circle, if there are any."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        ends = {name for name, targets in left.items() if not targets & left.keys()}
        if not ends:
            break
        left = {name: targets - ends for name, targets in left.items() if name not in ends}
    if not left:
        return []
    # Whoever is left leads into a circle.
    path = [next(iter(left))]
    while path.count(path[-1]) < 2:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]) :]


def test_no_files_of_the_query_engine_import_one_another_in_a_circle() -> None:
    edges = {n: t for n, t in graph(modules()).items() if n.startswith("datahike_async.query")}
    assert circle_in(edges) == []
    # It would be seen.
    edges["datahike_async.query.language.ast"].add("datahike_async.query.api")
    assert "datahike_async.query.api" in circle_in(edges)


def test_functions_of_the_query_engine_import_optional_libraries_alone() -> None:
    inside = {
        (name, module)
        for name, tree in modules().items()
        if name.startswith("datahike_async.query")
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for module, _ in imported(node)
    }
    assert {found for found in inside if found[1].partition(".")[0] not in OPTIONAL} == set()


def test_no_file_has_grown_beyond_what_one_reads_at_a_time() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_the_page_that_says_where_a_change_goes_names_what_is_there() -> None:
    page = (ROOT.parent / "ARCHITECTURE.md").read_text("utf-8")
    table = page.partition("## Where does a change go?")[2]
    named = re.findall(r"`([\w./-]+(?:\.py|\.md|/))`", table)
    assert len(named) > 20
    missing = [x for x in named if not (ROOT / x).exists() and not (ROOT.parent / x).exists()]
    assert missing == []
