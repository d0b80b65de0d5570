"""Blobs as objects: their names under a prefix, ETags as revisions.

An ETag changes with the bytes, and S3 decides a conditional put by it, among all writers in the
world. Whatever may be sent again is, with jitter, until ``retry_seconds`` are over; a conditional
write is sent once, for its second sending would lose against its first.
"""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from botocore.exceptions import ClientError

from datahike_async.konserve import (
    ABSENT,
    UNCHANGED,
    Blob,
    BlobStoreBase,
    Capabilities,
    ConditionalDomain,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreUnavailable,
    surely,
)
from datahike_async.konserve.base import gather
from datahike_async.konserve.blob import Expected, Revision, Unchanged
from datahike_async_s3.body import Body
from datahike_async_s3.errors import is_missing, is_unchanged, still_there, translated
from datahike_async_s3.multipart import put_in_parts
from datahike_async_s3.settings import Settings

__all__ = ["MARKER", "S3BlobStore", "is_own"]

T = TypeVar("T")

MARKER: Final = "konserve.store"
_NAME: Final = re.compile(r"[0-9a-f]{1,64}")
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_DELETED_AT_ONCE: Final = 1000

_CAPABILITIES: Final = Capabilities(conditional=ConditionalDomain.GLOBAL, remote=True)


def is_own(name: str) -> bool:
    """Say whether an object under the prefix of a store is one of the store's."""
    return name == MARKER or _NAME.fullmatch(name) is not None


