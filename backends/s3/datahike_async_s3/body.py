"""What a request carries, sent in pieces of a size that suits a socket."""

from __future__ import annotations

from io import BytesIO
from typing import Final

__all__ = ["Body"]

_PIECE: Final = 64 * 1024


class Body(BytesIO):
    """Bytes that are walked through in pieces.

    The driver sends what one iteration gives at a time. Of a plain BytesIO that is a line, and a
    line of random bytes has 256 of them.
    """

    def __next__(self) -> bytes:
        """Return the next piece."""
        if piece := self.read(_PIECE):
            return piece
        raise StopIteration
