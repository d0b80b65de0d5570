"""What a transaction did: its operations, read where they lie, in the memtable and in a bulk load.

There may be a million of them. So they are never made into tuples that live: whoever wants them as
columns gets blocks, whoever wants datoms one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from datahike_async.index.columns import Column, Rows
from datahike_async.index.memtable import Memtable
from datahike_async.tx.bulk import Bulk
from datahike_async.values.datom import Datom
from datahike_async.values.schema import Attr

__all__ = ["Columns", "Done"]


class Columns(NamedTuple):
    """Operations in columns, and whether each was added."""

    rows: Rows
    added: npt.NDArray[np.bool_]


class Done(Sequence[Datom]):
    """The datoms that a transaction added and retracted, in order; each is made when it is read.

    Those of the memtable between ``start`` and ``stop``, then those of ``bulk``.
    """

    __slots__ = ("_attrs", "_bulk", "_mem", "_start", "_stop", "_tx")

    def __init__(
        self, mem: Memtable, start: int, stop: int, bulk: Bulk | None, attrs: list[Attr], tx: int
    ) -> None:
        self._mem = mem
        self._start = start
        self._stop = stop
        self._bulk = bulk
        self._attrs = attrs
        self._tx = tx

    def __len__(self) -> int:
        return self._stop - self._start + (0 if self._bulk is None else len(self._bulk))

    @overload
    def __getitem__(self, i: int) -> Datom: ...
    @overload
    def __getitem__(self, i: slice) -> list[Datom]: ...
    def __getitem__(self, i: int | slice) -> Datom | list[Datom]:
        if isinstance(i, slice):
            return [self._datom(j) for j in range(*i.indices(len(self)))]
        count = len(self)
        if not -count <= i < count:
            raise IndexError(f"there are {count} datoms, and none at {i}")
        return self._datom(i % count)

    def __iter__(self) -> Iterator[Datom]:
        return map(self._datom, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, Done)):
            return NotImplemented
        return len(self) == len(other) and all(x == y for x, y in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if len(self) > 20:
            return f"<{len(self)} datoms: {self[:3]!r} …>"
        return repr(list(self))

    def _datom(self, i: int) -> Datom:
        mem, attrs = self._mem, self._attrs
        k = self._start + i
        if k >= self._stop:
            assert self._bulk is not None
            e, a, v, added = self._bulk.operation(k - self._stop)
            return Datom(e, attrs[a].ident, v, self._tx, added)
        op = mem.ops[k]
        if op >= 0:
            return Datom(mem.e[op], attrs[mem.a[op]].ident, mem.v[op], mem.t[op], True)
        # A retraction is shown with the transaction that made it.
        return Datom(mem.e[~op], attrs[mem.a[~op]].ident, mem.v[~op], mem.until[~op], False)

    def flat(self) -> list[Any]:
        """Return those of the memtable as the log keeps a few: entity, attribute, value of each.

        The transaction goes without saying, but for what another one said, which is a pair of
        entity and transaction; a retraction is told by the sign of the attribute.
        """
        mem, tx = self._mem, self._tx
        flat: list[Any] = []
        for op in mem.ops[self._start : self._stop]:
            row = op if op >= 0 else ~op
            e, a, t = mem.e[row], mem.a[row], mem.t[row]
            flat += (e if t == tx else (e, t), a if op >= 0 else ~a, mem.v[row])
        return flat

    def blocks(self, size: int) -> Iterator[Columns]:
        """Go through them as the log keeps them: a retraction has the transaction it undoes.

        So whoever replays them need not look at the trees. Those of a bulk come by attribute.
        """
        for start in range(0, self._stop - self._start, size):
            yield self._block(start, start + size)
        if self._bulk is not None:
            for rows, added in self._bulk.blocks(size):
                yield Columns(rows, np.full(len(rows), added, np.bool_))

    def _block(self, start: int, stop: int) -> Columns:
        mem = self._mem
        ops = mem.ops[self._start + start : min(self._start + stop, self._stop)]
        rows = [op if op >= 0 else ~op for op in ops]
        count = len(rows)
        e, a, v, t = mem.e, mem.a, mem.v, mem.t
        made = Rows(
            np.fromiter((e[r] for r in rows), np.int64, count),
            np.fromiter((a[r] for r in rows), np.int32, count),
            Column.of([v[r] for r in rows]),
            np.fromiter((t[r] for r in rows), np.int64, count),
        )
        return Columns(made, np.fromiter((op >= 0 for op in ops), np.bool_, count))
