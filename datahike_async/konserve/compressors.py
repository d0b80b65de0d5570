"""Compressors by name and by the number that stands in the envelope.

Few bytes may claim to stand for very many. What a stored value unfolds to is bounded before memory
is taken for it: by ``limit`` bytes, or by RATIO times what is stored, whichever is more. What would
unfold to more is written uncompressed, so that nothing that was written here meets the bound.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from datahike_async.konserve.errors import (
    CorruptValue,
    StoreConfigError,
    UnsupportedEncoding,
    shown,
)

__all__ = ["LIMIT", "NONE", "ZSTD", "compress", "compressor_id", "decompress", "unfolded_size"]

NONE: Final = 0
ZSTD: Final = 2
_NAMES: Final = {"none": NONE, "zstd": ZSTD}
_LEAST: Final = 64
LIMIT: Final = 4 * 1024 * 1024
"""What any value may unfold to, unless the configuration of a store says otherwise."""
_RATIO: Final = 100


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


def compress(data: bytes, wanted: int, limit: int = LIMIT) -> tuple[bytes, int]:
    """Return the bytes and the compressor that made them: NONE where it would not help."""
    if wanted == ZSTD and len(data) >= _LEAST:
        made: bytes = _zstd().ZstdCompressor(level=1, write_checksum=False).compress(data)
        if len(made) < len(data) <= _most(made, limit):
            return made, ZSTD
    return data, NONE


def _most(data: bytes, limit: int) -> int:
    return max(limit, _RATIO * len(data))


def unfolded_size(data: bytes, used: int) -> int:
    """Return how many bytes ``decompress`` would make; raise as it does."""
    if used == NONE:
        return len(data)
    if used != ZSTD:
        raise UnsupportedEncoding(f"A stored value was compressed with an unknown method {used}.")
    zstd = _zstd()
    try:
        size: int = zstd.frame_content_size(data)
    except zstd.ZstdError as error:
        raise CorruptValue(f"A stored value cannot be decompressed: {error}") from error
    if size < 0:
        raise CorruptValue("A compressed value does not say how large it is.")
    return size


def decompress(data: bytes, used: int, limit: int = LIMIT) -> bytes:
    """Return what was compressed. Raises CorruptValue or UnsupportedEncoding.

    CorruptValue also where it is larger than ``limit`` and than its ratio allows.
    """
    size = unfolded_size(data, used)
    if used == NONE:
        return data
    if size > _most(data, limit):
        raise CorruptValue(
            f"{len(data)} stored bytes claim to unfold to {size}, more than is allowed "
            f"({_most(data, limit)}), and nothing was unfolded. Where that is right, open the "
            'store with a larger "max-unfolded-bytes".'
        )
    zstd = _zstd()
    try:
        # The size that a frame states is what its decompression makes, or it fails.
        return zstd.ZstdDecompressor().decompress(data)  # type: ignore[no-any-return]
    except zstd.ZstdError as error:
        raise CorruptValue(f"A stored value cannot be decompressed: {error}") from error
