"""Which ids entities get: each branch gives out those of a block of its own.

So what is new on one branch is never taken for what is new on another, and a merge takes it over as
it is. The main branch has the first block. Others are handed out by the registry of the store, and
a branch that has used its block up takes another, of twice the size at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "EMAX", "LEAST", "MAIN", "SPARE", "TX0", "UsedUp", "are_near"]

TX0: Final = 0x20000000
"""The transaction before the first; ids from here on are transactions, those below entities."""

EMAX: Final = 0x7FFFFFFF
"""The highest id there can be."""

MAIN: Final = range(1, 1 << 28)
"""What the main branch has, and every database that lies in no store."""

SPARE: Final = range(TX0 - (1 << 26), TX0)
"""For values that are no branch and whose block is used up, as ``with_`` makes them."""

BLOCKS: Final = range(MAIN.stop, SPARE.start)
"""What blocks are handed out of."""

LEAST: Final = 1 << 12
"""The size of a branch's first block: small, since many branches never use theirs."""


def are_near(eids: Sequence[int] | npt.NDArray[Any], ids: range, top: int) -> bool:
    """Whether all entity ids are of the block ``ids`` up to ``top``, or of no other branch's.

    Those may be stated without a look whether there is such an entity.
    """
    found = np.asarray(eids)
    own = (found >= ids.start) & (found < ids.stop)
    return bool((np.where(own, found <= top, found < BLOCKS.start) & (found > 0)).all())


class UsedUp(Exception):
    """A transaction needs more new ids than are left of the block: ``count`` at least."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count
