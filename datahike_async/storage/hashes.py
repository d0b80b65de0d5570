"""Hashes of what a database with ``:crypto-hash?`` holds: of nodes, states, checkpoints, commits.

A hash says what something holds, and what everything below it holds; never where it lies, so that
a copy in another store has the same ones. Kinds are told apart by what the hashed bytes begin with.
Knows no store, and no index but by its factory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, unfolded
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.levels.nodes import parted
from datahike_async.index.source import Address

__all__ = ["checkpoint_hash", "hashed_id", "node_hash", "state_hash", "value_id"]

_LEAF: Final = b"datahike-async leaf"
_BRANCH: Final = b"datahike-async branch"
_STATE: Final = b"datahike-async state"
_CHECKPOINT: Final = b"datahike-async checkpoint"
_COMMIT: Final = b"datahike-async commit"
_VALUE: Final = b"datahike-async value"

# The bits of a UUID that say that its maker chose the others (RFC 9562, version 8).
_VERSION: Final = ~(0xF << 76 | 0x3 << 62), 0x8 << 76 | 0x2 << 62


def _digest(kind: bytes, *parts: bytes) -> bytes:
    found = sha256(kind)
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def _nowhere(digest: bytes) -> Address:
    return Address("", 0, 0, 0, digest)


# -- nodes -------------------------------------------------------------------------------------


def node_hash(factory: LevelsFactory, data: bytes, node: Any) -> bytes:
    """Return the hash of a decoded node, and of all that is below it.

    ``data`` are its bytes. Of one with children its own place and theirs make no difference.
    """
    children = factory.below(node)
    if not children:
        return _digest(_LEAF, data)
    moved = factory.moved(node, [_nowhere(child.address.hash) for child in children])
    return _digest(_BRANCH, _plain_bytes(moved))


def _plain_bytes(data: bytes) -> bytes:
    """Return bytes that another version of the compressor would have made as well."""
    whose, plain = parted(data)
    try:
        return whose + unfolded(plain)
    except (CorruptData, UnsupportedFormat):
        return data  # an index with an encoding of its own


# -- states ------------------------------------------------------------------------------------


def state_hash(
    factory: LevelsFactory,
    config: Mapping[str, Any],
    schema: Mapping[str, Any],
    instant: Any,
    trees: Mapping[str, Any],
) -> bytes:
    """Return the hash of what a checkpoint holds, whatever branch, copy and store it is in."""
    roots = {}
    for name, root in trees["roots"].items():
        named = [top.child.address for top in factory.tops(root)]
        roots[name] = factory.rooted(root, {at: _nowhere(at.hash) for at in named})
    fixed = {key: value for key, value in config.items() if key != "name"}
    return _digest(_STATE, pack(_plain([fixed, schema, instant, trees["max-tx"], roots])))


def _plain(value: Any) -> Any:
    """Return data in which what has no order has one."""
    if isinstance(value, Mapping):
        return ["map", sorted([pack(_plain(k)), pack(_plain(v))] for k, v in value.items())]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted(pack(_plain(x)) for x in value)]
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    return value


def checkpoint_hash(commit: UUID, parents: Collection[UUID], state: bytes) -> bytes:
    """Return the hash that ties a state to the commit that it is."""
    return _digest(_CHECKPOINT, commit.bytes, _joined(parents), state)


# -- commits -----------------------------------------------------------------------------------


def hashed_id(tx: int, parents: Sequence[UUID], publication: UUID, entry: bytes) -> UUID:
    """Return the id of a commit: of those it was made on, and of what the log says that it did.

    The publication's id is chance, so that no two writers ever make one commit.
    """
    return _id(tx, _digest(_COMMIT, publication.bytes, _joined(parents), entry))


def value_id(tx: int, parents: Sequence[UUID], made: UUID, state: bytes) -> UUID:
    """Return the id of a commit that no log tells of, for a branch begins with its state.

    ``made`` is the id of its checkpoint.
    """
    return _id(tx, _digest(_VALUE, made.bytes, _joined(parents), state))


def _joined(ids: Collection[UUID]) -> bytes:
    return b"".join(id_.bytes for id_ in ids)


def _id(tx: int, digest: bytes) -> UUID:
    # 90 bits are left. Its transaction stands in front and goes into the hash as well, by what is
    # hashed, so that one search cannot look for a forgery of many commits at once.
    number = tx << 96 | int.from_bytes(digest[:12], "big")
    return UUID(int=number & _VERSION[0] | _VERSION[1])
