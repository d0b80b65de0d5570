"""Strings as bytes: many different ones, one after the other, and where each begins.

An object a string takes 50 bytes beside its characters, and a table of them as much again. Here all
are UTF-8 in one run of bytes, whose order is that of the strings. Comparing, searching and sorting
go over eight bytes of each at a time; Python's strings are made of those alone that are asked for.
Knows neither columns nor codes of columns: a string is its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.cores import in_pieces
from datahike_async.index.arrays import joined, order_of, positions_of, spans, taken
from datahike_async.index.objects import OBJECTS
from datahike_async.looks import PIECE, pieces, walked

__all__ = ["Texts"]

_Numbers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]

# What handling eight bytes of a string counts for, and making one, in looks at the clock.
_WORD: Final = 4
_MADE: Final = 8
# So many bytes are decoded and left, for one string that is wanted.
_NEAR: Final = 512
# What the strings of a piece count for, where pieces are shared: a millisecond of work.
_SHARED: Final = 4 * PIECE
# Longer ones are handled one by one: bytes from which on they are.
_LONG: Final = 256
# Places in the table for each string, at least.
_PLACES: Final = 1.3
# What looking one up counts for.
_LOOKED_UP: Final = 16
# Lone halves of a pair are characters for Python, and keep their order.
_ERRORS: Final = "surrogatepass"


class Texts:
    """Strings that never change. ``texts[number]`` is one; a slice gives a list."""

    __slots__ = ("_ascii", "_data", "_starts", "_table", "_view", "longest")

    def __init__(self, data: bytes, starts: npt.NDArray[Any], *, ascii_only: bool) -> None:
        """``starts`` says where each begins, and where the last one ends."""
        # Eight zeros more, so that each string can be read in words.
        self._data = data
        self._view = np.frombuffer(data, np.uint8)
        self._starts = starts
        self._ascii = ascii_only
        self._table: npt.NDArray[np.int32] | None = None
        self.longest = max(
            (int(np.diff(starts[i : j + 1]).max()) for i, j in pieces(len(self)) if j > i),
            default=0,
        )

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return (
            len(self._data)
            + self._starts.nbytes
            + (0 if self._table is None else self._table.nbytes)
        )

    # -- making --------------------------------------------------------------------------------

    @classmethod
    def of(cls, runs: Iterable[Sequence[str]]) -> Texts:
        """Return the strings of some runs, one after the other; maybe some of them twice."""
        data: list[bytes] = []
        lengths: list[npt.NDArray[Any]] = []
        ascii_only = True
        for run in runs:
            for i, j in pieces(len(run), each=_MADE, size=min(PIECE, _MADE * OBJECTS)):
                part = run[i:j]
                whole = "".join(part)
                if whole.isascii():
                    data.append(whole.encode())
                    each: Iterable[int] = map(len, part)
                else:
                    ascii_only = False
                    encoded = [text.encode("utf-8", _ERRORS) for text in part]
                    data.append(b"".join(encoded))
                    each = map(len, encoded)
                lengths.append(np.fromiter(each, np.int64, len(part)))
        return _made(data, joined(lengths) if lengths else np.empty(0, np.int64), ascii_only)

    def different(self) -> tuple[Texts, npt.NDArray[np.int32] | None]:
        """Return the different strings, in the order in which they come first.

        And the number of each of these there; None where all differ.
        """
        same = self._numbers_in(self, own=True)
        count = len(same)
        first = same == np.arange(count, dtype=np.int32)
        if first.all():
            return self, None
        number = (np.cumsum(first) - 1).astype(np.int32)
        return self.taken(positions_of(first)), taken(number, same)

    def taken(self, numbers: npt.NDArray[Any]) -> Texts:
        """Return some of the strings, by their numbers."""
        starts = self._starts
        begin = taken(starts, numbers).astype(np.int64)
        lengths = taken(starts, numbers + 1).astype(np.int64) - begin
        data = []
        for i, j in pieces(len(numbers), each=max(len(self._data) // max(len(self), 1), 1)):
            part = lengths[i:j]
            data.append(self._view[spans(begin[i:j], part, int(part.sum()))].tobytes())
        return _made(data, lengths, self._ascii)

    def followed_by(self, others: Sequence[str]) -> Texts:
        """Return these strings and some more."""
        more = Texts.of([others])
        lengths = [np.diff(texts._starts).astype(np.int64) for texts in (self, more)]
        data = [self._data[:-8], more._data[:-8]]
        return _made(data, joined(lengths), self._ascii and more._ascii)

    # -- Python's strings ----------------------------------------------------------------------

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return self._run(*number.indices(len(self))[:2])
        if number < 0:
            number += len(self)
        i, j = self._starts[number], self._starts[number + 1]
        return self._data[i:j].decode("utf-8", _ERRORS)

    def _run(self, start: int, stop: int) -> list[str]:
        """Return the strings from one to another."""
        if stop <= start:
            return []
        bounds = self._starts[start : stop + 1]
        if not self._ascii:
            return self._decoded(bounds[:-1], bounds[1:])
        first = int(bounds[0])
        whole = self._data[first : int(bounds[-1])].decode("ascii")
        ends = (bounds - bounds.dtype.type(first)).tolist()
        return [whole[i:j] for i, j in pairwise(ends)]

    def _decoded(self, starts: npt.NDArray[Any], stops: npt.NDArray[Any]) -> list[str]:
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        if self._ascii and len(starts):
            low, high = int(starts.min()), int(stops.max())
            if high - low <= _NEAR * len(starts):
                # All that lies between is decoded at once, and cut: half the time.
                whole = self._data[low:high].decode("ascii")
                return [whole[i - low : j - low] for i, j in pairs]
        data = self._data
        return [data[i:j].decode("utf-8", _ERRORS) for i, j in pairs]

    def made(self, numbers: npt.NDArray[Any]) -> list[str]:
        """Return strings by their numbers."""
        out: list[str] = []
        for i, j in pieces(len(numbers), each=_MADE):
            part = numbers[i:j]
            if len(part) and bool((np.diff(part) == 1).all()):
                out += self._run(int(part[0]), int(part[-1]) + 1)
            else:
                starts = self._starts
                out += self._decoded(starts[part], starts[part + 1])
        return out

    # -- in words ------------------------------------------------------------------------------

    def _lengths(self, start: int, stop: int) -> _Numbers:
        return np.diff(self._starts[start : stop + 1]).astype(np.int64)

    def _words(self, at: _Numbers, left: Any) -> _Words:
        """Return eight bytes from each place, as numbers that sort as they do.

        Zeros stand in the place of what lies beyond the ``left`` bytes that belong to a string.
        """
        each: npt.NDArray[Any] = np.ndarray(
            (len(self._data) - 7,), np.dtype(">u8"), self._data, strides=(1,)
        )
        words: _Words = each[at].astype(np.uint64)
        if np.min(left, initial=8) < 8:
            shift = (64 - 8 * np.clip(left, 1, 8)).astype(np.uint64)
            words >>= shift
            words <<= shift
            if np.min(left) <= 0:
                words[left <= 0] = 0
        return words

    def _equal(self, at: _Numbers, left: _Numbers, text: bytes) -> _Mask:
        """Return where bytes from each place on are those of ``text``, ``left`` to go at most."""
        there = left >= len(text)
        own: npt.NDArray[Any] | None = None if there.all() else np.flatnonzero(there)
        for i in range(0, len(text), 8):
            word = text[i : i + 8]
            places = at if own is None else at[own]
            same = self._words(places + i, np.int64(len(word))) == np.uint64(_number(word))
            if own is None:
                there &= same
            else:
                there[own[~same]] = False
            own = np.flatnonzero(there)
            if not len(own):
                break
        return there

    # -- searching -----------------------------------------------------------------------------

    def starting(self, part: str) -> _Mask:
        """Return which strings start with ``part``."""
        wanted, out = part.encode("utf-8", _ERRORS), np.empty(len(self), np.bool_)

        def ask(i: int, j: int) -> None:
            begin = self._starts[i:j].astype(np.int64)
            out[i:j] = self._equal(begin, self._lengths(i, j), wanted)

        in_pieces(len(out), ask, each=_WORD, size=_SHARED)
        return out

    def ending(self, part: str) -> _Mask:
        """Return which strings end with ``part``."""
        wanted, out = part.encode("utf-8", _ERRORS), np.empty(len(self), np.bool_)

        def ask(i: int, j: int) -> None:
            lengths = self._lengths(i, j)
            at = self._starts[i + 1 : j + 1].astype(np.int64) - len(wanted)
            out[i:j] = self._equal(np.maximum(at, 0), lengths, wanted)

        in_pieces(len(out), ask, each=_WORD, size=_SHARED)
        return out

    def including(self, part: str) -> _Mask:
        """Return in which strings ``part`` occurs."""
        wanted, out = part.encode("utf-8", _ERRORS), np.zeros(len(self), np.bool_)
        if not wanted:
            return ~out
        size, each = len(wanted), max(len(self._data) // max(len(self), 1) // 8, 1)

        def ask(i: int, j: int) -> None:
            low, high = int(self._starts[i]), int(self._starts[j])
            if high - low < size:
                return
            view = self._view[low:high]
            hits = view[: len(view) - size + 1] == wanted[0]
            if size > 1:
                hits &= view[size - 1 :] == wanted[-1]
            found = np.flatnonzero(hits) + low
            if size > 2:
                found = found[self._equal(found, np.full(len(found), size), wanted)]
            ends = self._starts[i + 1 : j + 1]
            inside = ends.searchsorted(found.astype(ends.dtype), "right")
            out[i + inside[found + size <= ends[inside]]] = True

        in_pieces(len(out), ask, each=each)
        return out

    def compared(self, text: str) -> npt.NDArray[np.int8]:
        """Return -1, 0 or 1 for each: whether it comes before ``text``, is it, or comes after."""
        wanted, out = text.encode("utf-8", _ERRORS), np.empty(len(self), np.int8)

        def ask(i: int, j: int) -> None:
            begin, lengths = self._starts[i:j].astype(np.int64), self._lengths(i, j)
            part = out[i:j]
            part[:] = np.sign(lengths - len(wanted))
            own = np.arange(j - i)
            for k in range(0, len(wanted), 8):
                words = self._words(begin[own] + k, lengths[own] - k)
                number = np.uint64(_number(wanted[k : k + 8]))
                less, same = words < number, words == number
                part[own[less]] = -1
                part[own[~less & ~same]] = 1
                # One that has ended differs by zeros at the most, and so by its length.
                own = own[same & (lengths[own] > k + 8)] if k + 8 < len(wanted) else own[same]
                if not len(own):
                    break

        in_pieces(len(out), ask, each=_WORD, size=_SHARED)
        return out

    # -- numbers of strings --------------------------------------------------------------------

    def number(self, text: str) -> int | None:
        """Return the number of a string, or None where it is not there."""
        found = int(self.numbers(Texts.of([[text]]))[0])
        return None if found < 0 else found

    def numbers(self, others: Texts) -> npt.NDArray[np.int32]:
        """Return the number of each of other strings here, -1 for those that are not."""
        return others._numbers_in(self)

    def _numbers_in(self, there: Texts, *, own: bool = False) -> npt.NDArray[np.int32]:
        """Return where each string is in the table of others.

        ``own``: they are these, and the table is made meanwhile; the first of equal ones counts.
        """
        if own:
            bits = max(int(len(self) * _PLACES).bit_length(), 4)
            table = np.full(1 << bits, -1, np.int32)
        else:
            table = there._placed()
        mask = len(table) - 1
        out = np.full(len(self), -1, np.int32)
        for i, j in pieces(len(out), each=_LOOKED_UP):
            waiting, slots = np.arange(i, j, dtype=np.int32), self._spread(i, j) & mask
            while len(waiting):
                if own:
                    # Backwards: of several that come to one place the first one stays.
                    free = np.flatnonzero(table[slots] < 0)[::-1]
                    table[slots[free]] = waiting[free]
                found = table[slots]
                same = found == waiting if own else np.zeros(len(found), np.bool_)
                asked = np.flatnonzero((found >= 0) & ~same)
                same[asked] = self._same(waiting[asked], there, found[asked])
                out[waiting[same]] = found[same]
                rest = asked[~same[asked]]
                waiting, slots = waiting[rest], (slots[rest] + 1) & mask
        if own:
            self._table = table
        return out

    def _placed(self) -> npt.NDArray[np.int32]:
        """Return the table of these strings."""
        if self._table is None:
            self._numbers_in(self, own=True)
        assert self._table is not None
        return self._table

    def forget(self) -> None:
        """Give back what looking strings up took; it is made again when one is looked up."""
        self._table = None

    def _same(self, mine: npt.NDArray[Any], there: Texts, theirs: npt.NDArray[Any]) -> _Mask:
        """Return which pairs of strings are equal."""
        starts, others = self._starts, there._starts
        a, b = starts[mine].astype(np.int64), others[theirs].astype(np.int64)
        left = starts[mine + 1] - a
        out: _Mask = left == others[theirs + 1] - b
        rows = np.flatnonzero(out & (left > 0))
        for k in range(0, _LONG, 8):
            if not len(rows):
                return out
            room = left[rows] - k
            same = self._words(a[rows] + k, room) == there._words(b[rows] + k, room)
            out[rows[~same]] = False
            rows = rows[same & (room > 8)]
        for row in rows.tolist():
            x, y, size = int(a[row]), int(b[row]), int(left[row])
            out[row] = self._data[x : x + size] == there._data[y : y + size]
        return out

    def _spread(self, start: int, stop: int) -> _Numbers:
        """Return a number for each string, of which nobody outside can know which are equal."""
        begin, lengths = self._starts[start:stop].astype(np.int64), self._lengths(start, stop)
        total = lengths.astype(np.uint64)
        rows: npt.NDArray[Any] = np.flatnonzero(lengths)
        half = np.uint64(0xFFFFFFFF)
        for k in range(0, _LONG, 8):
            if not len(rows):
                break
            words = self._words(begin[rows] + k, lengths[rows] - k)
            high, low = _secrets(k)
            total[rows] += (((words >> np.uint64(32)) + high) & half) * ((words + low) & half)
            rows = rows[lengths[rows] > k + 8]
        for row in rows.tolist():
            first = int(begin[row])
            total[row] = np.uint64(hash(self._data[first : first + int(lengths[row])]) & _ALL)
        total *= _MIXED
        total ^= total >> np.uint64(32)
        return total.view(np.int64)

    # -- order ---------------------------------------------------------------------------------

    def order(self) -> _Numbers:
        """Return the numbers of the strings in their order; equal ones stay in theirs."""
        order: _Numbers = np.arange(len(self), dtype=np.int64)
        # Where in the order those are that still are equal, and with which of them.
        rows, group = order.copy(), np.zeros(len(self), np.int64)
        for k in range(0, min(_LONG, self.longest), 8):
            if not len(rows):
                return order
            own = taken(order, rows)
            keys = self._keys(own, k)
            by = order_of(keys)
            if k:
                by = taken(by, order_of(taken(group, by)))
            keys, group, own = taken(keys, by), taken(group, by), taken(own, by)
            order[rows] = own
            new = np.ones(len(rows) + 1, np.bool_)
            new[1:-1] = (keys[1:] != keys[:-1]) | (group[1:] != group[:-1])
            group = np.cumsum(new[:-1])
            left = positions_of(~(new[:-1] & new[1:]))
            rows, group = taken(rows, left), taken(group, left)
        edges = np.flatnonzero(np.diff(group, prepend=-1, append=-1)) if len(rows) else rows
        for i, j in walked(zip(edges.tolist(), edges[1:].tolist(), strict=False), count=len(edges)):
            at = rows[i:j]
            order[at] = sorted(order[at].tolist(), key=self.__getitem__)
        return order

    def _keys(self, numbers: _Numbers, k: int) -> _Numbers:
        """Return numbers that sort as eight bytes of strings do, from byte ``k`` on."""
        out = np.empty(len(numbers), np.int64)

        def read(i: int, j: int) -> None:
            part = numbers[i:j]
            begin = self._starts[part].astype(np.int64)
            left = self._starts[part + 1].astype(np.int64) - begin - k
            places = np.minimum(begin + k, len(self._data) - 8)
            out[i:j] = (self._words(places, left) ^ np.uint64(1 << 63)).view(np.int64)

        in_pieces(len(numbers), read, each=_WORD, size=_SHARED)
        return out


_ALL: Final = 2**64 - 1
_HALF: Final = 2**32 - 1
_MIXED: Final = np.uint64(0x9E3779B97F4A7C15)


def _secrets(k: int) -> tuple[np.uint64, np.uint64]:
    """Return two numbers for byte ``k`` of strings, which differ from process to process."""
    found = hash(f"byte {k} of a string") & _ALL
    return np.uint64(found >> 32), np.uint64(found & _HALF)


def _number(word: bytes) -> int:
    return int.from_bytes(word.ljust(8, b"\0"), "big")


def _made(data: list[bytes], lengths: _Numbers, ascii_only: bool) -> Texts:
    total = int(lengths.sum())
    # As small as it can be: it is held as long as the strings are.
    starts = np.zeros(len(lengths) + 1, np.uint32 if total < 2**32 - 8 else np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Texts(b"".join([*data, bytes(8)]), starts, ascii_only=ascii_only)
