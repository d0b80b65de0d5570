"""Transitive closure by every way it can be computed, against the definition."""

from __future__ import annotations

import random

import numpy as np
import pytest

from datahike_async.query.relations import reach


def by_definition(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    out = set(edges)
    while True:
        more = {(a, d) for a, b in out for c, d in edges if b == c} - out
        if not more:
            return out
        out |= more


WAYS = {
    "as chosen": {},
    "matrix": {"_MATRIX": 10_000, "_DENSE": 0},
    "levels": {"_MATRIX": 0, "_FEW_EDGES": 0, "_LEVELS": 1000},
    "levels, sorted": {"_MATRIX": 0, "_FEW_EDGES": 0, "_LEVELS": 1000, "_BITMAP": 0},
    "components": {"_MATRIX": 0, "_FEW_EDGES": 10**9},
    "blocks": {"_BLOCK": 1, "_FEW_STARTS": 0},
    "blocks of components": {"_BLOCK": 4, "_FEW_STARTS": 0, "_FEW_EDGES": 10**9},
    "one by one": {"_FEW_STARTS": 10**9},
    "one by one, deep": {"_FEW_STARTS": 10**9, "_WIDE_LEVELS": 1},
    "components after levels": {"_MATRIX": 0, "_FEW_EDGES": 0, "_LEVELS": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(25))
def test_every_way_agrees(way: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(reach, name, value)
    rng = random.Random(seed)
    n = rng.choice([3, 10, 30])
    # Far apart, or close together.
    reach_of = 2**62 if seed % 3 else n
    nodes = [rng.randint(-reach_of, reach_of) for _ in range(n)]
    count = rng.choice([0, n, 3 * n, n * n // 2])
    edges = {(rng.choice(nodes), rng.choice(nodes)) for _ in range(count)}
    source = np.array([a for a, _ in edges], np.int64)
    target = np.array([b for _, b in edges], np.int64)
    expected = by_definition(edges)
    for starts in (None, [rng.choice(nodes), 7], []):
        limit = None if starts is None else np.array(starts, np.int64)
        found = [
            pair
            for a, b in reach.reachable(source, target, limit)
            for pair in zip(a.tolist(), b.tolist(), strict=True)
        ]
        assert len(found) == len(set(found))
        assert set(found) == {p for p in expected if starts is None or p[0] in starts}


def test_a_long_chain_and_a_long_cycle() -> None:
    n = 3000
    chain = np.arange(n)
    assert sum(len(a) for a, _ in reach.reachable(chain, chain + 1)) == n * (n + 1) // 2
    cycle = (chain + 1) % n
    one = list(reach.reachable(chain, cycle, np.array([5])))
    assert sorted(np.concatenate([b for _, b in one]).tolist()) == list(range(n))
