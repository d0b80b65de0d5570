"""The data of the wide workloads: people, a social graph and a star, the same for every side.

All of it is columns of NumPy from fixed seeds. Every thing has an entity id, which the tables of
the peers have as their key; what people look for is another number, the unique ``:id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

FIRST_ID: Final = 1_000_000
"""An entity's ``:id`` is its entity id and this."""
NAMES: Final = ("Ivan", "Petr", "Sergei", "Oleg", "Yuri", "Dmitry", "Fedor", "Denis")
LAST_NAMES: Final = ("Ivanov", "Petrov", "Sidorov", "Kovalev", "Kuznetsov", "Voronoi")
CITIES: Final = tuple(f"city {i}" for i in range(500))
# fmt: off
WORDS: Final = (
    "amber", "birch", "cedar", "delta", "ember", "frost", "grove", "harbor", "island", "jasper",
    "kettle", "lantern", "meadow", "north", "ocean", "pepper", "quartz", "river", "saddle",
    "timber", "umber", "velvet", "willow", "yonder", "zephyr",
)
# fmt: on
PRODUCTS: Final = 1_000
CATEGORIES: Final = 20
STORES: Final = 200
REGIONS: Final = 10
DAYS: Final = 730
FRIENDS: Final = 10
NEAR: Final = 0.6
"""The share of friends who are among the `NEIGHBOURS` before and after."""
NEIGHBOURS: Final = 90

_ONE, _MANY = ":db.cardinality/one", ":db.cardinality/many"


def attribute(kind: str, *, many: bool = False, **options: Any) -> dict[str, Any]:
    """Return an attribute's schema; ``unique="identity"`` and ``index=True`` as in Datahike."""
    out: dict[str, Any] = {
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": _MANY if many else _ONE,
    }
    if unique := options.get("unique"):
        out[":db/unique"] = f":db.unique/{unique}"
    if options.get("index"):
        out[":db/index"] = True
    return out


@dataclass(frozen=True)
class Table:
    """Entities of one kind: their ids, and a column an attribute."""

    name: str
    e: Ints
    columns: Mapping[str, Any]
    """Attribute (with its colon) → an array or a list, as long as ``e``."""

    def facts(self) -> Iterator[tuple[int, str, Any]]:
        """Yield the facts, attribute by attribute."""
        ids = self.e.tolist()
        for name, column in self.columns.items():
            values = column.tolist() if isinstance(column, np.ndarray) else column
            for e, value in zip(ids, values, strict=True):
                yield e, name, value

    def maps(self, first: int = 0, end: int | None = None) -> list[dict[str, Any]]:
        """Return entity maps without ids, of the rows from ``first`` to before ``end``."""
        rows = slice(first, end)
        parts = [
            c[rows].tolist() if isinstance(c, np.ndarray) else c[rows]
            for c in self.columns.values()
        ]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*parts, strict=True)]


PEOPLE_SCHEMA: Final = {
    ":id": attribute("long", unique="identity"),
    ":name": attribute("string"),
    ":last-name": attribute("string"),
    ":city": attribute("string"),
    ":sex": attribute("string"),
    ":age": attribute("long"),
    ":salary": attribute("long"),
    ":score": attribute("double"),
    ":boss": attribute("ref"),
    ":spouse": attribute("ref"),
}


@cache
def people(count: int) -> Table:
    """Return people of ten attributes, two of them refs to other people."""
    rng = np.random.default_rng(42)
    e = np.arange(1, count + 1)
    return Table(
        "person",
        e,
        {
            ":id": e + FIRST_ID,
            ":name": _chosen(rng, NAMES, count),
            ":last-name": _chosen(rng, LAST_NAMES, count),
            ":city": _chosen(rng, CITIES, count),
            ":sex": _chosen(rng, ("male", "female"), count),
            ":age": rng.integers(0, 100, count),
            ":salary": rng.integers(0, 100_000, count),
            ":score": rng.integers(0, 4_000, count) / 4,  # exact in binary: sums agree
            ":boss": rng.integers(1, count + 1, count),
            ":spouse": rng.integers(1, count + 1, count),
        },
    )


