"""Which layout of nodes a store gets.

Packs: all nodes of a flush in a few blobs, an address is a range. Nodes: one key a node, where
small keys are cheap or a write of many keys is atomic.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from datahike_async.konserve.blob import Capabilities

__all__ = ["PLAIN_BYTES", "Layout", "layout_of", "pack_bytes"]

PLAIN_BYTES: Final = 4000
"""Nodes up to a page of a map are left uncompressed where they are decoded in the map."""
PACK_BYTES: Final = 8 * 1024 * 1024
_PACK_OVERHEAD: Final = 64 * 1024
"""Bytes of a pack's index, footer and envelope, with room to spare."""


class Layout(Enum):
    """How index nodes are stored."""

    PACKS = "packs"
    NODES = "nodes"


def layout_of(capabilities: Capabilities) -> Layout:
    """Return the layout that suits a store."""
    if capabilities.cheap_small_keys or capabilities.atomic_multi:
        return Layout.NODES
    return Layout.PACKS


def pack_bytes(capabilities: Capabilities) -> int:
    """Return how many bytes of nodes a pack may have in a store."""
    most = capabilities.max_value_bytes
    return PACK_BYTES if most is None else max(1, min(PACK_BYTES, most - _PACK_OVERHEAD))
