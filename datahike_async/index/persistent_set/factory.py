"""What the registry holds for persistent-set: makes, restores and decodes it, checks its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from datahike_async.errors import ConfigError, shown
from datahike_async.index.columns import Rows
from datahike_async.index.persistent_set.node import Branch, Leaf, Node, decode, encode, first_key
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Child, Order
from datahike_async.index.source import Address, NodeSource

__all__ = ["PersistentSetFactory"]

_DEFAULT_LEAF: Final = 512
_REMOTE_LEAF: Final = 1024
"""A round trip costs more than the bytes: a quarter of a million datoms in two levels."""
_SMALLEST_LEAF: Final = 8
# Half as much again in a leaf is still far below what the codec takes for corrupt.
_LARGEST_LEAF: Final = 2**20


class PersistentSetFactory:
    """Makes and restores persistent sets. Config: ``branching-factor``, rows a leaf."""

    def check_config(self, config: Mapping[str, Any], *, remote: bool = False) -> Mapping[str, Any]:
        """Return the config with defaults; raise ConfigError on a bad key or value."""
        out: dict[str, Any] = {
            "branching-factor": _REMOTE_LEAF if remote else _DEFAULT_LEAF,
            "diff-buf-size": 0,
        }
        for key, value in config.items():
            name = str(getattr(key, "text", key)).removeprefix(":")
            if name not in out:
                raise ConfigError(
                    f"persistent-set has no index-config key {shown(key)}; it knows "
                    + ", ".join(":" + k for k in out)
                )
            if name == "branching-factor":
                if type(value) is not int or not _SMALLEST_LEAF <= value <= _LARGEST_LEAF:
                    raise ConfigError(
                        f":{name} is the number of datoms a leaf; it should be an int from "
                        f"{_SMALLEST_LEAF} to {_LARGEST_LEAF}, not {shown(value)}"
                    )
            elif type(value) is not int or value:
                raise ConfigError(
                    "persistent-set keeps no diff buffers: changes wait in the memtable until they "
                    "are flushed. Leave :diff-buf-size out, or 0."
                )
            out[name] = value
        return out

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> PersistentSet:
        """Return a set without rows."""
        return PersistentSet(order, temporal, config["branching-factor"], None, 0)

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> PersistentSet:
        """Return the set whose root record ``flush`` returned, reading nothing yet."""
        address = root["address"]
        return PersistentSet(
            order,
            temporal,
            root["leaf"],
            None,
            root["count"],
            None if address is None else Address(*address),
            source,
        )

    def decode(self, data: bytes | memoryview) -> Node:
        """Decode one stored node; raise CorruptData where it is none."""
        return decode(data)

    def below(self, node: Node) -> list[Child]:
        """Return the children of a node; none of a leaf."""
        if isinstance(node, Leaf):
            return []
        leaf = node.level == 1
        parts = zip(node.addresses, node.counts, node.keys, strict=True)
        return [Child(at, count, key, leaf) for at, count, key in parts if at is not None]

    def rows(self, node: Node) -> Rows:
        """Return the datoms of a leaf."""
        assert isinstance(node, Leaf)
        return node.rows

    def buffered(self, node: Node) -> tuple[Sequence[Rows], Sequence[Rows]]:
        """Return nothing: branches hold no rows."""
        return (), ()

    def first(self, rows: Rows, order: Order) -> Any:
        """Return the key of the first datom of a leaf."""
        return first_key(rows, order)

    def moved(self, node: Node, children: Sequence[Address]) -> bytes:
        """Encode a node whose children lie elsewhere now."""
        assert isinstance(node, Branch)
        return encode(node.over([], list(children)))

    def top(self, root: Mapping[str, Any]) -> Child | None:
        """Return what a root record names; None for an empty set."""
        address = root["address"]
        return None if address is None else Child(Address(*address), root["count"], None, False)

    def rooted(self, root: Mapping[str, Any], address: Address) -> Mapping[str, Any]:
        """Return a root record whose node lies elsewhere now."""
        return {**root, "address": address.to_data()}
