"""How much memory a database may take, and how that is divided.

The limit is the configuration's, or else the container's: of cgroups, of which the least that holds
for this process counts. It is one of the whole process. So the shares leave a part of it to Python,
to what is being written, and to what a step needs only while it runs.

What is let go is not the system's again by itself: small arrays lie between others that stay, and
the C library keeps the pages. So whoever lets go of much says so, and has them given back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

__all__ = [
    "COLUMNS",
    "Memory",
    "Slack",
    "container_limit",
    "memory_of",
    "said_by_groups",
    "trimming",
]

COLUMNS: Final = 256 * 1024 * 1024
"""Bytes of the attributes that are kept in columns, where no limit leaves less."""

_NODES: Final = 8
_KEPT: Final = 4
_QUERY: Final = 4
# What an old kernel says where there is no limit; no machine has so much.
_ENDLESS: Final = 2**60
_MUCH: Final = 32 * 1024 * 1024
_PLACES: Final = (("", "memory.max"), ("memory", "memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Memory:
    """The shares of one database, in bytes.

    ``nodes`` bounds its cache of nodes (None: by its own setting alone), ``columns`` the attributes
    that are kept, ``query`` the columns of each query (None: by its budget alone).
    """

    nodes: int | None = None
    columns: int = COLUMNS
    query: int | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.query is not None

    def node_bytes(self, wanted: int) -> int:
        """Return the bytes of a node cache for which ``wanted`` are set."""
        return wanted if self.nodes is None else min(wanted, self.nodes)


class Slack:
    """Bytes that were let go, and which the C library may keep for itself.

    ``trim`` gives the pages of it all back to the system; None where that cannot be asked for.
    """

    __slots__ = ("_bytes", "_trim")

    def __init__(self, trim: Callable[[int], object] | None) -> None:
        self._trim = trim
        self._bytes = 0

    def add(self, size: int) -> None:
        """Say that so many bytes were let go. Costs nothing, and may be a little out in a race."""
        self._bytes += size

    def give_back(self) -> bool:
        """Give back what is free, if it is much: some milliseconds, in a worker thread."""
        if self._bytes < _MUCH or self._trim is None:
            return False
        self._bytes = 0
        self._trim(0)
        return True


def trimming() -> Callable[[int], object] | None:
    """Return what gives free pages back to the system: glibc's ``malloc_trim``, where it is."""
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes = [ctypes.c_size_t]
    return cast("Callable[[int], object]", found)


def memory_of(limit: int | None) -> Memory:
    """Return the shares of a database for which ``limit`` bytes are set; None: the container's."""
    if limit is None:
        limit = _CONTAINER
    if limit is None:
        return Memory()
    return Memory(limit // _NODES, min(limit // _KEPT, COLUMNS), limit // _QUERY)


def container_limit(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes that the control groups of this process allow, or None where none does.

    A group's limit holds for those within it, so all above count too.
    """
    said = [text for _, text in said_by_groups(_PLACES, groups, root)]
    limits = [int(text) for text in said if text.isdigit()]
    return min((limit for limit in limits if limit < _ENDLESS), default=None)


def said_by_groups(
    places: Iterable[tuple[str, str]],
    groups: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
) -> Iterator[tuple[Path, str]]:
    """Yield what a file says in each control group of this process, and in those above it.

    ``places`` are pairs of a controller, "" for version 2, and that file under its root.
    """
    try:
        lines = groups.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        for controller, name in places:
            if controller not in controllers.split(","):
                continue
            folder, _, file = ("/" + name).rpartition("/")
            parts = [part for part in place.split("/") if part not in ("", "..")]
            for count in range(len(parts) + 1):
                path = root.joinpath(folder.lstrip("/"), *parts[:count], file)
                # As far as they can be seen.
                with suppress(OSError, UnicodeDecodeError):
                    yield path, path.read_text("ascii").strip()


# Looked up once, when this is imported: reading a file would hold up an event loop.
_CONTAINER: Final = container_limit()
