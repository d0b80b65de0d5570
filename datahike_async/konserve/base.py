"""A base for backends: the calls that can be made of others, made of others.

A backend whose driver knows one key at a time subclasses ``BlobStoreBase`` and writes ``read``,
``write``, ``delete`` and ``names``; one that can do better overrides the rest too.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar, cast
from uuid import UUID

import anyio

from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Blob,
    BlobStore,
    Capabilities,
    Expected,
    Fault,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch, StoreClosed

__all__ = [
    "BlobStoreBase",
    "close_now",
    "faults_of",
    "gather",
    "listing",
    "refuse_forked",
    "require_revision",
]

A = TypeVar("A")
T = TypeVar("T")
Pages: TypeAlias = AsyncIterator[Sequence[str]]


async def gather(
    call: Callable[[A], Awaitable[T]], arguments: Sequence[A], limit: int
) -> Sequence[T]:
    """Return ``call`` of each argument, in order, at most ``limit`` of them running at a time.

    The first error comes out bare, after the calls that were running have ended.
    """
    if len(arguments) == 1 or limit == 1:
        return [await call(argument) for argument in arguments]
    results: dict[int, T] = {}
    failed: list[Exception] = []
    todo = iter(enumerate(arguments))

    async def worker() -> None:
        for index, argument in todo:
            if failed:
                return
            try:
                results[index] = await call(argument)
            except Exception as error:
                # Kept bare: a task group would wrap it.
                failed.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(arguments))):
            group.start_soon(worker)
    if failed:
        raise failed[0]
    if len(results) < len(arguments):
        # asyncio can cancel a single task; its group then ends without an error.
        raise OutcomeUnknown("One of several calls was cancelled from outside.")
    return [results[index] for index in range(len(arguments))]


@asynccontextmanager
async def listing(
    pages: AsyncIterator[Sequence[str]],
) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
    """Go through the pages of ``names`` inside the block; a generator ends with it, not later."""
    try:
        yield pages
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


async def faults_of(blobs: BlobStore) -> Sequence[Fault]:
    """Return what a store finds wrong with itself beyond its blobs, if it looks at that."""
    look = getattr(blobs, "faults", None)
    return () if look is None else cast("Sequence[Fault]", await look())


def close_now(blobs: BlobStore) -> None:
    """Close a store where no event loop can wait for it, if it knows how."""
    close = getattr(blobs, "close_now", None)
    if close is not None:
        close()


def refuse_forked(pid: int) -> None:
    """Raise StoreClosed elsewhere than in the process ``pid``, which opened a store.

    A forked child has copies of its locks, and those that a thread held stay locked for good.
    """
    if os.getpid() != pid:
        raise StoreClosed(
            f"This store was opened in process {pid}, of which this one is a fork; connect to it "
            "anew here."
        )


def require_revision(name: str, expected: Expected, found: Revision | None) -> None:
    """Check a write's condition against the revision that ``name`` has, None where it is absent.

    Call it where nobody else can write before you do. Raises RevisionMismatch.
    """
    if expected is not None and found != (None if expected is ABSENT else expected):
        raise RevisionMismatch(
            f"{name} has revision {found}, not {expected}.", expected=expected, found=found
        )


class BlobStoreBase(ABC):
    """A store of blobs, but for what is particular to it; see :mod:`datahike_async.konserve.blob`.

    ``at_once`` is how many single calls run at a time where a call of several keys is made of them.
    ``identity`` is the id that the store was made with, where the backend keeps one. ``read_only``
    says that it lies where nobody can write.
    """

    at_once: int = 16
    identity: UUID | None = None
    read_only: bool = False

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this store promises."""

    @property
    def server(self) -> str:
        """What is at the other end, for messages; empty where nothing is."""
        return ""

    @abstractmethod
    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return the bytes ``[start, end)`` of ``name``, or None where there is none."""

    @abstractmethod
    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace ``name`` by ``data`` and return its new revision."""

    @abstractmethod
    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove ``name`` and say whether it was there."""

    @abstractmethod
    def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of the names that are there."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the store holds; further calls raise ``StoreClosed``."""

    def close_now(self) -> None:
        """Let go of what the store holds, where no event loop can wait for ``close`` any more.

        To be overridden by what holds files or the like. May come after ``close``, and again.
        """
        return

    async def faults(self) -> Sequence[Fault]:
        """Look over what the store is made of beyond the bytes of blobs, and write nothing.

        To be overridden where there is such a thing: files with room in them, marks.
        """
        return ()

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read, and compare; a store that can leave the bytes out does better."""
        found = await self.read(name)
        return UNCHANGED if found is not None and found.revision == unless else found

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Read concurrently."""
        found = await gather(self.read, names, self.at_once)
        return {name: blob for name, blob in zip(names, found, strict=True) if blob is not None}

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write one after another, or concurrently where the order does not matter."""
        return await gather(lambda w: self.write(*w), writes, 1 if ordered else self.at_once)

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete concurrently."""
        return await gather(self.delete, names, self.at_once)
