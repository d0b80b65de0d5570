"""An index to copy: a sorted list of rows, cut into blocks, and a directory that names them.

The directory is one node: of each block its first key, how many rows it has, and where it lies. A
change makes new blocks of those that it touches, and a new directory; all other blocks are shared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from datahike_async.errors import ConfigError, CorruptData
from datahike_async.index import codec
from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.protocol import Bound, Child, Index, Order
from datahike_async.index.runs import changed
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource
from datahike_async.values.order import sort_key

Key = tuple[Any, ...]


class Block(NamedTuple):
    """A block: its first key and its number of rows, and its rows, or where they lie."""

    key: Key
    size: int
    rows: Rows | None
    address: Address | None


class Directory(NamedTuple):
    """The node above all blocks, as it is stored."""

    blocks: list[Block]

    @property
    def nbytes(self) -> int:
        return 400 * len(self.blocks)


def key_of(rows: Rows, i: int, order: Order) -> Key:
    e, a, v, t = int(rows.e[i]), int(rows.a[i]), sort_key(rows.v.value(i)), rows.tx(i)
    head = {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[order]
    return (*head, t) if rows.until is None else (*head, t, int(rows.until[i]))


def as_key(bound: Bound, order: Order) -> Key:
    at = 1 if order is Order.AVET else 2
    return tuple(sort_key(x) if i == at else x for i, x in enumerate(bound))


def span(rows: Rows, lower: Key, upper: Key, order: Order) -> tuple[int, int]:
    every = range(len(rows))
    low = bisect_left(every, lower, key=lambda i: key_of(rows, i, order)[: len(lower)])
    high = bisect_right(every, upper, key=lambda i: key_of(rows, i, order)[: len(upper)])
    return low, max(low, high)


class BlockIndex:
    """An immutable sorted index. ``blocks`` is None as long as its directory was not read."""

    def __init__(
        self,
        order: Order,
        temporal: bool,
        size: int,
        blocks: list[Block] | None,
        count: int,
        address: Address | None = None,
        source: NodeSource | None = None,
    ) -> None:
        self.order = order
        self.temporal = temporal
        self.size = size
        self.blocks = blocks
        self.count = count
        self.address = address
        self.source = source

    def __len__(self) -> int:
        return self.count

    # -- nodes -----------------------------------------------------------------------------

    def directory(self) -> list[Block]:
        if self.blocks is None:
            self.blocks = self.nodes([self.address])[0].blocks
        return self.blocks

    def nodes(self, addresses: Sequence[Any]) -> list[Any]:
        if not addresses:
            return []
        assert self.source is not None
        found = [self.source.get(address) for address in addresses]
        missing = [at for at, node in zip(addresses, found, strict=True) if node is None]
        if missing:
            raise NodeMiss(self.source, missing)
        return found

    def rows_of(self, blocks: Sequence[Block]) -> list[Rows]:
        stored = iter(self.nodes([block.address for block in blocks if block.rows is None]))
        return [next(stored) if block.rows is None else block.rows for block in blocks]

    def between(self, lower: Key, upper: Key) -> range:
        blocks = self.directory()
        first = bisect_left(blocks, lower, key=lambda block: block.key) - 1
        stop = bisect_right(blocks, upper, key=lambda block: block.key[: len(upper)])
        return range(max(first, 0), stop)

    # -- reading ---------------------------------------------------------------------------

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        low, high = as_key(lower, self.order), as_key(upper, self.order)
        blocks = self.directory()
        out: dict[int, list[Rows]] = {}
        for rows in self.rows_of([blocks[i] for i in self.between(low, high)]):
            start, stop = span(rows, low, high, self.order)
            if start < stop:
                group = 0 if self.order is Order.EAVT else int(rows.a[0])
                out.setdefault(group, []).append(rows.slice(start, stop))
        return [Rows.concat(runs) for runs in out.values()]

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        low, high = as_key(lower, self.order), as_key(upper, self.order)
        blocks, slots = self.directory(), self.between(low, high)
        for i in reversed(slots) if reverse else slots:
            (rows,) = self.rows_of([blocks[i]])
            start, stop = span(rows, low, high, self.order)
            if start < stop:
                rows = rows.slice(start, stop)
                yield rows.backwards() if reverse else rows

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        low, high = as_key(lower, self.order), as_key(upper, self.order)
        blocks, slots = self.directory(), self.between(low, high)
        edges = {i: blocks[i] for i in (slots[:1], slots[-1:]) for i in i}
        count = sum(blocks[i].size for i in slots if i not in edges)
        for rows in self.rows_of(list(edges.values())):
            start, stop = span(rows, low, high, self.order)
            count += stop - start
        return count

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        if not lower and not upper:
            return self.count, True
        try:
            return self.count_slice(lower, upper), True
        except NodeMiss:
            if self.blocks is None:
                return self.count // 2, False
        slots = self.between(as_key(lower, self.order), as_key(upper, self.order))
        return sum(self.blocks[i].size for i in slots), False

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        low, high = as_key(lower, self.order), as_key(upper, self.order)
        out, since = [], 0
        for i in self.between(low, high):
            block = self.directory()[i]
            if since and since + block.size > rows and block.key > low:
                entity = block.key[1]
                if not out or out[-1] < entity:
                    out.append(entity)
                    since = 0
            since += block.size
        return out

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        keys = [as_key(x, self.order) for x in zip(*(c.tolist() for c in bounds), strict=True)]
        blocks, touched = self.directory(), [self.between(key, key) for key in keys]
        known = sorted({i for slots in touched for i in slots})
        rows = dict(zip(known, self.rows_of([blocks[i] for i in known]), strict=True))
        out, counts = [], []
        for key, slots in zip(keys, touched, strict=True):
            spans = [(rows[i], *span(rows[i], key, key, self.order)) for i in slots]
            out += [run.slice(start, stop) for run, start, stop in spans if start < stop]
            counts.append(sum(stop - start for _, start, stop in spans))
        return Rows.concat(out), np.cumsum(np.array(counts, np.int64))

    # -- changing --------------------------------------------------------------------------

    def merge(
        self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False
    ) -> BlockIndex:
        blocks = self.directory()
        touched: dict[int, tuple[list[Rows], list[Rows]]] = {}
        for side, runs in enumerate((adds, removes)):
            for run in runs:
                for slot, part in self.parts(run, blocks):
                    touched.setdefault(slot, ([], []))[side].append(part)
        known = self.rows_of([blocks[i] for i in sorted(touched) if blocks])
        out, last = [], -1
        for slot, rows in zip(sorted(touched), known or [None], strict=bool(known)):
            out += blocks[last + 1 : slot]
            out += self.made(rows, *touched[slot])
            last = slot
        out += blocks[last + 1 :]
        count = sum(block.size for block in out)
        return BlockIndex(self.order, self.temporal, self.size, out, count, None, self.source)

    def parts(self, run: Rows, blocks: list[Block]) -> Iterator[tuple[int, Rows]]:
        # A current fact is one row whatever its transaction, and meets the one that is there.
        count = 5 if self.temporal else 3
        heads = [block.key[:count] for block in blocks]
        slots = [
            max(bisect_right(heads, key_of(run, i, self.order)[:count]) - 1, 0)
            for i in range(len(run))
        ]
        edges = [i for i, slot in enumerate(slots) if i == 0 or slot != slots[i - 1]]
        for start, stop in pairwise([*edges, len(run)]):
            yield slots[start], run.slice(start, stop)

    def made(self, rows: Rows | None, adds: list[Rows], removes: list[Rows]) -> list[Block]:
        groups: dict[int, tuple[list[Rows], list[Rows], list[Rows]]] = {}
        for side, runs in enumerate(([] if rows is None else [rows], adds, removes)):
            for run in runs:
                a = 0 if self.order is Order.EAVT else int(run.a[0])
                groups.setdefault(a, ([], [], []))[side].append(run)
        out = []
        for _, (old, more, less) in sorted(groups.items()):
            after = changed(Rows.concat(old), more, less, self.order, self.temporal)
            pieces = -(-len(after) // self.size)
            for i in range(pieces):
                start, stop = len(after) * i // pieces, len(after) * (i + 1) // pieces
                part = after.slice(start, stop)
                out.append(Block(key_of(part, 0, self.order), len(part), part, None))
        return out

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> BlockIndex:
        return self.merge([], rows)

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        if not isinstance(other, BlockIndex):
            return self.slice(), other.slice()
        mine, yours = (
            {block.address or id(block.rows): block for block in each.directory()}
            for each in (self, other)
        )
        left = [block for at, block in mine.items() if at not in yours]
        right = [block for at, block in yours.items() if at not in mine]
        return self.rows_of(left), other.rows_of(right)

    # -- storing ---------------------------------------------------------------------------

    def flush(self, sink: NodeSink) -> tuple[BlockIndex, Mapping[str, Any]]:
        address = self.address
        if address is None and self.blocks:
            stored = []
            for block in self.blocks:
                at = block.address
                if at is None:
                    rows = block.rows.owned()
                    at = sink.put(codec.seal([0, codec.encode_rows(rows)]), rows)
                stored.append(block._replace(rows=None, address=at))
            address = sink.put(encoded(stored), Directory(stored))
        record = {"address": None if address is None else address.to_data()}
        record |= {"count": self.count, "size": self.size}
        blocks = [] if address is None else None
        parts = (self.order, self.temporal, self.size, blocks, self.count)
        return BlockIndex(*parts, address, sink.source), record

    def loosened(self, blobs: Collection[str]) -> BlockIndex:
        blocks = self.directory()
        loose = [i for i, x in enumerate(blocks) if x.address and x.address.blob in blobs]
        if not loose and (self.address is None or self.address.blob not in blobs):
            return self
        out = list(blocks)
        for i, rows in zip(loose, self.rows_of([blocks[i] for i in loose]), strict=True):
            out[i] = out[i]._replace(rows=rows, address=None)
        return BlockIndex(self.order, self.temporal, self.size, out, self.count, None, self.source)

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> Sequence[Child] | None:
        if depth > 1 or not self.count:
            return None
        if depth == 0:
            at = self.address
            return [] if at is None else [Child(at, self.count, None, False)]
        blocks = self.directory()
        slots = self.between(as_key(lower, self.order), as_key(upper, self.order))
        there = (blocks[i] for i in slots)
        return [Child(x.address, x.size, x.key, True) for x in there if x.address is not None]

    def addresses(self) -> Iterator[Address]:
        if self.address is not None:
            yield self.address
        yield from (block.address for block in self.directory() if block.address is not None)


def encoded(blocks: Sequence[Block]) -> bytes:
    return codec.seal([1, [[list(x.key), x.size, x.address.to_data()] for x in blocks]])


class BlockIndexFactory:
    """Makes and restores block indexes. Config: ``block-size``, rows a block."""

    def check_config(self, config: Mapping[str, Any], *, remote: bool = False) -> Mapping[str, Any]:
        out: dict[str, Any] = {"block-size": 1024 if remote else 512}
        for key, value in config.items():
            name = str(getattr(key, "text", key)).removeprefix(":")
            if name != "block-size" or type(value) is not int or value < 1:
                raise ConfigError(f"A block index knows block-size, an int, and not {name}")
            out[name] = value
        return out

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> BlockIndex:
        return BlockIndex(order, temporal, config["block-size"], [], 0)

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> BlockIndex:
        address = None if root["address"] is None else Address(*root["address"])
        blocks = [] if address is None else None
        return BlockIndex(order, temporal, root["size"], blocks, root["count"], address, source)

    def decode(self, data: bytes | memoryview) -> Any:
        kind, content = self.plain(data)
        try:
            if kind == 0:
                return codec.decode_rows(content)
            blocks = [Block(tuple(k), int(n), None, Address(*at)) for k, n, at in content]
            if kind != 1 or not blocks:
                raise ValueError("this is neither a block nor a directory")
            return Directory(blocks)
        except Exception as error:
            raise CorruptData(f"Stored bytes are no node of a block index: {error}") from error

    def plain(self, data: bytes) -> Any:
        plain = codec.unseal(data)
        if not isinstance(plain, list) or len(plain) != 2:
            raise CorruptData("Stored bytes are no node of a block index.")
        return plain

    def below(self, node: Any) -> Sequence[Child]:
        blocks = node.blocks if isinstance(node, Directory) else []
        return [Child(block.address, block.size, block.key, True) for block in blocks]

    def rows(self, node: Any) -> Rows:
        return node

    def buffered(self, node: Any) -> tuple[Sequence[Rows], Sequence[Rows]]:
        return (), ()

    def first(self, rows: Rows, order: Order) -> Any:
        return key_of(rows, 0, order)

    def moved(self, node: Any, children: Sequence[Address]) -> bytes:
        pairs = zip(node.blocks, children, strict=True)
        return encoded([block._replace(address=at) for block, at in pairs])

    def top(self, root: Mapping[str, Any]) -> Child | None:
        at = root["address"]
        return None if at is None else Child(Address(*at), root["count"], None, False)

    def rooted(self, root: Mapping[str, Any], address: Address) -> Mapping[str, Any]:
        return {**root, "address": address.to_data()}
