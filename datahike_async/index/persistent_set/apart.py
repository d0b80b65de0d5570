"""What two trees do not share: the nodes of each that the other does not have.

Trees that were made of one another share every node that did not change, so what is looked at
follows what is different, not what there is. Nodes are told apart by where they lie, and those that
are not stored yet by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final

from datahike_async.index.persistent_set.node import Branch, Node

__all__ = ["apart"]

_Child = Callable[[Branch, int], Node | None]
_LEAVES: Final = 0


def apart(
    left: tuple[Any, Node] | None,
    right: tuple[Any, Node] | None,
    left_child: _Child,
    right_child: _Child,
) -> tuple[list[Node], list[Node]]:
    """Return the nodes that only the one tree has, and only the other, the upper levels first.

    The leaves come last, in order.

    A root is what tells it apart, and the node; None of a tree without any. A child that is None
    is missing, which its function has noted; what is returned is then of no use. All of one level
    are asked for, and none below: what these share is known only once all are there.
    """
    roots, children = (left, right), (left_child, right_child)
    top = max((_level(root[1]) for root in roots if root is not None), default=_LEAVES)
    # Of each side what may be its own at a level: what tells a node apart -> it, or where it hangs.
    sides: list[dict[Any, Any]] = [{}, {}]
    out: tuple[list[Node], list[Node]] = ([], [])
    for level in range(top, _LEAVES - 1, -1):
        for i, root in enumerate(roots):
            if root is not None and _level(root[1]) == level:
                sides[i] = dict([root])
        shared = sides[0].keys() & sides[1].keys()
        own: list[list[Any]] = []
        missing = False
        for side, child in zip(sides, children, strict=True):
            items = [item for key, item in side.items() if key not in shared]
            nodes = [child(*item) if isinstance(item, tuple) else item for item in items]
            missing = missing or None in nodes
            own.append(nodes)
        if missing:
            break
        for nodes, found in zip(own, out, strict=True):
            found += nodes
        sides = [_below(nodes) for nodes in own] if level > _LEAVES else []
    return out


def _below(branches: list[Branch]) -> dict[Any, tuple[Branch, int]]:
    """Return what tells the children of branches apart, and where they hang."""
    out: dict[Any, tuple[Branch, int]] = {}
    for branch in branches:
        keys: Sequence[Any] = branch.addresses
        if None in keys:
            keys = [id(n) if at is None else at for at, n in zip(keys, branch.nodes, strict=True)]
        out.update(zip(keys, zip(repeat(branch), range(len(keys))), strict=True))
    return out


def _level(node: Node) -> int:
    return node.level if isinstance(node, Branch) else _LEAVES
