"""The list of broken stores, and how one gets into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from datahike_async.konserve.backends.memory import MemoryBlobStore

__all__ = ["BROKEN", "Planted", "found_by"]

Kind = TypeVar("Kind", bound=type[MemoryBlobStore])


class Planted(NamedTuple):
    """A broken kind of store, and the laws that must fail on it."""

    kind: type[MemoryBlobStore]
    found_by: Sequence[str]


BROKEN: Final[dict[str, Planted]] = {}
"""Every broken store by name."""


def found_by(*laws: str) -> Callable[[Kind], Kind]:
    """Plant a broken store, and say which laws it breaks."""

    def plant(kind: Kind) -> Kind:
        BROKEN[kind.__name__] = Planted(kind, laws)
        return kind

    return plant
