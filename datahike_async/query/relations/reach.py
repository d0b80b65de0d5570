"""Transitive closure of a set of edges: the recursion that is worth knowing by heart.

Works on arrays of node keys alone; the engine hands it the edges of a rule that it recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import member, numbered, taken, uniques
from datahike_async.index.columns import I64
from datahike_async.looks import SMALL, STEP, look, tally
from datahike_async.query.relations.joins import followed

__all__ = ["reachable"]

# Dense graphs up to this size: squaring a matrix of floats beats everything else.
_MATRIX: Final = 192
_DENSE: Final = 8
# So few nodes are squared before Python has walked them.
_TINY: Final = 64
# Few edges are condensed before NumPy has warmed up.
_FEW_EDGES: Final = 256
# Graphs deeper than this are condensed to components first: joining level by level costs a
# level at a time, and a long chain has as many levels as nodes.
_LEVELS: Final = 24
# From so few starts each is walked by itself, in so many levels at once.
_FEW_STARTS: Final = 4
_WIDE_LEVELS: Final = 64
# Graphs of more nodes are taken apart where no edge joins them.
_BLOCK: Final = 4096
_BITMAP: Final = 1 << 24
# A look at the clock comes after so many nodes or edges that Python walks, and one.
_MANY: Final = 127


def reachable(source: I64, target: I64, starts: I64 | None = None) -> Iterator[tuple[I64, I64]]:
    """Yield the pairs (from, to) joined by one or more edges, each pair once, in batches.

    ``source`` and ``target`` are the ends of the edges, any int64; with ``starts`` only pairs that
    begin in one of them are wanted. Between batches the caller may pause.
    """
    if not len(source):
        return
    low = min(int(source.min()), int(target.min()))
    span = max(int(source.max()), int(target.max())) - low + 1
    if span <= _TINY:
        # Their numbers say where they stand in the matrix.
        a, b = _by_matrix(source - low, target - low, span)
        a, b = a + low, b + low
        if starts is not None:
            keep = member(a, starts)
            a, b = a[keep], b[keep]
        yield a, b
        return
    nodes, a, b = _numbered(source, target, low, span)
    n = len(nodes)
    keys = uniques(a * n + b)
    s, t = keys // n, keys % n
    wanted: npt.NDArray[np.bool_] | None = None
    if starts is not None:
        wanted = member(nodes, starts)
        if not wanted.any():
            return
    if wanted is not None and (first := np.flatnonzero(wanted)).size <= _FEW_STARTS:
        for start in first.tolist():
            found = _from_one(s, t, n, start)
            yield np.full(len(found), nodes[start]), nodes[found]
        return
    if n <= _BLOCK:
        for a, b in _pairs(s, t, n, wanted):
            yield nodes[a], nodes[b]
        return
    for source, target, own, chosen in _blocks(s, t, n, wanted):
        for a, b in _pairs(source, target, len(own), chosen):
            yield nodes[own[a]], nodes[own[b]]


def _pairs(
    s: I64, t: I64, n: int, wanted: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[I64, I64]]:
    """Yield the pairs of a graph of ``n`` numbered nodes, in the way that suits its shape."""
    if n <= _MATRIX and len(s) > _DENSE * n:
        a, b = _by_matrix(s, t, n)
        if wanted is not None:
            keep = wanted[a]
            a, b = a[keep], b[keep]
        yield a, b
        return
    pairs = _by_levels(s, t, n, wanted) if len(s) > _FEW_EDGES else None
    if pairs is not None:
        yield pairs // n, pairs % n
        return
    yield from _by_components(s, t, n, wanted)


def _blocks(
    s: I64, t: I64, n: int, wanted: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[I64, I64, I64, npt.NDArray[np.bool_] | None]]:
    """Yield parts that no edge joins: edges numbered from 0, the nodes' own numbers, the wanted.

    Small parts come together, so that there are not too many. What a part needs to remember grows
    with the square of its nodes, not of all.
    """
    part = _connected(s, t, n)
    order = np.argsort(part, kind="stable")
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    # Where a part begins, in the order of parts; then where a block of parts does.
    starts = np.flatnonzero(np.concatenate([[True], np.diff(part[order]) != 0]))
    edges = [0]
    for start, stop in pairwise([*starts.tolist(), n]):
        if stop - edges[-1] > _BLOCK and start > edges[-1]:
            edges.append(start)
    edges.append(n)
    s, t = place[s], place[t]
    by_source = np.argsort(s, kind="stable")
    s, t = s[by_source], t[by_source]
    cuts = np.searchsorted(s, edges).tolist()
    for (low, high), (i, j) in zip(pairwise(edges), pairwise(cuts), strict=True):
        own = order[low:high]
        chosen = None if wanted is None else wanted[own]
        if i < j and (chosen is None or chosen.any()):
            yield s[i:j] - low, t[i:j] - low, own, chosen


def _connected(s: I64, t: I64, n: int) -> I64:
    """Return for each node the least one that edges, whichever way they point, join it to."""
    part = np.arange(n)
    while True:
        look(len(s))
        least = np.minimum(part[s], part[t])
        lower = part.copy()
        np.minimum.at(lower, s, least)
        np.minimum.at(lower, t, least)
        # The part of one's part may be known by now.
        lower = lower[lower]
        if (lower == part).all():
            return part
        part = lower


def _numbered(source: I64, target: I64, low: int, span: int) -> tuple[I64, I64, I64]:
    """Return the nodes, ascending, and the number of each edge's source and target among them."""
    if span <= 8 * len(source) + 1024:
        known = np.zeros(span, np.bool_)
        known[source - low] = True
        known[target - low] = True
        number = np.cumsum(known) - 1
        return np.flatnonzero(known) + low, number[source - low], number[target - low]
    nodes, ends = numbered(np.concatenate([source, target]))
    return nodes, ends[: len(source)], ends[len(source) :]


