"""Splicing: a few rows taken out of many and a few put in, by copying what lies between.

Sorting, gathering and hashing go over every row; this copies memory. What has not changed at all is
shared: the entities, where only values did, and all strings of a dictionary.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import Narrow, repeated
from datahike_async.index.columns import CODED, I64, Column, Rows
from datahike_async.index.mixed import Mixed
from datahike_async.looks import SMALL, look, pieces

__all__ = ["is_few", "spliced"]

# A row that is put in or taken out costs as much as so many that are copied.
_COPIED: Final = 256
# A dictionary of so many times as many values as there are rows is made smaller.
_SPARE: Final = 2


def is_few(rows: Rows, added: Rows | None, count: int) -> bool:
    """Whether so many changes of rows, with those that are added, are few enough to be spliced."""
    if len(rows) < SMALL or count * _COPIED > len(rows) or isinstance(rows.v, Mixed):
        return False
    if added is None:
        return True
    same = (rows.until is None) == (added.until is None)
    return same and rows.v.kind == added.v.kind and (rows.added is None) == (added.added is None)


def spliced(rows: Rows, gone: I64, at: I64, added: Rows | None) -> Rows:
    """Return rows without those at ``gone``, and with others put before those at ``at``.

    Both are positions in ``rows`` and ascend; a row that is gone may be named in both. There are no
    more than ``is_few`` allows.
    """
    one = rows.a.strides == (0,) and (added is None or bool((added.a == rows.a[0]).all()))
    if added is not None and one and _takes_places(rows, gone, at, added):
        splice = _Splice(len(rows), gone[:0], at[:0])
        splice.put = gone
        e, a = rows.e, rows.a
    else:
        splice = _Splice(len(rows), gone, at)
        e = splice.of(rows.e, None if added is None else added.e)
        if one:
            a = repeated(rows.a, len(e))
        else:
            a = splice.of(rows.a, None if added is None else added.a)
    out = Rows(
        e,
        a,
        _column(splice, rows.v, None if added is None else added.v),
        _times(splice, rows.times, None if added is None else added.t),
        _optional(splice, rows.until, None if added is None else added.until),
        _optional(splice, rows.added, None if added is None else added.added),
    )
    if e is rows.e:
        out.dense = rows.dense
    return out


def _takes_places(rows: Rows, gone: I64, at: I64, added: Rows) -> bool:
    """Whether each row that is added is one of the same entity in the place of one that is gone."""
    return (
        len(gone) == len(at) > 0
        and bool(((at == gone) | (at == gone + 1)).all())
        and bool((rows.e[gone] == added.e).all())
    )


class _Splice:
    """What is copied from where to where: found once, done for one array after another."""

    def __init__(self, count: int, gone: I64, at: I64) -> None:
        # (where to, from, stop); and where the rows that are put in come to lie
        self.copies: list[tuple[int, int, int]] = []
        self.put = np.empty(len(at), np.int64)
        source = target = taken = 0
        leaving = [*gone.tolist(), count]
        for i, place in enumerate([*at.tolist(), count]):
            while leaving[taken] < place:
                target = self._copy(target, source, leaving[taken])
                source, taken = leaving[taken] + 1, taken + 1
            target = self._copy(target, source, place)
            source = max(source, place)
            if i < len(self.put):
                self.put[i] = target
                target += 1
        self.count = target

    def _copy(self, target: int, source: int, stop: int) -> int:
        if source >= stop:
            return target
        self.copies.append((target, source, stop))
        return target + stop - source

    def of(self, data: npt.NDArray[Any], new: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Return an array with the values of ``new`` put in."""
        out = np.empty(self.count, data.dtype)
        waiting = 0
        for target, source, stop in self.copies:
            if stop - source > SMALL:
                for i, j in pieces(stop - source):
                    out[target + i : target + j] = data[source + i : source + j]
                continue
            out[target : target + stop - source] = data[source:stop]
            waiting += stop - source
            if waiting > SMALL:
                look(waiting)
                waiting = 0
        if new is not None:
            out[self.put] = new
        return out


def _column(splice: _Splice, column: Column, new: Column | None) -> Column:
    if new is None or column.kind != CODED:
        data = splice.of(column.data, None if new is None else new.data)
        return Column(column.kind, data, column.dictionary).compact(_SPARE)
    assert column.dictionary is not None
    assert new.dictionary is not None
    if new.dictionary is column.dictionary:
        return Column(CODED, splice.of(column.data, new.data), column.dictionary)
    new = new.compact()
    assert new.dictionary is not None
    dictionary, (codes,) = column.dictionary.extended([new.dictionary])
    return Column(CODED, splice.of(column.data, codes[new.data]), dictionary).compact(_SPARE)


def _times(splice: _Splice, times: I64 | Narrow, new: I64 | None) -> I64 | Narrow:
    if not isinstance(times, Narrow):
        return splice.of(times, new)
    if new is not None:
        times = times.reaching(int(new.min()), int(new.max()))
    return times.remade(lambda above, least: splice.of(above, None if new is None else new - least))


def _optional(
    splice: _Splice, data: npt.NDArray[Any] | None, new: npt.NDArray[Any] | None
) -> npt.NDArray[Any] | None:
    return None if data is None else splice.of(data, new)
