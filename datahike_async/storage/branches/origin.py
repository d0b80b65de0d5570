"""Where a commit is that something is to be made of, and what of its past is kept."""

from __future__ import annotations

from typing import NamedTuple

from datahike_async.storage.branches.registry import Floor
from datahike_async.storage.branches.walk import Place

__all__ = ["Origin"]


class Origin(NamedTuple):
    """Where a commit is, and from where on the past before it is kept: None where all is."""

    place: Place
    floor: Floor | None
