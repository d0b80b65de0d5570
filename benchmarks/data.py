"""The standard data: people with five attributes, and graphs for rules; the same for every peer."""

from __future__ import annotations

import random
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


def _wide(id_: int, depth: int, width: int) -> list[tuple[int, list[int]]]:
    if not depth:
        return [(id_, [])]
    children = [id_ * width + k for k in range(width)]
    nodes = [(id_, children)]
    for child in children:
        nodes += _wide(child, depth - 1, width)
    return nodes


def chains(depth: int, width: int) -> list[list[Any]]:
    """Return ``width`` chains of ``depth`` edges each, as nodes [id, those it follows]."""
    nodes: list[list[Any]] = []
    for x in range(width):
        first = x * (depth + 1) + 1
        nodes += [[first + y, [first + y + 1]] for y in range(depth)]
        nodes.append([first + depth, []])
    return nodes


def graphs() -> dict[str, list[list[Any]]]:
    """Return name → nodes [id, those it follows], in the wide ones with a person's attributes."""
    rng = random.Random(7)
    out: dict[str, list[list[Any]]] = {}
    for depth, width in ((3, 3), (5, 3), (7, 3), (4, 6), (4, 5), (3, 6)):
        nodes = _wide(1, depth, width)
        out[f"wide-{depth}x{width}"] = [[id_, to, _person(rng)] for id_, to in nodes]
    for depth, width in ((10, 3), (30, 3), (30, 5)):
        out[f"long-{depth}x{width}"] = chains(depth, width)
    return out


def schema(*, uid: bool = False) -> dict[str, Any]:
    """Return the schema of the people, who follow one another; with ``uid``, known by it."""
    out: dict[str, Any] = {
        f":{name}": {
            ":db/valueType": f":db.type/{kind}",
            ":db/cardinality": ":db.cardinality/one",
        }
        for name, kind in zip([*ATTRIBUTES, "id"], [*TYPES, "long"], strict=True)
    }
    out[":follows"] = {
        ":db/valueType": ":db.type/ref",
        ":db/cardinality": ":db.cardinality/many",
    }
    if uid:
        out[":uid"] = {
            ":db/valueType": ":db.type/long",
            ":db/cardinality": ":db.cardinality/one",
            ":db/unique": ":db.unique/identity",
        }
    return out


def entities(rows: list[list[Any]], *, uid: bool = False) -> list[dict[str, Any]]:
    """Return the entity maps of people."""
    keys = [":db/id", *(f":{a}" for a in ATTRIBUTES)]
    out = [dict(zip(keys, row, strict=True)) for row in rows]
    if uid:
        for entity in out:
            entity[":uid"] = entity[":db/id"]
    return out


def graph_entities(nodes: list[list[Any]]) -> list[dict[str, Any]]:
    """Return the entity maps of a graph's nodes."""
    out = []
    for id_, to, *rest in nodes:
        [entity] = entities([[id_, *rest[0]]]) if rest else [{":db/id": id_, ":name": "Ivan"}]
        if rest:
            entity[":id"] = id_
        if to:
            entity[":follows"] = to
        out.append(entity)
    return out
