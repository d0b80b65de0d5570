from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from datahike_async.errors import CorruptData
from datahike_async.konserve.blob import Capabilities
from datahike_async.storage.nodes.layout import PACK_BYTES, Layout
from datahike_async.storage.nodes.sinks import make_sink, parts_of
from datahike_async.storage.nodes.store import _NEAR, NodeStore, _plan, checked


def source() -> NodeStore:
    store: Any = SimpleNamespace(capabilities=Capabilities())
    return NodeStore(store, bytes, 1_000_000)


class Node:
    nbytes = 10


def test_a_pack_knows_its_parts() -> None:
    sink = make_sink(Layout.PACKS, source(), UUID(int=5))
    nodes = [Node() for _ in range(5)]
    addresses = [sink.put(bytes([i]) * (i + 1), node) for i, node in enumerate(nodes)]
    [(name, data)] = sink.finish()
    assert parts_of(data, name) == addresses
    for i, address in enumerate(addresses):
        assert checked(address, data[address.offset :], address.offset) == bytes([i]) * (i + 1)
        assert sink.source.get(address) is nodes[i]


def test_a_large_flush_is_cut_into_packs() -> None:
    sink = make_sink(Layout.PACKS, source(), UUID(int=5))
    part = b"x" * (PACK_BYTES // 2 - 10)
    addresses = [sink.put_part(part) for _ in range(5)]
    packs = sink.finish()
    assert len(packs) == 3
    assert [a for name, data in packs for a in parts_of(data, name)] == addresses


@pytest.mark.parametrize("at", [0, 5, -1, -9, -20])
def test_a_flipped_byte_of_a_pack_is_found(at: int) -> None:
    sink = make_sink(Layout.PACKS, source(), UUID(int=5))
    for i in range(4):
        sink.put_part(bytes([i]) * 10)
    [(name, data)] = sink.finish()
    damaged = bytearray(data)
    damaged[at] ^= 1
    with pytest.raises(CorruptData, match=name):
        parts_of(bytes(damaged), name)
    with pytest.raises(CorruptData, match=name):
        parts_of(data[:-1], name)
    with pytest.raises(CorruptData, match=name):
        parts_of(b"", name)


def test_the_other_layout_has_a_key_for_each() -> None:
    sink = make_sink(Layout.NODES, source(), UUID(int=5))
    addresses = [sink.put_part(bytes([i]) * 3) for i in range(3)]
    assert [(a.blob, bytes([i]) * 3) for i, a in enumerate(addresses)] == sink.finish()
    assert {a.offset for a in addresses} == {0}


def test_near_ranges_are_read_as_one() -> None:
    sink = make_sink(Layout.PACKS, source(), UUID(int=5))
    addresses = [sink.put_part(b"x" * 1000) for _ in range(100)]
    near = addresses[:10]
    far = addresses[60:62]
    reads = _plan([*reversed(far), *near], _NEAR)
    assert [(r.start, r.stop, len(r.addresses)) for r in reads] == [
        (0, 10_000, 10),
        (60_000, 62_000, 2),
    ]
