"""Bytes that an index writes for random updates.

``python -m benchmarks.indexes [datoms] [flushes]``: one long, indexed, cardinality one, uniform. A
flush takes 4,096 updates, through all three orders and their pasts. What counts is what is put into
the sink, encoded; the log and the heads come on top.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.protocol import Index, Order
from datahike_async.index.registry import HITCHHIKER_TREE, PERSISTENT_SET, index_factory
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import Address

EACH = 4096


class Sink:
    """Counts bytes, and holds all nodes."""

    def __init__(self) -> None:
        self.bytes = 0
        self.nodes: dict[Address, Any] = {}

    @property
    def source(self) -> Any:
        return self

    def put(self, data: bytes, node: Any) -> Address:
        address = Address("blob", len(self.nodes), len(data), 0)
        self.bytes += len(data)
        self.nodes[address] = node
        return address

    def get(self, address: Address) -> Any:
        return self.nodes.get(address)


def measured(name: str, count: int, flushes: int) -> tuple[float, float, float]:
    """Return bytes an update in the first and in the second half, and CPU milliseconds a flush."""
    # Without runs: they would gather changes before either index.
    factory, random, sink = index_factory(name).base, np.random.default_rng(0), Sink()
    config = factory.check_config({})
    v, t = random.integers(0, 2**40, count), np.full(count, 2**29, np.int64)

    def rows(at: Any, until: Any = None) -> Rows:
        a = np.full(len(at), 50, np.int32)
        return Rows(at + 1, a, Column(INT, v[at]), t[at], until)

    whole = rows(np.arange(count))
    present: dict[Order, Index] = {}
    past: dict[Order, Index] = {}
    for order in Order:
        empty = factory.empty(order, False, config)
        present[order] = empty.merge([sorted_rows(whole, order)], []).flush(sink)[0]
        past[order] = factory.empty(order, True, config)
    spent, written = 0.0, []
    for flush in range(flushes):
        at = np.sort(random.choice(count, EACH, replace=False))
        now = 2**29 + 1 + flush * EACH + random.permutation(EACH)
        old, ended = rows(at), rows(at, now)
        v[at], t[at] = random.integers(0, 2**40, EACH), now
        new, before, since = rows(at), sink.bytes, time.process_time()
        for order in Order:
            adds, gone = [sorted_rows(new, order)], [sorted_rows(old, order)]
            present[order] = present[order].merge(adds, gone, sure=True).flush(sink)[0]
            more = [sorted_rows(ended, order)]
            past[order] = past[order].merge(more, [], sure=True).flush(sink)[0]
        spent += time.process_time() - since
        written.append((sink.bytes - before) / EACH)
    half = flushes // 2
    return float(np.mean(written[:half])), float(np.mean(written[half:])), spent * 1000 / flushes


def main() -> None:
    """Measure both indexes and print a line each."""
    count = int(float(sys.argv[1])) if len(sys.argv) > 1 else 100_000
    flushes = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    for name in (PERSISTENT_SET, HITCHHIKER_TREE):
        first, second, cpu = measured(name, count, flushes)
        text = f"{first:,.0f} bytes an update, then {second:,.0f}; {cpu:,.0f} ms a flush"
        print(f"{name.partition('/')[2]} of {count:,}: {text}", flush=True)


if __name__ == "__main__":
    main()
