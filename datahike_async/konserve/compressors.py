"""Compressors by name and by the number that stands in the envelope."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from datahike_async.konserve.errors import (
    CorruptValue,
    StoreConfigError,
    UnsupportedEncoding,
    shown,
)

__all__ = ["NONE", "ZSTD", "compress", "compressor_id", "decompress"]

NONE: Final = 0
ZSTD: Final = 2
_NAMES: Final = {"none": NONE, "zstd": ZSTD}
_LEAST: Final = 64
_MOST: Final = 1 << 31


@cache
def _zstd() -> Any:
    # Felt at import: loaded when the first value needs it.
    import zstandard

    return zstandard


def compressor_id(name: str) -> int:
    """Return the number of a compressor; raise StoreConfigError for an unknown name."""
    found = _NAMES.get(name) if isinstance(name, str) else None  # type: ignore[redundant-expr]
    if found is None:
        raise StoreConfigError(f"Unknown compressor {shown(name)}; known: {', '.join(_NAMES)}.")
    return found


def compress(data: bytes, wanted: int) -> tuple[bytes, int]:
    """Return the bytes and the compressor that made them: NONE where it would not help."""
    if wanted == ZSTD and len(data) >= _LEAST:
        made: bytes = _zstd().ZstdCompressor(level=1, write_checksum=False).compress(data)
        if len(made) < len(data):
            return made, ZSTD
    return data, NONE


def decompress(data: bytes, used: int) -> bytes:
    """Return what was compressed. Raises CorruptValue or UnsupportedEncoding."""
    if used == NONE:
        return data
    if used != ZSTD:
        raise UnsupportedEncoding(f"A stored value was compressed with an unknown method {used}.")
    zstd = _zstd()
    try:
        # The limit below does not hold for frames that state their size.
        if zstd.frame_content_size(data) > _MOST:
            raise CorruptValue("A stored value claims to be larger than any value is.")
        return zstd.ZstdDecompressor().decompress(data, max_output_size=_MOST)  # type: ignore[no-any-return]
    except zstd.ZstdError as error:
        raise CorruptValue(f"A stored value cannot be decompressed: {error}") from error
