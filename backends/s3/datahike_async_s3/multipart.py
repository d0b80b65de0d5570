"""Large values: parts that are sent concurrently and become one object at the end, or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio

from datahike_async.konserve.base import gather
from datahike_async.konserve.blob import Revision

__all__ = ["put_in_parts"]

_PART: Final = 16 * 1024 * 1024
_MOST_PARTS: Final = 10_000
_AT_ONCE: Final = 4
_ABORT_SECONDS: Final = 10.0

Ask = Callable[..., Awaitable[Any]]


async def put_in_parts(ask: Ask, name: str, data: bytes) -> Revision:
    """Write an object in parts.

    Raises the driver's errors. What a failed or cancelled upload sent is thrown away.
    """
    size = max(_PART, -(-len(data) // _MOST_PARTS))
    started = await ask("create_multipart_upload", name)
    upload = {"UploadId": started["UploadId"]}

    async def send(number: int) -> dict[str, Any]:
        body = data[(number - 1) * size : number * size]
        answer = await ask("upload_part", name, PartNumber=number, Body=body, **upload)
        return {"ETag": answer["ETag"], "PartNumber": number}

    try:
        count = -(-len(data) // size)
        parts = await gather(send, range(1, count + 1), _AT_ONCE)
        done = await ask(
            "complete_multipart_upload",
            name,
            MultipartUpload={"Parts": list(parts)},
            **upload,
        )
        return str(done["ETag"])
    except BaseException:
        with anyio.move_on_after(_ABORT_SECONDS, shield=True), suppress(Exception):
            await ask("abort_multipart_upload", name, **upload)
        raise
