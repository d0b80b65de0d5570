"""The names in a folder: what was renamed or removed is durable once the folder is synced.

A mark beside the files says whether that has happened: an odd number while names change, an even
one once they are synced. So whoever reads a file syncs the folder only where its writer has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_mark import Mark
from datahike_async.konserve.errors import OutcomeUnknown

__all__ = ["SETTLED", "Names"]

SETTLED: Final = "settled"


class Names:
    """The names in the folder with this handle."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._mark = Mark(SETTLED, folder, b"names")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make durable what names the block changes; only for whoever has the folder's lock.

        Raises OutcomeUnknown where they are changed, and may or may not be durable.
        """
        with io.system_errors("changing the folder"):
            self._mark.refresh()
            # Odd until the end, also where the one before never came so far.
            changing = (self._mark.read() or 0) | 1
            self._mark.write(changing)
        yield
        try:
            io.sync_folder(self._folder)
        except OSError as error:
            # What the folder now says may or may not outlive a crash: only a later open can tell.
            raise OutcomeUnknown(
                f"The folder could not be synced after a change: {error}"
            ) from error
        with suppress(OSError):  # then readers sync for themselves
            self._mark.write(changing + 1)

    def settle(self) -> None:
        """Make durable the names of files that were opened before this call. Raises OSError."""
        self._mark.refresh()
        number = self._mark.read()
        if number is None or number % 2:
            io.settle_folder(self._folder)

    def close(self) -> None:
        """Close the mark."""
        self._mark.close()