def _from_one(s: I64, t: I64, n: int, start: int) -> I64:
    """Return what can be reached from one node, breadth first."""
    first = np.searchsorted(s, np.arange(n + 1))
    seen = np.zeros(n, np.bool_)
    frontier = np.array([start])
    for _ in range(_WIDE_LEVELS):
        begin = first[frontier]
        counts = first[frontier + 1] - begin
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        found = t[np.repeat(begin, counts) + offsets]
        frontier = uniques(found[~seen[found]])
        if not len(frontier):
            return np.flatnonzero(seen)
        seen[frontier] = True
    # Deep and narrow: what is left is walked node by node.
    starts, targets, marks = first.tolist(), t.tolist(), seen.tolist()
    todo = frontier.tolist()
    while todo:
        node = todo.pop()
        tally(STEP)
        for other in targets[starts[node] : starts[node + 1]]:
            if not marks[other]:
                marks[other] = True
                todo.append(other)
    return np.flatnonzero(np.array(marks))


def _by_matrix(s: I64, t: I64, n: int) -> tuple[I64, I64]:
    reach = np.zeros((n, n), np.float32)
    reach[s, t] = 1
    pairs = -1
    while True:
        reach += reach @ reach
        np.minimum(reach, 1, out=reach)
        now = int(np.count_nonzero(reach))
        if now == pairs:
            a, b = np.nonzero(reach)
            return a, b
        pairs = now


def _by_levels(s: I64, t: I64, n: int, wanted: npt.NDArray[np.bool_] | None) -> I64 | None:
    """Join level by level; None where the graph is deep or nothing small enough to remember."""
    first = np.searchsorted(s, np.arange(n + 1))
    delta = s * n + t
    if wanted is not None:
        delta = delta[wanted[s]]
    if n * n <= _BITMAP:
        seen = np.zeros(n * n, np.bool_)
        seen[delta] = True
        parts = [delta]
        for level in count(1):
            last = len(delta)
            delta = uniques(_step(delta, first, t, n))
            delta = delta[~seen[delta]]
            if not len(delta):
                return np.concatenate(parts)
            if _too_deep(level, last, len(delta)):
                return None
            seen[delta] = True
            parts.append(delta)
    known = np.sort(delta)
    for level in count(1):
        last = len(delta)
        delta = uniques(_step(delta, first, t, n))
        at = np.minimum(np.searchsorted(known, delta), len(known) - 1)
        delta = delta[known[at] != delta]
        if not len(delta):
            return known
        if _too_deep(level, last, len(delta)):
            return None
        known = np.sort(np.concatenate([known, delta]), kind="stable")
    return None


