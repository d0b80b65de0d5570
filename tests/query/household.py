"""A small household of people and machines, which the pull tests ask about."""

from __future__ import annotations

from typing import Any

from datahike_async.database import Database, init_db

REF = {":db/valueType": ":db.type/ref"}
MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, dict[str, Any]] = {
    ":nick": MANY,
    ":email": {":db/unique": ":db.unique/identity"},
    ":pupil": {**REF, **MANY},
    ":knows": {**REF, **MANY},
    ":rival": {**REF, **MANY},
    ":boss": REF,
    ":part": {**REF, **MANY, ":db/isComponent": True},
    ":case": {**REF, ":db/isComponent": True},
}
PEOPLE: list[tuple[int, str, Any]] = [
    (1, ":name", "Ada"),
    (1, ":nick", "Lace"),
    (1, ":nick", "Byron"),
    (1, ":email", "ada@x"),
    (2, ":name", "Ben"),
    (3, ":name", "Cleo"),
    (4, ":name", "Dina"),
    (5, ":name", "Emil"),
    (6, ":name", "Fay"),
    (7, ":name", "Gus"),
    (8, ":name", "Hal"),
    (1, ":pupil", 2),
    (1, ":pupil", 3),
    (2, ":boss", 1),
    (3, ":boss", 1),
    (6, ":boss", 3),
    (4, ":knows", 5),
    (5, ":knows", 6),
    (6, ":knows", 7),
    (7, ":knows", 8),
    (4, ":rival", 6),
    (5, ":rival", 7),
    (6, ":rival", 8),
    (7, ":rival", 4),
    # a machine of parts
    (20, ":name", "Engine"),
    (20, ":part", 21),
    (20, ":part", 24),
    (21, ":name", "Block"),
    (21, ":part", 22),
    (22, ":name", "Piston"),
    (22, ":case", 23),
    (23, ":name", "Ring"),
    (24, ":name", "Belt"),
]


def household() -> Database:
    """Return the household as a database value."""
    return init_db(PEOPLE, SCHEMA)
