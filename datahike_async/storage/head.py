"""The head: the one mutable value of a branch, which says what the branch is.

It names the roots of the trees as of the last flush and carries the records since then, or names
the segments they lie in (unless they lie in the journal beside it). Everything but the records and
a few counters changes at a flush only, so it is encoded once (``Base``) and copied into each new
head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from datahike_async._version import __version__
from datahike_async.errors import ConfigError, CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, unpack
from datahike_async.index.source import Address
from datahike_async.storage.codec import decode_items
from datahike_async.storage.ring import Ring

__all__ = ["RECENT", "Base", "Head", "Recent", "decode_head", "encode_head"]

_MAGIC: Final = "datahike-async/head"
_FORMAT: Final = 1
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
class Base:
    """What changes at a flush only. ``schema``, ``max_tx`` and so on are those of the trees.

    ``log`` is the address of the newest log segment. ``encoded`` is this object as bytes.
    """

    store: UUID
    branch: str
    config: Mapping[str, Any]
    schema: Mapping[str, Any]
    trees: Mapping[str, Any]
    instant: datetime | None
    log: list[Any] | None
    created: datetime
    encoded: bytes = field(default=b"", repr=False, compare=False)

    def with_encoding(self) -> Base:
        """Return the same with ``encoded`` filled in."""
        data = pack(
            {
                "store": self.store,
                "branch": self.branch,
                "config": dict(self.config),
                "schema": dict(self.schema),
                "trees": dict(self.trees),
                "instant": self.instant,
                "log": self.log,
                "created": self.created,
                "software": __version__,
            }
        )
        return replace(self, encoded=data)


@dataclass(frozen=True, slots=True)
class Head:
    """A head as it lies in the store.

    ``generation`` counts publications. ``commit`` is the newest commit of transactions;
    ``recent`` the ids of the last publications, the newest last; ``ring`` the writers that compete;
    ``tail`` the encoded records that the trees of ``base`` do not hold, or where they lie. A
    journal continues from there.
    """

    base: Base
    generation: int
    commit: UUID
    parents: tuple[UUID, ...]
    writer: UUID
    gc_epoch: int
    recent: Recent
    ring: Ring
    tail: tuple[bytes | Address, ...]


def encode_head(head: Head) -> bytes:
    """Encode a head."""
    return pack(
        [
            _MAGIC,
            _FORMAT,
            head.base.encoded,
            head.generation,
            head.commit,
            list(head.parents),
            head.writer,
            head.gc_epoch,
            head.recent.data,
            head.ring.to_data(),
            list(head.tail),
        ]
    )


def decode_head(data: Any, where: str, store: UUID | None) -> Head:
    """Decode a head that was read at ``where``; ``store`` is the id the caller expects, if any.

    Raises CorruptData; UnsupportedFormat for one of a newer version; ConfigError
    ``:store-identity-mismatch`` for that of another store.
    """
    if not isinstance(data, bytes):
        raise CorruptData(f"{where} holds no head of a database.", place=where)
    try:
        fields = unpack(data)
    except CorruptData as error:
        raise CorruptData(f"{where} holds no head of a database: {error}", place=where) from error
    if not isinstance(fields, list) or len(fields) < 2 or fields[0] != _MAGIC:
        raise CorruptData(f"{where} holds no head of a database.", place=where)
    if fields[1] > _FORMAT:
        raise UnsupportedFormat(
            f"{where} has format {fields[1]}; this version reads up to {_FORMAT}. Upgrade "
            "datahike-async to open this database.",
            error=":db-was-written-with-newer-datahike-version",
        )
    try:
        _, _, encoded, generation, commit, parents, writer, gc_epoch, recent, ring, tail = fields
        kept = unpack(encoded)
        base = Base(
            kept["store"],
            kept["branch"],
            kept["config"],
            kept["schema"],
            kept["trees"],
            kept["instant"],
            kept["log"],
            kept["created"],
            encoded,
        )
        ids = Recent(recent)
        items = tuple(decode_items(tail))
        members = Ring.from_data(ring)
        head = Head(base, generation, commit, tuple(parents), writer, gc_epoch, ids, members, items)
    except CorruptData:
        raise
    except Exception as error:
        raise CorruptData(f"{where} holds a damaged head: {error!r}", place=where) from error
    if store is not None and base.store != store:
        raise ConfigError(
            f"Store identity mismatch: the config names store {store}, but {where} belongs to "
            f"store {base.store}. Correct :id, or leave it out.",
            error=":store-identity-mismatch",
            expected=store,
            found=base.store,
        )
    return head
