"""Every key under which something lies in the store of a database.

Whoever sweeps, verifies or copies a store goes by these; nothing else lies there.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

__all__ = [
    "BRANCHES",
    "CREATING",
    "IMMUTABLE",
    "OURS",
    "PINS",
    "PROBES",
    "checkpoint_key",
    "head_branch",
    "head_key",
    "node_key",
    "pack_key",
    "pin_key",
    "probe_key",
    "segment_key",
    "tag_key",
]

_HEAD: Final = "head/"
_PACK: Final = "pack/"
_NODE: Final = "node/"
_LOG: Final = "log/"
_PROBE: Final = "probe/"
_COMMIT: Final = "commit/"
_TAG: Final = "tag/"
_PIN: Final = "pin/"

CREATING: Final = "creating"
"""The claim of whoever is creating the database."""

BRANCHES: Final = "branches"
"""The registry of branches."""

PINS: Final = "pins"
"""Who keeps which commits from being collected."""

IMMUTABLE: Final = (_PACK, _NODE, _LOG, _COMMIT, _TAG, _PIN)
"""What the keys begin with of blobs that never change, and of which no key is used again."""

PROBES: Final = _PROBE
"""What the keys begin with by which a store is tried out."""

OURS: Final = (_HEAD, *IMMUTABLE, _PROBE)
"""What the keys of a database begin with."""


def head_key(branch: str) -> str:
    """Return the key of a branch's head: the one blob of it that changes."""
    return _HEAD + branch


def head_branch(key: str) -> str | None:
    """Return the branch whose head lies under a key; None for the key of anything else."""
    return key.removeprefix(_HEAD) if key.startswith(_HEAD) else None


def pack_key(flush: UUID, number: int) -> str:
    """Return the key of a pack: nodes that one flush wrote, one after another."""
    return f"{_PACK}{flush.hex}-{number}"


def node_key(flush: UUID, number: int) -> str:
    """Return the key of one node of a flush."""
    return f"{_NODE}{flush.hex}-{number}"


def segment_key(id: UUID) -> str:
    """Return the key of a segment of the log."""
    return f"{_LOG}{id.hex}"


def checkpoint_key(flush: UUID) -> str:
    """Return the key of the checkpoint that a flush wrote."""
    return f"{_COMMIT}{flush.hex}"


def tag_key(publication: UUID) -> str:
    """Return the key of a tag: a head that never changes."""
    return f"{_TAG}{publication.hex}"


def pin_key(id: UUID) -> str:
    """Return the key under which a pin says what it keeps."""
    return f"{_PIN}{id.hex}"


def probe_key(id: UUID) -> str:
    """Return a key for trying a store."""
    return f"{_PROBE}{id.hex}"