class S3BlobStore(BlobStoreBase):
    """Blobs in one bucket under one prefix. Owns its client."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._closed = False
        # What is not urgent queues here; conditional writes and reads of the latest do not.
        self._limit = anyio.CapacityLimiter(settings.requests_at_once)
        self._header = ""
        self.at_once = settings.requests_at_once

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises (if the server does as S3 does)."""
        return _CAPABILITIES

    @property
    def server(self) -> str:
        """What is at the other end, for messages."""
        name = f" ({self._header})" if self._header else ""
        return f"{self._settings.endpoint or 'Amazon S3'}{name}"

    def __repr__(self) -> str:
        return f"<S3BlobStore {self._settings.place}>"

    # -- requests ------------------------------------------------------------------------------

    async def _ask(self, operation: str, name: str | None = None, **parameters: Any) -> Any:
        """Send one request; raises the driver's errors."""
        if self._closed:
            raise StoreClosed("This store was released; connect to it again.")
        if name is not None:
            parameters["Key"] = self._settings.prefix + name
        if "Body" in parameters:
            parameters["Body"] = Body(parameters["Body"])
        method = getattr(self._client, operation)
        answer = await method(Bucket=self._settings.bucket, **parameters)
        named = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
        # The first of several: some servers add another one to some of their answers.
        self._header = named.split(",")[0]
        return answer

    def _what(self, verb: str, name: str = "") -> str:
        return f"{verb} {self._settings.place_of(name)}"

    async def _patiently(self, call: Callable[[], Awaitable[T]], *, again: bool = True) -> T:
        """Repeat what may be repeated; with ``again`` also what may have been done."""
        pause = _FIRST_PAUSE
        until = anyio.current_time() + self._settings.retry_seconds
        while True:
            try:
                return await call()
            except (StoreUnavailable, OutcomeUnknown) as error:
                wait = pause * random.uniform(0.5, 1.5)
                if isinstance(error, OutcomeUnknown) and not again:
                    raise
                if anyio.current_time() + wait > until:
                    raise
            await anyio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, or None: one request, a ranged one for a range."""
        async with self._limit:
            return await self._patiently(lambda: self._read(name, start, end))

    async def _read(self, name: str, start: int, end: int | None) -> Blob | None:
        with translated(self._what("reading", name)):
            if end is not None and end <= start:
                return await self._empty(name)
            whole = start == 0 and end is None
            last = "" if end is None else str(end - 1)
            wanted = {} if whole else {"Range": f"bytes={start}-{last}"}
            try:
                answer = await self._ask("get_object", name, **wanted)
            except ClientError as error:
                if is_missing(error):
                    return None
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                    return await self._empty(name)
                raise
            async with answer["Body"] as body:
                data = await body.read()
            if not whole and "ContentRange" not in answer:
                # A server that knows no ranges sends everything.
                data = data[start:end]
            return Blob(data, answer["ETag"])

    async def _empty(self, name: str) -> Blob | None:
        try:
            answer = await self._ask("head_object", name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return Blob(b"", answer["ETag"])

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Return what is there now; the bytes are left out where nothing changed."""
        return await self._patiently(lambda: self._read_latest(name, unless))

    async def _read_latest(self, name: str, unless: Revision | None) -> Blob | Unchanged | None:
        condition = {} if unless is None else {"IfNoneMatch": unless}
        with translated(self._what("reading", name)):
            try:
                answer = await self._ask("get_object", name, **condition)
            except ClientError as error:
                if is_unchanged(error):
                    return UNCHANGED
                if is_missing(error):
                    return None
                raise
            async with answer["Body"] as body:
                found = Blob(await body.read(), answer["ETag"])
            # A server that ignores the condition sends what the caller has.
            return UNCHANGED if found.revision == unless else found

    async def exists_at(self, key: str) -> bool:
        """Say whether there is an object under a whole key, outside of the prefix too."""
        return await self._patiently(lambda: self._exists_at(key))

    async def _exists_at(self, key: str) -> bool:
        with translated(f"looking for {key}"):
            try:
                await self._client.head_object(Bucket=self._settings.bucket, Key=key)
            except ClientError as error:
                if is_missing(error):
                    return False
                raise
            return True

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        after: str | None = None
        while True:
            page, after = await self.page(after)
            yield [name for name in page if _NAME.fullmatch(name)]
            if after is None:
                return

    async def page(self, after: str | None = None) -> tuple[list[str], str | None]:
        """Return what lies under the prefix, the prefix cut off, and what to ask for the rest."""
        answer = await self._patiently(lambda: self._page(after))
        cut = len(self._settings.prefix)
        rest = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
        return [item["Key"][cut:] for item in answer.get("Contents", ())], rest

    async def _page(self, after: str | None) -> Any:
        token = {} if after is None else {"ContinuationToken": after}
        with translated(self._what("listing")):
            return await self._ask("list_objects_v2", Prefix=self._settings.prefix, **token)

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace an object: one request, or several for a large one without a condition."""
        if expected is not None:
            return await self._patiently(lambda: self._write(name, data, expected), again=False)
        async with self._limit:
            return await self._patiently(lambda: self._write(name, data, None))

    async def _write(self, name: str, data: bytes, expected: Expected) -> Revision:
        condition: dict[str, str] = {}
        if expected is ABSENT:
            condition = {"IfNoneMatch": "*"}
        elif expected is not None:
            condition = {"IfMatch": expected}
        with translated(self._what("writing", name), writes=True, expected=expected):
            # The probe tries the conditions of puts, and servers exist that ignore those of parts.
            if expected is None and len(data) >= self._settings.multipart_bytes:
                return await put_in_parts(self._ask, name, data)
            answer = await self._ask("put_object", name, Body=data, **condition)
            return str(answer["ETag"])

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove an object and say whether it was there. Two requests: S3 does not say.

        Of several who delete at once more than one may be told that it was there.
        """
        async with self._limit:
            found = await self._patiently(lambda: self._revision(name))
            if expected is not None and (found or ABSENT) != expected:
                raise RevisionMismatch(
                    f"{name} has the revision {found}, not {expected}.",
                    expected=expected,
                    found=found,
                )
            if found is None:
                return False
            condition = {} if expected is None else {"IfMatch": found}
            again = expected is None
            await self._patiently(lambda: self._delete(name, condition), again=again)
            return True

    async def _revision(self, name: str) -> Revision | None:
        with translated(self._what("looking for", name)):
            found = await self._empty(name)
            return None if found is None else found.revision

    async def _delete(self, name: str, condition: dict[str, str]) -> None:
        expected = condition.get("IfMatch")
        with translated(self._what("deleting", name), writes=True, expected=expected):
            await self._ask("delete_object", name, **condition)

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove objects, a thousand a request."""

        async def there(name: str) -> bool:
            async with self._limit:
                return await self._patiently(lambda: self._revision(name)) is not None

        existed = await gather(there, names, self.at_once)
        present = [name for name, was in zip(names, existed, strict=True) if was]
        await self.remove(present)
        return existed

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects without asking whether they are there."""
        for start in range(0, len(names), _DELETED_AT_ONCE):
            part = names[start : start + _DELETED_AT_ONCE]
            await self._patiently(partial(self._remove, part))

    async def _remove(self, names: Sequence[str]) -> None:
        prefix = self._settings.prefix
        with translated(self._what("deleting"), writes=True):
            objects = [{"Key": prefix + name} for name in names]
            answer = await self._ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise still_there(self._what("deleting"), error)

    # -- the end -------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections."""
        if not self._closed:
            self._closed = True
            await surely(partial(self._client.__aexit__, None, None, None))
