"""The head: the one mutable value of a branch, which says what the branch is.

It carries a copy of the branch's newest checkpoint, and the records since then, or names the
segments they lie in (unless they lie in the journal beside it). What changes at a flush only is
encoded once (``Checkpoint``) and copied into each new head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from datahike_async.errors import ConfigError, CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, unpack
from datahike_async.index.source import Address
from datahike_async.storage.branches.ring import Ring
from datahike_async.storage.log.checkpoint import (
    FORMAT,
    Checkpoint,
    check_format,
    decode_checkpoint,
)
from datahike_async.storage.log.records import decode_items

__all__ = ["RECENT", "Head", "Recent", "decode_head", "encode_head"]

_MAGIC: Final = "datahike-async/head"
RECENT: Final = 64
"""How many publications a head remembers, for a writer that did not hear how its own went."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The ids of the last publications, the newest last, as one string of bytes.

    Every commit writes them again where the tail lies in the head: joining 64 ids each time would
    be a fourth of its work.
    """

    data: bytes = b""

    def __contains__(self, id: UUID) -> bool:
        return any(id.bytes == self.data[i : i + 16] for i in range(0, len(self.data), 16))

    def __len__(self) -> int:
        return len(self.data) // 16

    def after(self, new: UUID) -> Recent:
        """Return the recent publications once ``new`` is the newest."""
        return Recent(self.data[-16 * (RECENT - 1) :] + new.bytes)


@dataclass(frozen=True, slots=True)
class Head:
    """A head as it lies in the store.

    ``generation`` counts publications; ``epoch`` is that of the last collection that the branch was
    told of; ``recent`` the ids of the last publications, the newest last; ``ring`` the writers that
    compete; ``tail`` the encoded records that the trees of ``base`` do not hold, or where they lie.
    A journal continues from there. A ``deleted`` head is what is left of a branch until it is
    collected. ``extra`` is what a newer version put there: it is carried on.
    """

    base: Checkpoint
    generation: int
    epoch: int
    recent: Recent
    ring: Ring
    tail: tuple[bytes | Address, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    deleted: bool = False


_NAMES: Final = frozenset({"base", "generation", "epoch", "recent", "ring", "tail", "deleted"})


def encode_head(head: Head) -> bytes:
    """Encode a head."""
    fields = {
        **head.extra,
        "base": head.base.encoded,
        "generation": head.generation,
        "epoch": head.epoch,
        "recent": head.recent.data,
        "ring": head.ring.to_data(),
        "tail": list(head.tail),
    }
    if head.deleted:
        fields["deleted"] = True
    return pack([_MAGIC, FORMAT, fields])


def decode_head(data: Any, where: str, store: UUID | None) -> Head:
    """Decode a head that was read at ``where``; ``store`` is the id the caller expects, if any.

    Raises CorruptData; UnsupportedFormat for one of another version; ConfigError
    ``:store-identity-mismatch`` for that of another store.
    """
    if not isinstance(data, bytes):
        raise CorruptData(f"{where} holds no head of a database.", place=where)
    try:
        found = unpack(data)
    except CorruptData as error:
        raise CorruptData(f"{where} holds no head of a database: {error}", place=where) from error
    if not isinstance(found, list) or len(found) < 3 or found[0] != _MAGIC:
        raise CorruptData(f"{where} holds no head of a database.", place=where)
    check_format(found[1], where)
    try:
        fields = found[2]
        head = Head(
            decode_checkpoint(fields["base"], where),
            fields["generation"],
            fields["epoch"],
            Recent(fields["recent"]),
            Ring.from_data(fields["ring"]),
            tuple(decode_items(fields["tail"])),
            {name: value for name, value in fields.items() if name not in _NAMES},
            fields.get("deleted", False),
        )
    except (CorruptData, UnsupportedFormat):
        raise
    except Exception as error:
        raise CorruptData(f"{where} holds a damaged head: {error!r}", place=where) from error
    if store is not None and head.base.store != store:
        raise ConfigError(
            f"Store identity mismatch: the config names store {store}, but {where} belongs to "
            f"store {head.base.store}. Correct :id, or leave it out.",
            error=":store-identity-mismatch",
            expected=store,
            found=head.base.store,
        )
    return head
