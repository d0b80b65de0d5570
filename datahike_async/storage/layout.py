"""Under which keys things lie, and which layout a store gets.

Packs: all nodes of a flush in a few blobs, an address is a range. Nodes: one key a node, where
small keys are cheap or a write of many keys is atomic.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from datahike_async.konserve.blob import Capabilities

__all__ = ["Layout", "head_key", "layout_of"]

PACK_BYTES: Final = 8 * 1024 * 1024


class Layout(Enum):
    """How index nodes are stored."""

    PACKS = "packs"
    NODES = "nodes"


def layout_of(capabilities: Capabilities) -> Layout:
    """Return the layout that suits a store."""
    if capabilities.cheap_small_keys or capabilities.atomic_multi:
        return Layout.NODES
    return Layout.PACKS


def head_key(branch: str) -> str:
    """Return the key of a branch's head."""
    return "head/" + branch
