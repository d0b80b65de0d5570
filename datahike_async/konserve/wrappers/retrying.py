"""Retrying: ask again what may be asked again, with growing pauses, until a deadline.

Reads, unconditional writes and deletions are repeated even where the first may have been done; a
conditional write or an append only where it surely was not, for otherwise the second would lose
against the first. (A deletion that is repeated may say that there was nothing to delete.)
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import anyio

from datahike_async.konserve.base import listing
from datahike_async.konserve.blob import (
    Appended,
    Blob,
    BlobStore,
    Expected,
    Journal,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    StoreConfigError,
    StoreFull,
)
from datahike_async.konserve.wrappers.nested import WrapperBackend
from datahike_async.konserve.wrappers.passing import PassingBlobStore

__all__ = ["Patience", "RetryingBackend", "RetryingBlobStore"]

T = TypeVar("T")

_LONGEST_PAUSE: Final = 10.0


class Patience(NamedTuple):
    """How often and how long. ``first_pause`` (seconds) doubles each time and is jittered."""

    attempts: int = 5
    deadline: float = 30.0
    first_pause: float = 0.05


class RetryingBlobStore(PassingBlobStore):
    """A store behind patience. ``chance`` returns numbers in [0, 1), for the jitter."""

    def __init__(
        self,
        blobs: BlobStore,
        patience: Patience | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(blobs)
        self.patience = patience or Patience()
        self._chance = chance

    async def _again(self, call: Callable[[], Awaitable[T]], *, harmless: bool = True) -> T:
        """Return what ``call`` does in the end; ``harmless`` says that doing it twice is."""
        patience = self.patience
        start = anyio.current_time()
        pause = patience.first_pause
        for attempt in range(1, patience.attempts + 1):
            try:
                return await call()
            except KonserveError as error:
                retryable = error.retryable and not isinstance(error, StoreFull)
                if not (retryable or (harmless and isinstance(error, OutcomeUnknown))):
                    raise
                # The whole pause is random, so that many who failed at once do not come at once.
                wait = pause * self._chance()
                spent = anyio.current_time() - start
                if attempt == patience.attempts or spent + wait > patience.deadline:
                    raise _tired(error, attempt, spent) from error
            await anyio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read, repeatedly if need be."""
        return await self._again(lambda: self.blobs.read(name, start, end))

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read, repeatedly if need be."""
        return await self._again(lambda: self.blobs.read_latest(name, unless))

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Read, repeatedly if need be."""
        return await self._again(lambda: self.blobs.read_many(names))

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Read, repeatedly if need be."""
        return await self._again(lambda: self.lying.read_in_place(names, decode))

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """List; from the beginning, if need be, leaving out what was listed already."""
        listed: set[str] = set()
        pages = self.blobs.names()
        failed: KonserveError | None = None

        async def page() -> Sequence[str] | None:
            nonlocal pages, failed
            if failed is not None:
                # An iterator that failed is at its end.
                pages = self.blobs.names()
            try:
                found = await anext(pages, None)
            except KonserveError as error:
                failed = error
                raise
            failed = None
            return found

        try:
            while (found := await self._again(page)) is not None:
                fresh = [name for name in found if name not in listed]
                listed.update(fresh)
                if fresh:
                    yield fresh
        finally:
            async with listing(pages):
                pass

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write, repeatedly if need be and if there is no condition."""
        return await self._again(
            lambda: self.blobs.write(name, data, expected), harmless=expected is None
        )

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write, repeatedly if need be and if nothing has a condition."""
        harmless = all(write.expected is None for write in writes)
        # A prefix may have been written, so even a definite error is no reason to send conditions
        # again.
        if not harmless and not self.capabilities.atomic_multi:
            return await self.blobs.write_many(writes, ordered=ordered)
        return await self._again(
            lambda: self.blobs.write_many(writes, ordered=ordered), harmless=harmless
        )

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Delete, repeatedly if need be and if there is no condition."""
        return await self._again(
            lambda: self.blobs.delete(name, expected), harmless=expected is None
        )

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete, repeatedly if need be."""
        return await self._again(lambda: self.blobs.delete_many(names))

    # -- journals ------------------------------------------------------------------------------

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append, again only where nothing was appended."""
        return await self._again(
            lambda: self.journals.append(name, record, expected), harmless=False
        )

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Read, repeatedly if need be."""
        return await self._again(lambda: self.journals.read_journal(name, since))


def _tired(error: KonserveError, attempts: int, seconds: float) -> KonserveError:
    if attempts == 1:
        return error
    made = type(error)(f"{error} ({attempts} attempts in {seconds:.1f} s)")
    made.data.update(error.data)
    return made


class RetryingBackend(WrapperBackend):
    """Config: ``config``, the store behind; ``attempts``, ``deadline`` and ``first-pause`` in s."""

    keys = public = frozenset({"config", "attempts", "deadline", "first-pause"})

    def _patience(self, config: Mapping[str, Any]) -> Patience:
        usual = Patience()
        attempts = config.get("attempts", usual.attempts)
        if type(attempts) is not int or attempts < 1:
            raise StoreConfigError(
                f'"attempts" is a whole number, at least 1, not {attempts!r}.', key="attempts"
            )
        deadline = _seconds(config, "deadline", usual.deadline)
        return Patience(attempts, deadline, _seconds(config, "first-pause", usual.first_pause))

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse numbers that are none."""
        self._patience(config)

    def wrap(self, blobs: BlobStore, config: Mapping[str, Any]) -> BlobStore:
        """Return the store behind patience."""
        return RetryingBlobStore(blobs, self._patience(config))


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise StoreConfigError(f'"{key}" is a number of seconds, not {value!r}.', key=key)
    return float(value)
