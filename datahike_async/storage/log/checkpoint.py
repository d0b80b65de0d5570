"""Checkpoints: what a branch was at one of its flushes.

A flush writes one, a commit none. Any commit is the newest checkpoint at or before it, and the
records up to it. Checkpoints never change; the head of a branch carries a copy of its newest, so
that a branch is opened by its head alone, and begins as a copy of one.

Each says where some of those before it lie, so chosen that any of them is reached in a number of
steps that grows with the logarithm of how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import count
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async._version import __version__
from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, unpack
from datahike_async.index.registry import index_factory
from datahike_async.storage.hashes import checkpoint_hash, state_hash, value_id
from datahike_async.storage.log.records import Commit

__all__ = ["FORMAT", "Checkpoint", "Pointer", "check_format", "decode_checkpoint"]

FORMAT: Final = 3
"""The format of checkpoints and heads. There was no release with format 1 or 2."""


class Pointer(NamedTuple):
    """A checkpoint: its id, the newest transaction in it, and how many were before it."""

    id: UUID
    tx: int
    depth: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What changes at a flush only. ``schema``, ``instant`` and so on are those of the trees.

    ``born`` is the publication that began the branch: one that has its name and another is not it.
    ``id`` is the flush that made it, under whose key it lies. ``commit`` is the newest commit in
    the trees; ``log`` the address of the newest log segment;
    ``back`` of each power of two the last checkpoint before this one whose depth is a multiple.
    ``hash`` ties the trees to the commit, where commits are hashes; copies keep it.
    ``extra`` is what a newer version put there: it is carried on. ``encoded`` is this as bytes.
    """

    store: UUID
    branch: str
    born: UUID
    config: Mapping[str, Any]
    schema: Mapping[str, Any]
    trees: Mapping[str, Any]
    instant: datetime | None
    log: Sequence[Any] | None
    created: datetime
    id: UUID
    commit: Commit
    back: Sequence[Pointer] = ()
    hash: bytes = b""
    extra: Mapping[str, Any] = field(default_factory=dict)
    encoded: bytes = field(default=b"", repr=False, compare=False)

    @property
    def tx(self) -> int:
        """The newest transaction in the trees."""
        return int(self.trees["max-tx"])

    @property
    def ids(self) -> range:
        """The block that new entities of the branch get their ids of."""
        return range(*self.trees["ids"])

    @property
    def pointer(self) -> Pointer:
        """What later checkpoints say of this one."""
        return Pointer(self.id, self.tx, self.back[0].depth + 1 if self.back else 0)

    def with_encoding(self) -> Checkpoint:
        """Return the same with ``encoded`` filled in."""
        data: dict[str, Any] = {**self.extra, "format": FORMAT, "software": __version__}
        for name in _PLAIN:
            data[name] = getattr(self, name)
        data["commit"] = [self.commit.id, list(self.commit.parents)]
        data["back"] = [list(pointer) for pointer in self.back]
        if self.hash:
            data["hash"] = self.hash
        return replace(self, encoded=pack(data))

    def followed(self, **changed: Any) -> Checkpoint:
        """Return the next checkpoint, which differs in fields that are given."""
        return replace(self, back=self._back(), **changed).bound()

    def begun_anew(self, **changed: Any) -> Checkpoint:
        """Return the next checkpoint, from which nothing leads to those before it."""
        return replace(self, back=(), **changed).bound()

    @property
    def is_hashed(self) -> bool:
        """Whether commits are hashes."""
        return bool(self.config.get("crypto-hash"))

    def state(self) -> bytes:
        """Return the hash of what it holds, whatever it is called and wherever it lies."""
        factory = index_factory(self.config["index"])
        return state_hash(factory, self.config, self.schema, self.instant, self.trees)

    def binding(self) -> bytes:
        """Return what ``hash`` should be."""
        return checkpoint_hash(self.commit.id, self.commit.parents, self.state())

    def bound(self) -> Checkpoint:
        """Return a new one with its ``hash``, where commits are hashes, and its encoding."""
        made = replace(self, hash=self.binding()) if self.is_hashed else self
        return made.with_encoding()

    def alone(self) -> Checkpoint:
        """Return a new one that the log leads to from nowhere, with its encoding.

        Where commits are hashes the id of its own is that of what it holds.
        """
        made = self
        if self.is_hashed:
            made = replace(self, commit=Commit(self.value_id(), self.commit.parents))
        return made.bound()

    def value_id(self) -> UUID:
        """Return the id of the commit of one that the log leads to from nowhere."""
        return value_id(self.tx, self.commit.parents, self.id, self.state())

    def _back(self) -> list[Pointer]:
        me = self.pointer
        out: list[Pointer] = []
        for power in count():
            if me.depth % (1 << power) == 0:
                out.append(me)
            else:
                out.append(self.back[min(power, len(self.back) - 1)])
            if not out[-1].depth:
                return out
        raise AssertionError("the first checkpoint is a multiple of every power")

    def towards(self, tx: int) -> Pointer | None:
        """Return where to look next for the newest checkpoint that holds none after ``tx``.

        None where that is this one, or none is that old.
        """
        if self.tx <= tx or not self.back:
            return None
        later = [pointer for pointer in self.back if pointer.tx > tx]
        return later[-1] if later else self.back[0]


_OTHERS: Final = frozenset({"commit", "back", "hash", "extra", "encoded"})
_PLAIN: Final = [f.name for f in fields(Checkpoint) if f.name not in _OTHERS]
_NAMES: Final = frozenset({*_PLAIN, "commit", "back", "hash", "format", "software"})


def decode_checkpoint(data: bytes, where: str) -> Checkpoint:
    """Decode a checkpoint. Raises CorruptData; UnsupportedFormat for that of a newer version."""
    try:
        kept = unpack(data)
        check_format(kept["format"], where)
        return Checkpoint(
            **{name: kept[name] for name in _PLAIN},
            commit=Commit(kept["commit"][0], tuple(kept["commit"][1])),
            back=[Pointer(*pointer) for pointer in kept["back"]],
            hash=kept.get("hash", b""),
            extra={name: value for name, value in kept.items() if name not in _NAMES},
            encoded=data,
        )
    except (CorruptData, UnsupportedFormat):
        raise
    except Exception as error:
        raise CorruptData(f"{where} holds a damaged checkpoint: {error!r}", place=where) from error


def check_format(found: Any, where: str) -> None:
    """Raise UnsupportedFormat unless this version reads a format."""
    if type(found) is not int or found > FORMAT:
        raise UnsupportedFormat(
            f"{where} has format {found}; this version reads up to {FORMAT}. Upgrade "
            "datahike-async to open this database.",
            error=":db-was-written-with-newer-datahike-version",
        )
    if found < FORMAT:
        raise UnsupportedFormat(
            f"{where} has format {found}, which was written before version 0.1.0 was released; "
            f"this version reads format {FORMAT}. Load its data into a new database."
        )
