"""The wide workloads on polars: frames in memory, lazy queries, all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import polars as pl

from benchmarks.analytics import data
from benchmarks.analytics.peer import Call, serve
from benchmarks.analytics.plan import FROM_DAY, PATTERN, PREFIX, TO_DAY
from benchmarks.peers import Workload

Frames = Mapping[str, pl.LazyFrame]


def tables(name: str, count: int) -> dict[str, pl.DataFrame]:
    """Return the tables of ``people``, ``graph`` or ``star``; the entity's id is ``e``."""
    if name == "people":
        return {"person": frame(data.people(count))}
    if name == "star":
        star = data.star(count)
        return {table.name: frame(table) for table in (star.products, star.stores, star.sales)}
    graph = data.graph(count)
    friends = pl.DataFrame({"a": graph.a, "b": graph.b})
    return {"member": frame(graph.members), "friend": friends}


def frame(table: data.Table) -> pl.DataFrame:
    """Return a table with its keys."""
    return pl.DataFrame({"e": table.e, **{k[1:]: v for k, v in table.columns.items()}})


def _entities(frames: Frames, work: Workload) -> pl.LazyFrame:
    return frames["person"].filter(pl.col("id").is_in(work.inputs[0]))


def _members(frames: Frames, ids: list[int]) -> pl.LazyFrame:
    return frames["member"].filter(pl.col("id").is_in(ids)).select("id", a="e")


def _friends(frames: Frames, work: Workload) -> pl.LazyFrame:
    first = _members(frames, work.inputs[0]).join(frames["friend"], on="a").select("id", a="b")
    return first.join(frames["friend"], on="a").select("id", "b").unique()


def _common(frames: Frames, work: Workload) -> pl.LazyFrame:
    pairs = pl.LazyFrame(work.inputs[0], schema=["i", "j"], orient="row")
    ids = frames["member"].select("id", "e")
    found = pairs.join(ids.rename({"e": "a"}), left_on="i", right_on="id")
    found = found.join(ids.rename({"e": "c"}), left_on="j", right_on="id")
    found = found.join(frames["friend"], on="a")
    friend = frames["friend"]
    return found.join(friend, left_on=["c", "b"], right_on=["a", "b"]).select("i", "j", "b")


def _triangles(frames: Frames, work: Workload) -> pl.LazyFrame:
    friend = frames["friend"]
    paths = friend.join(friend.rename({"a": "b", "b": "c"}), on="b")
    return paths.join(friend, left_on=["a", "c"], right_on=["a", "b"]).select(pl.len())


def _star(frames: Frames, work: Workload) -> pl.LazyFrame:
    found = frames["sale"].join(frames["product"], left_on="product", right_on="e")
    found = found.join(frames["store"], left_on="store", right_on="e")
    sums = found.group_by("category", "region").agg(pl.col("amount").sum())
    return sums.sort("amount", descending=True).head(10)


def _counted(*conditions: pl.Expr) -> Callable[[Frames, Workload], pl.LazyFrame]:
    return lambda frames, work: frames["sale"].filter(*conditions).select(pl.len())


def _days(frames: Frames, work: Workload) -> pl.LazyFrame:
    day = pl.col("day")
    found = frames["sale"].filter(day >= FROM_DAY, day < TO_DAY)
    return found.group_by("day").agg(pl.col("amount").sum())


def _ordered(frames: Frames, work: Workload) -> pl.LazyFrame:
    found = frames["sale"].select("amount", "e").sort("amount", "e")
    return found.slice(_offset(frames), 20)


def _offset(frames: Frames) -> int:
    count: int = frames["sale"].select(pl.len()).collect().item()
    return count // 2


QUERIES: Final[Mapping[str, Callable[[Frames, Workload], pl.LazyFrame]]] = {
    "entities by id": _entities,
    "friends of friends": _friends,
    "common neighbours": _common,
    "triangles": _triangles,
    "star": _star,
    "not": _counted(~pl.col("returned")),
    "range of days": _days,
    "order, offset, limit": _ordered,
    "starts-with": _counted(pl.col("note").str.starts_with(PREFIX)),
    "re-find": _counted(pl.col("note").str.contains(PATTERN)),
}


class Polars:
    """Frames; a query is made once and collected each time."""

    version = pl.__version__

    def __init__(self) -> None:
        self._frames: Frames = {}

    def make(self, name: str, count: int) -> None:
        self._frames = {name: frame.lazy() for name, frame in tables(name, count).items()}

    def prepared(self, work: Workload) -> Call | None:
        make = QUERIES.get(work.name)
        if make is None:
            return None
        query = make(self._frames, work)
        return lambda: query.collect().rows()

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        if work.name == "entities by id":
            names = list(data.PEOPLE_SCHEMA)
            return [(row[0], a, v) for row in answer for a, v in zip(names, row[1:], strict=True)]
        return list(answer)


if __name__ == "__main__":
    serve(Polars)