def _too_deep(level: int, before: int, now: int) -> bool:
    """Whether, as fast as the levels get smaller, there are still many to come."""
    return level % _LEVELS == 0 and now > _LEVELS * max(before - now, 0)


def _step(delta: I64, first: I64, t: I64, n: int) -> I64:
    """Return the pairs that one more edge reaches."""
    origin = delta // n
    at = delta - origin * n
    origin, end = followed(origin * n, taken(first, at), taken(first, at + 1), t)
    return origin + end


def _by_components(
    s: I64, t: I64, n: int, wanted: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[I64, I64]]:
    """Condense cycles, then pass sets of nodes (as the bits of an int) from the leaves up."""
    first = np.searchsorted(s, np.arange(n + 1)).tolist()
    targets = t.tolist()
    component, members = _components(first, targets, n)
    # By component: what it reaches, and its members.
    reach = [0] * len(members)
    size = (n + 7) // 8
    # Nodes, and of each the bytes that say what it reaches.
    origins: list[int] = []
    reached: list[bytes] = []
    todo = 0
    # Tarjan numbers a component after all that it leads to.
    for c, nodes in enumerate(members):
        todo += STEP * len(nodes) + size // 8
        if todo > SMALL:
            tally(todo)
            todo = 0
        bits = 0
        cyclic = len(nodes) > 1
        for v in nodes:
            for w in targets[first[v] : first[v + 1]]:
                d = component[w]
                if d == c:
                    cyclic = True
                else:
                    bits |= reach[d]
        own = bits
        for v in nodes:
            own |= 1 << v
        if cyclic:
            bits = own
        reach[c] = own
        if not bits:
            continue
        if wanted is not None:
            nodes = [v for v in nodes if wanted[v]]
        origins += nodes
        reached += [bits.to_bytes(size, "little")] * len(nodes)
        if len(origins) * size > 1 << 20:
            yield _decode(origins, reached, size)
            origins, reached = [], []
    if origins:
        yield _decode(origins, reached, size)


def _decode(origins: list[int], reached: list[bytes], size: int) -> tuple[I64, I64]:
    data = np.frombuffer(b"".join(reached), np.uint8)
    used = np.flatnonzero(data)
    hits = np.flatnonzero(np.unpackbits(data[used], bitorder="little"))
    byte = used[hits >> 3]
    return np.array(origins, np.int64)[byte // size], (byte % size) * 8 + (hits & 7)


def _components(first: list[int], targets: list[int], n: int) -> tuple[list[int], list[list[int]]]:
    """Return the component of each node, and the members of each, after Tarjan, no recursion."""
    number = [0] * n
    low = [0] * n
    component = [-1] * n
    members: list[list[int]] = []
    stack: list[int] = []
    count = 0
    # The next edge of each node to go along.
    ahead = first[:n]
    for root in range(n):
        if number[root]:
            continue
        # On the way from the root to v.
        way: list[int] = []
        v = root
        count += 1
        number[v] = low[v] = count
        stack.append(v)
        while True:
            at = ahead[v]
            if at < first[v + 1]:
                ahead[v] = at + 1
                w = targets[at]
                if not number[w]:
                    count += 1
                    number[w] = low[w] = count
                    stack.append(w)
                    way.append(v)
                    v = w
                    if not count & _MANY:
                        tally(STEP * _MANY)
                    continue
                if component[w] < 0 and number[w] < low[v]:
                    low[v] = number[w]
                if not at & _MANY:
                    tally(STEP * _MANY)
                continue
            if low[v] == number[v]:
                group = []
                while True:
                    w = stack.pop()
                    component[w] = len(members)
                    group.append(w)
                    if w == v:
                        break
                members.append(group)
            if not way:
                break
            w, v = v, way.pop()
            if low[w] < low[v]:
                low[v] = low[w]
    return component, members
