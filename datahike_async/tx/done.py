"""What a transaction did: its operations, read where they lie, in the memtable and in a bulk load.

There may be a million of them. So they are never made into tuples that live: whoever wants them as
columns gets blocks, whoever wants datoms one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from datahike_async.index.memtable import Memtable
from datahike_async.tx.bulk import Bulk
from datahike_async.values.datom import Datom
from datahike_async.values.schema import Attr

__all__ = ["Columns", "Done"]


class Columns(NamedTuple):
    """Operations as parallel lists: entities, attribute ids, values, transactions, added or not."""

    e: list[int]
    a: list[int]
    v: list[Any]
    t: list[int]
    added: list[bool]


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
        return self._stop - self._start + (0 if self._bulk is None else len(self._bulk.e))

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
            e, a, v = self._bulk.e, self._bulk.a, self._bulk.v
            k -= self._stop
            return Datom(e[k], attrs[a[k]].ident, v[k], self._tx, True)
        op = mem.ops[k]
        if op >= 0:
            return Datom(mem.e[op], attrs[mem.a[op]].ident, mem.v[op], mem.t[op], True)
        # A retraction is shown with the transaction that made it.
        return Datom(mem.e[~op], attrs[mem.a[~op]].ident, mem.v[~op], mem.until[~op], False)

    def operations(self) -> Iterator[tuple[int, int, Any, int, bool]]:
        """Go through those of the memtable, as ``block`` returns them: for a few."""
        mem = self._mem
        for op in mem.ops[self._start : self._stop]:
            row = op if op >= 0 else ~op
            yield mem.e[row], mem.a[row], mem.v[row], mem.t[row], op >= 0

    def block(self, start: int, stop: int) -> Columns:
        """Return operations as the log keeps them: a retraction has the transaction it undoes.

        So whoever replays them need not look at the trees.
        """
        mem = self._mem
        ops = mem.ops[self._start + start : min(self._start + stop, self._stop)]
        rows = [op if op >= 0 else ~op for op in ops]
        e, a, v, t = mem.e, mem.a, mem.v, mem.t
        made = Columns(
            [e[r] for r in rows],
            [a[r] for r in rows],
            [v[r] for r in rows],
            [t[r] for r in rows],
            [op >= 0 for op in ops],
        )
        bulk, left = self._bulk, stop - start - len(rows)
        if bulk is not None and left > 0:
            first = max(start - (self._stop - self._start), 0)
            part = slice(first, first + left)
            es = bulk.e[part]
            made.e.extend(es)
            made.a.extend(bulk.a[part])
            made.v.extend(bulk.v[part])
            made.t.extend([self._tx] * len(es))
            made.added.extend([True] * len(es))
        return made
