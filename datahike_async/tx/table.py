"""A table as transaction data: what rows say of attributes, in columns.

Row for row it says what an entity map would; ``list(table)`` are these maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.index.columns import I64, Column
from datahike_async.values.schema import Attr

__all__ = ["Cells", "Table"]


class Cells(NamedTuple):
    """What a table says of one attribute.

    ``values`` are canonical; ``rows`` says which row each belongs to, ascending. Where ``by`` names
    a unique attribute, they are its values, and stand for the entities that have them.
    """

    attribute: Keyword
    rows: I64
    values: Column
    by: Keyword | None = None


class Table(Sequence[dict[Any, Any]]):
    """The facts of ``count`` rows, which are entities; an attribute comes once."""

    def __init__(
        self,
        count: int,
        cells: Sequence[Cells],
        many: frozenset[Keyword] = frozenset(),
        columns: Mapping[Keyword, str] | None = None,
    ) -> None:
        self._count = count
        self.cells: Final = cells
        # What the attributes are called where the table comes from.
        self.columns: Final = columns or {}
        # What is answered beside the entity ids of tempids, and kept with an idempotency key.
        self.answer: Mapping[str, int] = {}
        # Attributes with many values, whose cells are lists.
        self._many = many
        self._maps: list[dict[Any, Any]] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        return self.maps()[i]

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return iter(self.maps())

    def maps(self) -> list[dict[Any, Any]]:
        """Return the rows as entity maps."""
        if self._maps is None:
            maps: list[dict[Any, Any]] = [{} for _ in range(self._count)]
            for name, rows, values, by in self.cells:
                shown: Any = values.tolist()
                if by is not None:
                    shown = [[by, value] for value in shown]
                if name in self._many:
                    for row, value in zip(rows.tolist(), shown, strict=True):
                        maps[row].setdefault(name, []).append(value)
                else:
                    for row, value in zip(rows.tolist(), shown, strict=True):
                        maps[row][name] = value
            self._maps = maps
        return self._maps


class Facts(NamedTuple):
    """Cells of an attribute of the schema; ``place`` is that of its key in the map of a row."""

    attr: Attr
    rows: I64
    values: Column
    by: Attr | None
    place: int


class Stated(NamedTuple):
    """What a transaction states in columns.

    ``eids`` are the entities of its rows, -1 where that is not said; ``ids`` are where a row names
    its entity by a unique value. ``tempids`` are the rows' own.
    """

    items: int
    facts: list[Facts]
    eids: I64
    ids: list[tuple[I64, Attr, Column]]
    tempids: dict[int, Any]

    @property
    def size(self) -> int:
        """How many facts are stated."""
        return sum(len(facts.rows) for facts in self.facts)

    @property
    def attributes(self) -> set[int]:
        """The ids of all attributes that are stated, or looked into."""
        found = {facts.attr.id for facts in self.facts} | {attr.id for _, attr, _ in self.ids}
        return found | {facts.by.id for facts in self.facts if facts.by is not None}


def stated(count: int, facts: list[Facts]) -> Stated:
    """Return facts of rows that are named by nothing but unique values among them."""
    return Stated(count, facts, np.full(count, -1, np.int64), [], {})
