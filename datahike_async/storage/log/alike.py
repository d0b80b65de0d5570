"""Many byte strings that are alike, as one that compresses well. Pure functions on bytes.

Transactions of one publication nearly always have the same form, so their bytes are as many and
mean the same. Those of one length are laid byte by byte: the first byte of each, the second of
each, and so on. So what is the same in all of them, or slowly grows, lies together: an update of
one value takes half of what it does one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datahike_async.index.codec import seal, unseal

__all__ = ["folded", "unfolded"]


def folded(strings: Sequence[bytes]) -> bytes:
    """Return byte strings as one, compressed."""
    parts = []
    for length, of in _classes([len(string) for string in strings]).items():
        joined = b"".join([strings[i] for i in of])
        parts.append(_turned(joined, len(of), length))
    lengths = np.array([len(string) for string in strings], "<u4")
    return seal([lengths.tobytes(), b"".join(parts)])


def unfolded(data: bytes) -> list[bytes]:
    """Return the byte strings that were folded, in their order.

    Raises CorruptData, ValueError or TypeError for what was not made so.
    """
    said, body = unseal(data)
    lengths = np.frombuffer(said, "<u4").tolist()
    if sum(lengths) != len(body):
        raise ValueError("entries that were folded are not as long as they say")
    out = [b""] * len(lengths)
    start = 0
    for length, of in _classes(lengths).items():
        stop = start + length * len(of)
        joined = _turned(body[start:stop], length, len(of))
        for at, i in zip(range(0, stop - start, max(length, 1)), of, strict=False):
            out[i] = joined[at : at + length]
        start = stop
    return out


def _classes(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Return the places of each length, lengths in the order of their first ones."""
    out: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        out.setdefault(length, []).append(i)
    return out


def _turned(data: bytes, rows: int, columns: int) -> bytes:
    if rows == 1 or columns <= 1:
        return data
    return np.frombuffer(data, np.uint8).reshape(rows, columns).T.tobytes()
