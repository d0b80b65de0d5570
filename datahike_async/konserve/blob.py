"""What a backend author implements: a small async protocol over named blobs.

A backend moves bytes; it knows nothing of serializers, checksums, keys or hooks. Those come for
free from :class:`datahike_async.konserve.store.Store`, which turns every key into a ``name`` of
lower-case hex digits (at most 64) and every value into bytes.

The contract, which ``datahike_async.konserve.testing`` checks:

* A write is durable when its coroutine returns, unless ``capabilities.durable`` is False.
* A reader sees the whole old or the whole new bytes of a name, never a mixture.
* ``expected`` makes a write conditional and atomic: ``ABSENT`` means the name must not exist, a
  revision means it must still have that revision; else ``RevisionMismatch`` and nothing is written.
  Where conditions hold, a revision that was replaced or removed never comes back.
* ``read`` returns what there is of a range: at and past the end no bytes, which is not None.
* ``read_latest`` sees every write that was acknowledged to anyone before it began; no cache
  answers for the store. Other reads may lag behind writers elsewhere (wrappers say how far).
* ``write_many`` keeps order unless ``ordered`` is False: an item is durable before a later one
  becomes visible. With ``capabilities.atomic_multi`` all become visible at once or none does.
* A failure whose effect is not known raises ``OutcomeUnknown``; every other error means that
  nothing was written (of ``write_many`` without ``atomic_multi``: a prefix may have been).
* ``names`` lists every name that is there from beginning to end, whatever comes and goes meanwhile.
* Cancelling a write either prevents it or lets it finish; it never leaves half of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

__all__ = [
    "ABSENT",
    "UNCHANGED",
    "Absent",
    "Appended",
    "Blob",
    "BlobStore",
    "Capabilities",
    "ConditionalDomain",
    "Expected",
    "Fault",
    "InPlaceBlobStore",
    "Journal",
    "JournalBlobStore",
    "News",
    "Revision",
    "Turn",
    "TurnBlobStore",
    "Unchanged",
    "Write",
]

T = TypeVar("T")

Revision: TypeAlias = str
"""An opaque token that changes whenever the bytes (or the journal) of a name change."""


class Absent(Enum):
    """Type of the ``ABSENT`` sentinel."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT


class Unchanged(Enum):
    """Type of the ``UNCHANGED`` sentinel."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The answer of a conditional read: what the caller has is still right."""
Expected: TypeAlias = "Revision | Absent | None"
"""None: unconditional. ABSENT: must not exist. A revision: must not have changed since."""


class ConditionalDomain(Enum):
    """How far a backend's compare-and-set is honoured."""

    NONE = "none"
    PROCESS = "process"
    MACHINE = "machine"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend promises; the layers above choose their layout by it."""

    durable: bool = True
    """Bytes survive the process (memory: False)."""
    conditional: ConditionalDomain = ConditionalDomain.NONE
    atomic_multi: bool = False
    """``write_many`` is all or nothing, conditions included."""
    ranged_reads: bool = True
    """``read`` with a range fetches only that range."""
    journal: bool = False
    """Implements :class:`JournalBlobStore`."""
    turns: bool = False
    """Implements :class:`TurnBlobStore`."""
    in_place: bool = False
    """Implements :class:`InPlaceBlobStore`."""
    cheap_small_keys: bool = False
    """Many small keys cost little (memory, LMDB); False: pack them (files, object stores)."""
    remote: bool = False
    """A request crosses a network: layers above ask for more at once, and in fewer rounds."""
    max_value_bytes: int | None = None
    """A longer write is refused with ``UnsupportedOperation``; None: no limit to speak of."""

    @property
    def compares(self) -> bool:
        """Whether a write can be made conditional at all."""
        return self.conditional is not ConditionalDomain.NONE


class Blob(NamedTuple):
    """Bytes as stored and the revision they have. Of a ranged read, ``data`` is the range."""

    data: bytes
    revision: Revision


class Fault(NamedTuple):
    """What is wrong with a part of a store that no blob's bytes show: where, and what."""

    place: str
    message: str


class Write(NamedTuple):
    """One item of ``write_many``."""

    name: str
    data: bytes
    expected: Expected = None


class Journal(NamedTuple):
    """A name's bytes, the records appended since they were written, and the present revision."""

    data: bytes
    records: Sequence[bytes]
    revision: Revision


class Appended(NamedTuple):
    """What was appended to a journal after a revision that the caller has; the present revision."""

    records: Sequence[bytes]
    revision: Revision


News: TypeAlias = "Journal | Appended | Blob | Unchanged | Absent"
"""What a name is by now: as ``read_journal`` says it, or ``read_latest`` where that is missing."""


class Turn(NamedTuple):
    """How a turn was come by: whether it ``held`` in the end, and whether it was ``waited`` for.

    Whoever calls ``last`` may lose the turn as soon as its next conditional write is done, which is
    sooner than its block ends. ``news`` is what was read as soon as the turn had come, if anything.
    """

    held: bool
    waited: bool
    last: Callable[[], None] = lambda: None
    news: News | None = None


@runtime_checkable
class BlobStore(Protocol):
    """An open store of named blobs."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        ...

    @property
    def server(self) -> str:
        """What is at the other end, for messages; empty where nothing is."""
        ...

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return the bytes ``[start, end)`` of ``name``, or None where there is none."""
        ...

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Return the whole of ``name`` as it is now; UNCHANGED if its revision is ``unless``."""
        ...

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace ``name`` by ``data`` and return its new revision."""
        ...

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove ``name`` and say whether it was there."""
        ...

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those of ``names`` that exist, fetched concurrently or in one hop."""
        ...

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write in order, or in any order, and return the new revisions; see the contract."""
        ...

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove ``names`` and say of each whether it was there."""
        ...

    def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of the names that are there."""
        ...

    async def close(self) -> None:
        """Release what the store holds; further calls raise ``StoreClosed``."""
        ...


@runtime_checkable
class JournalBlobStore(BlobStore, Protocol):
    """A store that can compare-and-set a name by appending to it: one small durable write.

    A name's value is then its bytes and the records appended since ``write`` last replaced them.
    ``write`` starts an empty journal; ``read`` returns the bytes alone, with the revision of the
    whole.
    """

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append ``record`` if the revision is still ``expected``; durable on return.

        Raises RevisionMismatch where another writer appended or replaced the bytes since.
        """
        ...

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return bytes, records and revision as they are now; None where there is no such name.

        UNCHANGED if the revision is ``since``; Appended, which costs by what it holds, where
        records were appended to that revision and the bytes are the same.
        """
        ...


@runtime_checkable
class InPlaceBlobStore(BlobStore, Protocol):
    """A store whose bytes can be looked at where they lie, in a map of its file for instance."""

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Return what ``decode`` makes of the names that exist and their bytes.

        It is called in a worker thread, for a name perhaps more than once. The bytes are there
        until it returns, and may then be those of something else: what it returns holds copies, and
        no view of them. What it raises is raised.
        """
        ...


@runtime_checkable
class TurnBlobStore(BlobStore, Protocol):
    """A store at which those who want to write one name can queue, whichever process they are in.

    While somebody has the turn of a name, conditional writes of others to it are refused with
    ``OutOfTurn``, in which nothing is written; everything else goes on. A turn ends with its block,
    and with its process. It gives order and no more: a holder's write still needs its condition.
    """

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Wait until it is the caller's turn to write ``name``, which it has inside the block.

        Waiting ends after a while: ``held`` is then False, and the caller tries its luck. With
        ``since``, the revision that the caller has, a store may read what is new in the same step,
        and tell it as ``news``.
        """
        ...
