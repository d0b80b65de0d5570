"""The ways in which the engine can carry out one query: each gives the same answer, or none does.

Which way is taken depends on how much there is to read; here it is forced, so that small databases
meet all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from datahike_async import cores, looks
from datahike_async.index import arrays, columns, dictionary, objects, splice
from datahike_async.index.columns import Rows
from datahike_async.index.dictionary import Dictionary
from datahike_async.index.protocol import Order
from datahike_async.memory import Memory
from datahike_async.query.builtins import columns as vector
from datahike_async.query.builtins import matching
from datahike_async.query.limits import watch
from datahike_async.query.planning import ordering, plan
from datahike_async.query.pulling import execute as pull_execute
from datahike_async.query.reading import access, fetch, lookups, parts, point
from datahike_async.query.relations import joins, reach, relation
from datahike_async.query.running import engine as execute
from datahike_async.query.running import functions
from datahike_async.snapshot import trees

__all__ = ["WAYS", "forced"]

_MANY: Final = 10**9


def _packed(self: Any, a: int) -> Rows:
    """Return an attribute's rows as when many strings were read from many leaves."""
    rows = Rows.concat(self.current[Order.AEVT].slice((a,), (a,)))
    old = rows.v.dictionary
    found = None if old is None else Dictionary.unified([old], 0)
    if found is None:
        return rows
    v = columns.Column(columns.CODED, found[1][0][rows.v.data], found[0])
    return Rows(rows.e, rows.a, v, rows.times, rows.until)


WAYS: Final[dict[str, list[tuple[Any, str, Any]]]] = {
    "as chosen": [],
    "as for many rows": [
        *((fetch, name, 1) for name in ("FEW", "SEEKS")),
        *((access, "_MANY", 1), (access, "_TOGETHER", 0), (lookups, "_FEW", 1)),
        (point, "_MOST", 1),
        *((execute, "_WORTH", 1), (execute, "_WIDE", 0)),
        *((reach, name, 1) for name in ("_MATRIX", "_FEW_EDGES", "_LEVELS", "_BLOCK")),
        *((reach, "_TINY", 0), (reach, "_FEW_STARTS", 0)),
        (pull_execute, "COLUMNS_FROM", 1),
    ],
    "as for few rows": [
        *((fetch, "FEW", _MANY), (access, "_TOGETHER", 0)),
        *((reach, "_FEW_STARTS", _MANY), (reach, "_TINY", 0)),
    ],
    "bisected": [(fetch, "_BISECTED", 0)],
    "put together at once": [
        *((fetch, name, value) for name, value in (("FEW", _MANY), ("_BISECTED", 0))),
        *((fetch, "_SOUGHT", 0), (trees, "_LOOK", _MANY)),
    ],
    "joined whole": [(fetch, "_BISECTED", _MANY), (fetch, "_SOUGHT", _MANY)],
    "ranges of AVET": [(access, "_worth", lambda *_: True)],
    "positions of values": [(access, "_AGAIN", 0), (access, "_OFTEN", 0)],
    "little memory": [
        (trees.Trees, "memory", Memory(None, 2, 2**40)),
        *((parts, name, 1) for name in ("_LEAST", "_MOST")),
    ],
    "packed strings": [(trees.Trees, "_whole", _packed), (dictionary, "_PACKED", 1)],
    "greedy order": [(ordering, "_EXHAUSTIVE", 0)],
    "walked": [(plan, "LONG", 0)],
    "planned anew": [(execute, "_far_off", lambda *_: True)],
    "in worker threads": [(execute, "LARGE", 0), (watch, "LARGE", 0)],
    "anew in worker threads": [(watch, "HERE", -1), (watch, "PIECE", 0), (looks, "SMALL", 0)],
    "on several cores": [
        *((execute, "LARGE", 0), (watch, "LARGE", 0), (cores, "_WORTH", 0), (cores, "_HELPERS", 2)),
        *((module, "PIECE", 3) for module in (arrays, joins, looks, relation, vector)),
        *((looks, "SMALL", 0), (arrays, "_BUCKET", 2), (arrays, "_SAMPLE", 4)),
        *((joins, "_DENSE", 0), (relation, "_ORDERED", 0), (arrays, "_MARKED", 1)),
    ],
    "in small pieces": [
        *((module, "PIECE", 3) for module in (arrays, joins, looks, matching, relation, vector)),
        *((matching, "STEPS", 40), (matching, "_RUN", 2), (matching, "_FEWEST", 1)),
        *((looks, "SMALL", 0), (arrays, "_BUCKET", 2), (columns, "OBJECTS", 2)),
        *((objects, "OBJECTS", 2), (splice, "SMALL", 1), (splice, "_COPIED", 1)),
        *((joins, "_DENSE", 0), (functions, "_FUSED", 1), (arrays, "_SAMPLE", 4)),
        *((joins, name, 0) for name in ("_LOOKED_UP", "_TESTED")),
        *((relation, "_ORDERED", 0), (arrays, "_MARKED", 1), (execute, "_ALONE", 0)),
    ],
}


@contextmanager
def forced(way: str) -> Iterator[None]:
    """Make the engine go one way, by its name in ``WAYS``."""
    with ExitStack() as stack:
        for module, name, value in WAYS[way]:
            stack.enter_context(mock.patch.object(module, name, value))
        yield
