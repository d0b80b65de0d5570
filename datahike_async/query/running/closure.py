"""Transitive closure: the one shape of recursion that most rules have, done on integers.

``(r ?x ?y)`` holds where a base does, or where one step and then ``r`` leads there. With S the
relation of steps and B that of the base, r is S*∘B (recursion on the right), B∘S* (on the left), or
the closure of B itself (``(r ?x ?t) (r ?t ?y)``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import (
    firsts,
    joined,
    member,
    numbered,
    order_of,
    positions_of,
    searched,
    taken,
    uniques,
)
from datahike_async.index.columns import I64, INT, Column
from datahike_async.looks import PIECE, SMALL, look, tally
from datahike_async.query.language.ast import (
    DEFAULT_SOURCE,
    Clause,
)
from datahike_async.query.language.linear import Linear
from datahike_async.query.relations.joins import followed, semi
from datahike_async.query.relations.reach import reachable
from datahike_async.query.relations.relation import Relation, group_codes
from datahike_async.query.relations.state import State

if TYPE_CHECKING:
    from datahike_async.query.running.run import Run

__all__ = ["Solve", "closure"]

Solve = Callable[..., Awaitable[State]]
"""Carries clauses out on a state: ``Engine.run``."""

_ARGS = (Symbol("?__arg0"), Symbol("?__arg1"))


async def closure(
    run: Run, solve: Solve, linear: Linear, source: Symbol, seed: Relation
) -> Relation:
    """Return the pairs of the closure, restricted to the arguments bound in ``seed``."""
    base = [await _pairs(run, solve, b.clauses, b.head, source) for b in linear.base]
    step = None
    if linear.step is not None:
        step = await _pairs(run, solve, linear.step, linear.ends, source)
    rows = sum(len(pair[0]) for pair in base) + (0 if step is None else len(step[0]))
    return await run.heavy(rows if rows > SMALL else 0, _solved, run, linear, base, step, seed)


def _solved(
    run: Run,
    linear: Linear,
    base: Sequence[tuple[Column, Column]],
    one: tuple[Column, Column] | None,
    seed: Relation,
) -> Relation:
    bound = [seed.columns.get(p) for p in _ARGS]
    if one is None:
        pairs = Relation(
            {p: Column.concat([pair[i] for pair in base]) for i, p in enumerate(_ARGS)},
            sum(len(pair[0]) for pair in base),
        )
        found = _closed(run, pairs, bound)
        return semi(found, seed, keep=True) if seed.columns else found
    step = [one]
    columns = [c for pair in (*base, *step) for c in pair] + [c for c in bound if c is not None]
    whole = Column.concat(columns)
    codes, _ = group_codes([whole], len(whole))
    # Dense numbers for the nodes, and where each is found among the values.
    unique, codes = numbered(codes)
    _, first = firsts(codes)
    size = len(unique)
    parts = iter(np.split(codes, np.cumsum([len(c) for c in columns])[:-1]))
    base_pairs = _merged([(next(parts), next(parts)) for _ in base])
    step_pairs = _merged([(next(parts), next(parts)) for _ in step])
    ends = [None if c is None else next(parts) for c in bound]
    left, right = ends
    if left is not None:
        x, y = _from(uniques(left), base_pairs, step_pairs, linear.right, size)
    elif right is not None:
        back_base, back_step = base_pairs[::-1], step_pairs[::-1]
        y, x = _from(uniques(right), back_base, back_step, not linear.right, size)
    else:
        starts = uniques(np.concatenate([base_pairs[0], step_pairs[0]]))
        x, y = _from(starts, base_pairs, step_pairs, linear.right, size)
    if left is not None and right is not None:
        keep = member(x * size + y, left * size + right)
        x, y = x[keep], y[keep]
    return Relation({_ARGS[0]: whole.take(first[x]), _ARGS[1]: whole.take(first[y])}, len(x))


def _closed(run: Run, pairs: Relation, bound: Sequence[Column | None]) -> Relation:
    """Return the closure of ``pairs``: from the bound starts, to the bound ends, or all of it."""
    back = bound[0] is None and bound[1] is not None
    limit = bound[1] if back else bound[0]
    columns = [pairs.columns[p] for p in (_ARGS[::-1] if back else _ARGS)]
    if not pairs.count:
        return pairs
    if limit is not None:
        columns.append(limit)
    decode: Column | None = None
    if all(c.kind == INT for c in columns):
        keys = [c.data for c in columns]
    else:
        whole = Column.concat(columns)
        codes, _ = group_codes([whole], len(whole))
        _, codes = numbered(codes)
        _, first = firsts(codes)
        decode = whole.take(first)
        keys = np.split(codes, np.cumsum([len(c) for c in columns])[:-1])
    ends: list[list[I64]] = [[keys[0][:0]], [keys[0][:0]]]
    total = 0
    for x, y in reachable(keys[0], keys[1], None if limit is None else keys[2]):
        total += len(x)
        run.meter.rows(total, 2)
        look(min(len(x), PIECE))
        ends[0].append(x)
        ends[1].append(y)
    made = [p[1] if len(p) == 2 else joined(p) for p in (ends[::-1] if back else ends)]
    found = {
        p: Column(INT, data) if decode is None else decode.take(data)
        for p, data in zip(_ARGS, made, strict=True)
    }
    return Relation(found, len(made[0]))


async def _pairs(
    run: Run, solve: Solve, clauses: Sequence[Clause], ends: Sequence[Symbol], source: Symbol
) -> tuple[Column, Column]:
    state = run.state({})
    if source is not DEFAULT_SOURCE:
        clauses = tuple(c.reading_from(source) for c in clauses)
    await solve(clauses, state, ends)
    found = await run.whole(state, list(dict.fromkeys(ends)))
    return found.columns[ends[0]], found.columns[ends[1]]


def _merged(pairs: Sequence[tuple[I64, I64]]) -> tuple[I64, I64]:
    if len(pairs) == 1:
        return pairs[0]
    return joined([p[0] for p in pairs]), joined([p[1] for p in pairs])


class _Edges:
    """Edges sorted by where they begin, to be followed for many nodes at once."""

    def __init__(self, pairs: tuple[I64, I64], size: int) -> None:
        order = order_of(pairs[0])
        self.ends = taken(pairs[1], order)
        self.start = searched(taken(pairs[0], order), np.arange(size + 1))

    def follow(self, origin: I64, node: I64) -> tuple[I64, I64]:
        """Return the (origin, next node) pairs of all edges out of ``node``."""
        start, stop = taken(self.start, node), taken(self.start, node + 1)
        return followed(origin, start, stop, self.ends)


def _from(
    starts: I64, base: tuple[I64, I64], step: tuple[I64, I64], right: bool, size: int
) -> tuple[I64, I64]:
    """Return the pairs of the closure that begin at ``starts``, walking forward."""
    base_edges, step_edges = _Edges(base, size), _Edges(step, size)
    if right:
        # S*∘B: walk the steps from every start, itself included, and take the base at the end.
        x, y = _walk(starts, starts, step_edges, size)
        return _distinct(*base_edges.follow(x, y), size)
    x, y = _distinct(*base_edges.follow(starts, starts), size)
    return _walk(x, y, step_edges, size)


def _distinct(x: I64, y: I64, size: int) -> tuple[I64, I64]:
    codes = uniques(x * size + y)
    return codes // size, codes % size


def _walk(x: I64, y: I64, edges: _Edges, size: int) -> tuple[I64, I64]:
    """Return the pairs (x, z) where z is y or is reached from it over edges."""
    origins, ranks = numbered(x)
    if len(origins) * size <= 50_000_000:
        return _walk_marked(origins, ranks, y, edges, size)
    seen = uniques(x * size + y)
    delta = seen
    while len(delta):
        tally(len(delta))
        a, b = edges.follow(delta // size, delta % size)
        found = uniques(a * size + b)
        delta = found[~member(found, seen)]
        seen = uniques(joined([seen, delta]))
    return seen // size, seen % size


def _walk_marked(
    origins: I64, ranks: npt.NDArray[Any], y: I64, edges: _Edges, size: int
) -> tuple[I64, I64]:
    """Walk with a mark for every possible pair: no sorting of all that was seen."""
    marked = np.zeros(len(origins) * size, np.bool_)
    delta = uniques(ranks * size + y)
    marked[delta] = True
    while len(delta):
        tally(len(delta))
        a, b = edges.follow(delta // size, delta % size)
        found = a * size + b
        fresh = found[~marked[found]]
        marked[fresh] = True
        delta = uniques(fresh)
    pairs = positions_of(marked)
    return origins[pairs // size], pairs % size
