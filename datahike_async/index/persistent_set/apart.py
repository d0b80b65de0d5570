"""What two trees do not share: the leaves of each that the other does not have.

Trees that were made of one another share every node that did not change, so what is looked at
follows what is different, not what there is. Nodes are told apart by where they lie, and those that
are not stored yet by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from datahike_async.index.columns import Rows
from datahike_async.index.persistent_set.node import Branch, Leaf, Node

__all__ = ["apart"]

_Child = Callable[[Branch, int], Node | None]
_LEAVES: Final = 0


def apart(
    left: tuple[Any, Node] | None,
    right: tuple[Any, Node] | None,
    left_child: _Child,
    right_child: _Child,
) -> tuple[list[Rows], list[Rows]]:
    """Return the rows of the leaves that only the one tree has, and only the other, ascending.

    A root is what tells it apart, and the node; None of a tree without any. A child that is None
    is missing, which its function has noted; what is returned is then of no use.
    """
    sides: list[list[tuple[int, Any, Any]]] = [
        [] if root is None else [(_level(root[1]), root[0], root[1])] for root in (left, right)
    ]
    children = (left_child, right_child)
    top = max((level for side in sides for level, _, _ in side), default=_LEAVES)
    for level in range(top, _LEAVES - 1, -1):
        shared = {key for at, key, _ in sides[0] if at == level} & {
            key for at, key, _ in sides[1] if at == level
        }
        for i, child in enumerate(children):
            below: list[tuple[int, Any, Any]] = []
            for at, key, item in sides[i]:
                if at == level and key in shared:
                    continue
                if at < level:
                    below.append((at, key, item))
                    continue
                node = child(*item) if isinstance(item, tuple) else item
                if node is None:
                    continue
                if isinstance(node, Branch):
                    below += [
                        (level - 1, _key(node, slot), (node, slot))
                        for slot in range(len(node.keys))
                    ]
                else:
                    below.append((-1, key, node))
            sides[i] = below
    return _rows(sides[0]), _rows(sides[1])


def _level(node: Node) -> int:
    return node.level if isinstance(node, Branch) else _LEAVES


def _key(branch: Branch, slot: int) -> Any:
    address = branch.addresses[slot]
    return id(branch.nodes[slot]) if address is None else address


def _rows(side: list[tuple[int, Any, Any]]) -> list[Rows]:
    return [node.rows for _, _, node in side if isinstance(node, Leaf)]