GRAPH_SCHEMA: Final = {
    ":id": attribute("long", unique="identity"),
    ":name": attribute("string"),
    ":age": attribute("long"),
    ":friend": attribute("ref", many=True),
}


@dataclass(frozen=True)
class Graph:
    """People, and who has whom as a friend: pairs of entity ids, sorted, none twice."""

    members: Table
    a: Ints
    b: Ints


@cache
def graph(count: int) -> Graph:
    """Return ``count`` people with about ten friends each, most of them near neighbours."""
    rng = np.random.default_rng(7)
    e = np.arange(1, count + 1)
    a = np.repeat(e, FRIENDS)
    step = rng.integers(1, NEIGHBOURS + 1, len(a)) * rng.choice([-1, 1], len(a))
    near = (a - 1 + step) % count + 1
    b = np.where(rng.random(len(a)) < NEAR, near, rng.integers(1, count + 1, len(a)))
    pairs = np.unique((a << 32 | b)[a != b])
    members = Table(
        "member",
        e,
        {
            ":id": e + FIRST_ID,
            ":name": _chosen(rng, NAMES, count),
            ":age": rng.integers(0, 100, count),
        },
    )
    return Graph(members, pairs >> 32, pairs & 0xFFFFFFFF)


STAR_SCHEMA: Final = {
    ":category": attribute("long"),
    ":region": attribute("long"),
    ":product": attribute("ref"),
    ":store": attribute("ref"),
    ":day": attribute("long"),
    ":amount": attribute("long"),
    ":note": attribute("string"),
    ":returned": attribute("boolean"),
}


@dataclass(frozen=True)
class Star:
    """Sales, and the two dimensions they refer to; one sale in ten was returned."""

    products: Table
    stores: Table
    sales: Table
    """A row of ``:returned`` is true or false; only the true ones are facts."""

    def facts(self) -> Iterator[tuple[int, str, Any]]:
        """Yield all facts: a sale that was not returned says nothing of it."""
        yield from self.products.facts()
        yield from self.stores.facts()
        yield from (fact for fact in self.sales.facts() if fact[2] is not False)


@cache
def star(count: int) -> Star:
    """Return ``count`` sales of 1,000 products in 200 stores on 730 days."""
    rng = np.random.default_rng(11)
    products = np.arange(1, PRODUCTS + 1)
    stores = np.arange(PRODUCTS + 1, PRODUCTS + STORES + 1)
    e = np.arange(PRODUCTS + STORES + 1, PRODUCTS + STORES + count + 1)
    words = np.array(WORDS, dtype=object)
    picked = words[rng.integers(0, len(WORDS), (3, count))]
    numbers = rng.integers(0, 10_000, count).tolist()
    notes = [f"{x} {y} {n} {z}" for x, y, z, n in zip(*picked, numbers, strict=True)]
    return Star(
        Table("product", products, {":category": products % CATEGORIES}),
        Table("store", stores, {":region": stores % REGIONS}),
        Table(
            "sale",
            e,
            {
                ":product": rng.integers(1, PRODUCTS + 1, count),
                ":store": rng.integers(PRODUCTS + 1, PRODUCTS + STORES + 1, count),
                ":day": rng.integers(0, DAYS, count),
                ":amount": rng.integers(1, 100_000, count),
                ":note": notes,
                ":returned": rng.random(count) < 0.1,
            },
        ),
    )


SCHEMAS: Final = {"people": PEOPLE_SCHEMA, "graph": GRAPH_SCHEMA, "star": STAR_SCHEMA}


def facts(name: str, count: int) -> Iterator[tuple[int, str, Any]]:
    """Yield the facts of ``people``, ``graph`` or ``star`` as (entity, attribute, value)."""
    if name == "people":
        yield from people(count).facts()
    elif name == "star":
        yield from star(count).facts()
    else:
        found = graph(count)
        yield from found.members.facts()
        for a, b in zip(found.a.tolist(), found.b.tolist(), strict=True):
            yield a, ":friend", b


def _chosen(rng: np.random.Generator, values: tuple[str, ...], count: int) -> list[str]:
    return [values[i] for i in rng.integers(0, len(values), count)]
