"""The standard data: people with five attributes, and graphs for rules; the same for every peer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NAMES = ["Ivan", "Petr", "Sergei", "Oleg", "Yuri", "Dmitry", "Fedor", "Denis"]
LAST_NAMES = ["Ivanov", "Petrov", "Sidorov", "Kovalev", "Kuznetsov", "Voronoi"]
SEXES = ["male", "female"]
ATTRIBUTES = ["name", "last-name", "sex", "age", "salary"]
TYPES = ["string", "string", "string", "long", "long"]


def _person(rng: random.Random) -> list[Any]:
    return [
        rng.choice(NAMES),
        rng.choice(LAST_NAMES),
        rng.choice(SEXES),
        rng.randrange(100),
        rng.randrange(100000),
    ]


def people(count: int) -> list[list[Any]]:
    """Return rows [entity id, name, last name, sex, age, salary] in shuffled order."""
    rng = random.Random(42)
    rows = [[1001 + i, *_person(rng)] for i in range(count)]
    rng.shuffle(rows)
    return rows


def _wide(id_: int, depth: int, width: int) -> list[list[int]]:
    if not depth:
        return []
    children = [id_ * width + k for k in range(width)]
    edges = [[id_, child] for child in children]
    return edges + [edge for child in children for edge in _wide(child, depth - 1, width)]


def _long(depth: int, width: int) -> list[list[int]]:
    return [
        [x * (depth + 1) + y + 1, x * (depth + 1) + y + 2]
        for x in range(width)
        for y in range(depth)
    ]


def graphs() -> dict[str, list[list[int]]]:
    """Return name → edges."""
    out = {f"wide-{d}x{w}": _wide(1, d, w) for d, w in ((3, 3), (5, 3), (7, 3), (4, 6), (3, 6))}
    out |= {f"long-{d}x{w}": _long(d, w) for d, w in ((10, 3), (30, 3), (30, 5))}
    return out


def write_for_node(folder: Path, count: int) -> None:
    """Write the data where the program for node reads it."""
    folder.mkdir(exist_ok=True)
    (folder / "people.json").write_text(json.dumps(people(count)))
    (folder / "graphs.json").write_text(json.dumps(graphs()))
