"""What an encryptor is: the hook by which a store's values and metas are encrypted.

None is built in yet. A store that is given one encrypts whatever it writes from then on, records
the encryptor's number in each envelope, and still reads what was written in clear.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Encryptor"]


class Encryptor(Protocol):
    """Encrypts bytes with authentication. ``name`` is the name of the blob they are part of.

    ``part`` is ``"value"`` or ``"meta"``; a good encryptor binds both in, so that bytes moved to
    another place do not decrypt. ``id`` is its number, from 1 to 255, fixed for ever.
    """

    @property
    def id(self) -> int:
        """The number that stands in the envelope."""
        ...

    def encrypt(self, data: bytes, name: str, part: str) -> bytes:
        """Return the encrypted bytes."""
        ...

    def decrypt(self, data: bytes, name: str, part: str) -> bytes:
        """Return what was encrypted. Raises CorruptValue where it was tampered with."""
        ...
