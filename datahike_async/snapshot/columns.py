"""Columns that are kept: whole attributes as they are, and as windows into the past show them.

A column belongs to a state of its attribute: what the trees hold, and the first ``n`` operations of
a memtable. A later state's column is made of an earlier one and what was said in between, so that a
scan after a write costs what is new and a copy. A window that ends before the newest transaction
never changes again, and serves every later state. Bounded in bytes; columns are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple
from weakref import ReferenceType, ref

import numpy as np
import numpy.typing as npt

from datahike_async.index.columns import OBJECT, Column, Rows
from datahike_async.index.memtable import Memtable
from datahike_async.index.mixed import Mixed
from datahike_async.index.protocol import Order
from datahike_async.index.runs import changed, distinct, put_in, sorted_rows

__all__ = [
    "FOREVER",
    "PRESENT",
    "Change",
    "Columns",
    "Window",
    "ends_within",
    "windowed",
    "within",
]

FOREVER: Final = 2**62
"""The end of a window that is open: what is true now is true in it."""

# After so many operations that said nothing of an attribute its column is known to be newer.
_RESTAMP: Final = 64


class Window(NamedTuple):
    """What is seen of an attribute: asserted after ``lo``, and live at ``hi``; with ``history``
    every assertion and retraction in between.
    """

    lo: int = -1
    hi: int = FOREVER
    history: bool = False


PRESENT: Final = Window()


class Change(NamedTuple):
    """What became of one attribute from one state to another; rows in any order, or None.

    ``removes`` were there before, ``passed`` came and went in between. Both have ``until`` where
    the past is kept.
    """

    adds: Rows | None
    removes: Rows | None
    passed: Rows | None


class _Kept(NamedTuple):
    """The rows of a window after ``n`` operations of a memtable; None: on the trees alone.

    ``pending`` is what the trees have taken in since.
    """

    mem: ReferenceType[Memtable] | None
    n: int
    rows: Rows
    pending: tuple[Change, ...] = ()

    def is_of(self, mem: Memtable) -> bool:
        return self.mem is None or self.mem() is mem


_Key = tuple[int, Window]


class Columns:
    """The columns that are kept with trees. Threads may read and add at a time.

    What is made twice then, or forgotten, is made again: nothing here is the only one of its kind.
    """

    __slots__ = ("_bytes", "_kept", "limit")

    def __init__(self, limit: int) -> None:
        """``limit`` bounds their bytes; the newest one is kept however large it is."""
        self.limit = limit
        self._kept: dict[_Key, tuple[_Kept, ...]] = {}
        # No less than they take: what columns share is counted once where that matters.
        self._bytes = 0

    # -- reading -------------------------------------------------------------------------------

    def column(
        self,
        a: int,
        window: Window,
        mem: Memtable,
        n: int,
        m: int,
        make: Callable[[], Rows],
        *,
        keep: bool = True,
    ) -> Rows:
        """Return an open window's rows after ``n`` operations (``m`` rows) of a memtable.

        ``make`` gives those of the trees alone.
        """
        key = (a, window)
        best = self._best(key, mem, n) or self._base(key, make)
        change = _change(mem, a, best.n, n, m)
        if change is None:
            if keep and n - best.n > _RESTAMP:
                self._keep(key, _Kept(ref(mem), n, best.rows))
            return best.rows
        rows = _changed(best.rows, change, window)
        if keep:
            self._keep(key, _Kept(ref(mem), n, rows))
        return rows

    def settled(
        self,
        a: int,
        window: Window,
        mem: Memtable,
        n: int,
        m: int,
        make: Callable[[], Rows],
        *,
        of_trees: bool,
    ) -> Rows:
        """Return the rows of a window that a state holds whole: nothing said later is in it.

        ``of_trees``: the trees hold it whole. ``make`` gives the rows of the trees
        alone, of the same window without an end where it ended later.
        """
        key = (a, window)
        for kept in self._kept.get(key, ()):
            if kept.is_of(mem):
                self._touch(key)
                return kept.rows
        if of_trees:
            return self._base(key, make).rows
        open_key = (a, window._replace(hi=FOREVER))
        base = self._best(open_key, mem, 0) or self._base(open_key, make)
        change = _change(mem, a, 0, n, m)
        rows = base.rows if change is None else _changed(base.rows, change, window)
        self._keep(key, _Kept(ref(mem), n, rows))
        return rows

    def at_hand(
        self, a: int, window: Window, mem: Memtable | None = None, n: int = 0
    ) -> Rows | None:
        """Return rows if they are there as they are; without a memtable those of the trees alone.

        A window that has ended is the same whatever ``n`` is.
        """
        for kept in self._kept.get((a, window), ()):
            if kept.pending or (kept.mem is not None and (mem is None or kept.mem() is not mem)):
                continue
            if kept.n == n or window.hi != FOREVER:
                return kept.rows
        return None

    def nearly(self, a: int) -> Rows | None:
        """Return an attribute's present rows, though what is newest may lack."""
        found = self._kept.get((a, PRESENT))
        return found[-1].rows if found else None

    def _best(self, key: _Key, mem: Memtable, n: int) -> _Kept | None:
        """Return what is nearest to a state, with nothing pending."""
        best: _Kept | None = None
        for kept in self._kept.get(key, ()):
            if kept.is_of(mem) and kept.n <= n and (best is None or kept.n > best.n):
                best = kept
        if best is None or not best.pending:
            return best
        rows = best.rows
        for change in best.pending:
            rows = _changed(rows, change, key[1])
        best = best._replace(rows=rows, pending=())
        self._keep(key, best)
        return best

    def _base(self, key: _Key, make: Callable[[], Rows]) -> _Kept:
        made = _Kept(None, 0, make())
        self._keep(key, made)
        return made

    # -- keeping -------------------------------------------------------------------------------

    def _keep(self, key: _Key, kept: _Kept) -> None:
        """Keep rows in the place of others of the same memtable, if there are any."""
        others = []
        for other in self._kept.get(key, ()):
            if other.mem is None or kept.mem is None:
                if other.mem is not kept.mem:
                    others.append(other)
            elif other.mem() is kept.mem():
                if other.n > kept.n:
                    return  # an old state was read again
            elif other.mem() is not None:
                others.append(other)
        self._kept.pop(key, None)
        self._kept[key] = (*others, kept)
        self._bytes += kept.rows.nbytes
        if self._bytes > self.limit:
            self._evict()

    def _touch(self, key: _Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found

    @property
    def nbytes(self) -> int:
        """Bytes held, what several columns share counted once."""
        parts: dict[int, int] = {}
        for found in self._copy().values():
            for kept in found:
                for rows in (kept.rows, *(r for c in kept.pending for r in c if r is not None)):
                    parts.update(rows.sizes())
        return sum(parts.values())

    def _evict(self) -> None:
        self._bytes = self.nbytes
        # Windows into the past first, then what was kept longest ago.
        for key in sorted(self._copy(), key=lambda key: key[1] == PRESENT):
            if self._bytes <= self.limit or len(self._kept) < 2:
                return
            self._kept.pop(key, None)
            self._bytes = self.nbytes

    def _copy(self) -> dict[_Key, tuple[_Kept, ...]]:
        # Made in one step: a flush reads this in a thread while readers add to it.
        return self._kept.copy()

    # -- the next trees ------------------------------------------------------------------------

    def carried(
        self,
        changes: Mapping[int, Change],
        forgotten: Collection[int],
        mem: Memtable | None,
        n: int,
        max_tx: int,
    ) -> Columns:
        """Return the columns for trees that have taken in ``changes``: attribute to change.

        They are those of the first ``n`` operations of a memtable, if one is given, the last of
        transaction ``max_tx``. Of ``forgotten`` attributes the past is not what it was.
        """
        out = Columns(self.limit)
        for key, found in self._copy().items():
            a, window = key
            change = changes.get(a)
            if window != PRESENT and a in forgotten:
                continue
            base = next((x for x in found if x.mem is None), None)
            if window.hi != FOREVER:
                if base is None and mem is not None and window.hi <= max_tx:
                    own = next((x for x in found if x.is_of(mem) and x.n <= n), None)
                    base = None if own is None else _Kept(None, 0, own.rows)
                if base is not None:
                    out._kept[key] = (base,)
                continue
            if base is None:
                continue
            if change is not None:
                base = base._replace(pending=(*base.pending, change))
                if sum(map(_size, base.pending)) * 2 > len(base.rows):
                    # Reading the leaves again is as fast.
                    continue
            out._kept[key] = (base,)
        out._bytes = self._bytes
        return out


# -- changes ---------------------------------------------------------------------------------------


def _change(mem: Memtable, a: int, start: int, stop: int, m: int) -> Change | None:
    """Return what operations from ``start`` on say of an attribute; None: nothing."""
    own = mem.by_a.get(a)
    if own is None or start >= stop:
        return None
    born, dead, attribute = mem.born, mem.dead, mem.a
    stop = min(stop, len(mem.ops))
    if len(own) <= stop - start:
        rows = [r for r in own if r < m]
    else:
        said = {op if op >= 0 else ~op for op in mem.ops[start:stop]}
        rows = sorted(r for r in said if attribute[r] == a)
    adds: list[int] = []
    removes: list[int] = []
    passed: list[int] = []
    for r in rows:
        ended = dead[r] < stop
        if born[r] >= start:
            if born[r] < stop and not (ended and r in mem.repeats):
                (passed if ended else adds).append(r)
        elif ended and dead[r] >= start:
            removes.append(r)
    if not (adds or removes or passed):
        return None
    return Change(
        mem.rows(adds) if adds else None,
        mem.rows(removes, intervals=True) if removes else None,
        mem.rows(passed, intervals=True) if passed else None,
    )


def _changed(rows: Rows, change: Change, window: Window) -> Rows:
    """Return a window's rows after a change."""
    adds, removes, passed = change
    if not window.history:
        new = _joined([within(adds, window), _lasting(passed, window)])
        gone = None if removes is None else _until(removes, window.hi)
        out = changed(
            rows,
            [] if new is None else [sorted_rows(new, Order.AEVT)],
            [] if gone is None else [sorted_rows(gone, Order.AEVT)],
            Order.AEVT,
            False,
        )
        return _plain(out)
    new = _joined(
        [
            _flagged(within(adds, window), True),
            _flagged(within(passed, window), True),
            _flagged(ends_within(passed, window), False),
            _flagged(ends_within(removes, window), False),
        ]
    )
    if new is None:
        return rows
    return distinct(_plain(put_in(rows, sorted_rows(new, Order.AEVT), Order.AEVT)))


def windowed(present: Rows, ended: Sequence[Rows], window: Window) -> Rows:
    """Return what a window shows of present rows and of intervals that have ended, all sorted."""
    there = within(present, window)
    live = present.slice(0, 0) if there is None else there
    if window.history:
        parts = [
            part
            for run in ended
            for part in (
                _flagged(within(run, window), True),
                _flagged(ends_within(run, window), False),
            )
        ]
        base = _flagged(live, True)
        assert base is not None
    else:
        parts = [_lasting(run, window) for run in ended]
        base = live
    more = _joined(parts)
    if more is None:
        return base
    found = _plain(put_in(base, sorted_rows(more, Order.AEVT), Order.AEVT))
    # Where intervals of a fact meet in one transaction it begins or ends twice; and those overlap
    # that were asserted as of transactions before.
    return distinct(found, facts=not window.history)


def within(rows: Rows | None, window: Window) -> Rows | None:
    """Return the rows that were asserted in a window; the same object if all were."""
    if rows is None or (window.lo < 0 and window.hi == FOREVER):
        return rows
    t = rows.t
    keep = t <= window.hi
    if window.lo >= 0:
        keep &= t > window.lo
    return _taken(rows, keep)


def _taken(rows: Rows, keep: npt.NDArray[np.bool_]) -> Rows | None:
    if keep.all():
        return rows
    return rows.take(keep) if keep.any() else None


def _until(rows: Rows, hi: int) -> Rows | None:
    """Return those rows that ended by ``hi``."""
    return rows if hi == FOREVER or rows.until is None else _taken(rows, rows.until <= hi)


def _lasting(rows: Rows | None, window: Window) -> Rows | None:
    """Return intervals that a window shows as live."""
    if rows is None or window.hi == FOREVER or rows.until is None:
        return None
    found = _taken(rows, (rows.t > window.lo) & (rows.t <= window.hi) & (rows.until > window.hi))
    return None if found is None else Rows(found.e, found.a, found.v, found.t)


def ends_within(rows: Rows | None, window: Window) -> Rows | None:
    """Return the ends of intervals, as rows."""
    if rows is None or rows.until is None:
        return None
    return within(Rows(rows.e, rows.a, rows.v, rows.until), window)


def _flagged(rows: Rows | None, added: bool) -> Rows | None:
    if rows is None:
        return None
    return Rows(rows.e, rows.a, rows.v, rows.t, added=np.full(len(rows), added, np.bool_))


def _joined(parts: list[Rows | None]) -> Rows | None:
    there = [part for part in parts if part is not None and len(part)]
    return Rows.concat(there) if there else None


def _plain(rows: Rows) -> Rows:
    """Return rows with values that are objects, where they are mixed."""
    if not isinstance(rows.v, Mixed):
        return rows
    v = Column(OBJECT, rows.v.data)
    return Rows(rows.e, rows.a, v, rows.times, rows.until, rows.added)


def _size(change: Change) -> int:
    return sum(len(rows) for rows in change if rows is not None)
