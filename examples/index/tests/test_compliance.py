"""The suite of the library: whether this index does what an index has to."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import ClassVar

from block_index_example import BlockIndexFactory

from datahike_async.index.testing import IndexCompliance


class TestBlockIndex(IndexCompliance):
    factory = BlockIndexFactory()
    config: ClassVar = {"block-size": 8}


def test_it_is_found_by_its_entry_point():
    (point,) = entry_points(group="datahike_async.indexes", name="example/blocks")
    assert point.load() is BlockIndexFactory
