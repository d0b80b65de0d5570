"""What the registry holds for the hitchhiker-tree: makes, restores and decodes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from datahike_async.errors import ConfigError, shown
from datahike_async.index.columns import Rows
from datahike_async.index.hitchhiker_tree.node import Buffered, decode
from datahike_async.index.hitchhiker_tree.tree import HitchhikerTree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import Node
from datahike_async.index.protocol import Order
from datahike_async.index.source import Address, NodeSource

__all__ = ["HitchhikerTreeFactory"]

_MEANS: Final = {
    "index-b-factor": "the number of children a branch",
    "index-data-node-size": "the number of datoms a leaf",
    "index-log-size": "the number of changes that wait in a branch over leaves",
}
_LEAST: Final = {"index-b-factor": 4, "index-data-node-size": 8, "index-log-size": 1}
_MOST: Final = {"index-b-factor": 2**12, "index-data-node-size": 2**20, "index-log-size": 2**20}


class HitchhikerTreeFactory(PersistentSetFactory):
    """Makes and restores hitchhiker-trees.

    Config: ``index-b-factor``, children a branch; ``index-data-node-size``, datoms a leaf;
    ``index-log-size``, changes that wait in a full branch over leaves (eight times as many in one
    over branches). Datahike's own are 17, 300 and 283; columns like more: 64, 512 (1,024 behind a
    network) and 4,096.
    """

    def check_config(self, config: Mapping[str, Any], *, remote: bool = False) -> Mapping[str, Any]:
        """Return the config with defaults; raise ConfigError on a bad key or value."""
        out: dict[str, Any] = {
            "index-b-factor": 64,
            "index-data-node-size": 1024 if remote else 512,
            "index-log-size": 4096,
        }
        for key, value in config.items():
            name = str(getattr(key, "text", key)).removeprefix(":")
            if name not in out:
                raise ConfigError(
                    f"hitchhiker-tree has no index-config key {shown(key)}; it knows "
                    + ", ".join(":" + k for k in out)
                )
            if type(value) is not int or not _LEAST[name] <= value <= _MOST[name]:
                raise ConfigError(
                    f":{name} is {_MEANS[name]}; it should be an int from {_LEAST[name]} to "
                    f"{_MOST[name]}, not {shown(value)}"
                )
            out[name] = value
        return out

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> HitchhikerTree:
        """Return a tree without rows."""
        made = HitchhikerTree(order, temporal, config["index-data-node-size"], None, 0)
        return made.sized(config["index-b-factor"], config["index-log-size"])

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> HitchhikerTree:
        """Return the tree whose root record ``flush`` returned, reading nothing yet."""
        at = root["address"]
        address = None if at is None else Address(*at)
        made = HitchhikerTree(order, temporal, root["leaf"], None, root["count"], address, source)
        return made.sized(root["branch"], root["log"])

    def decode(self, data: bytes | memoryview) -> Node:
        """Decode one stored node; raise CorruptData where it is none."""
        return decode(data)

    def buffered(self, node: Node) -> tuple[Sequence[Rows], Sequence[Rows]]:
        """Return what a branch adds to what lies below it, and what it takes away."""
        return node.buffer if isinstance(node, Buffered) else ((), ())
