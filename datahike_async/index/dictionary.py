"""Dictionaries: the distinct values that the codes of a column point into.

A dictionary is the first values of a pool, and a pool only grows: a value gets its code once, and
whoever needs a few more appends them and has a dictionary that goes further. The one before stays
what it was, and nothing is hashed, copied or sorted again. Of several threads one extends a pool at
a time, and nobody waits for it: the others copy it.

Many different strings that are read from leaves lie packed, as bytes (``texts``). They are the
first values of a pool then; those appended later are beside them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import joined, taken
from datahike_async.index.objects import COPIED, OBJECTS, filled, object_array, ordered, types_of
from datahike_async.index.texts import Texts
from datahike_async.looks import pieces, walked
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["Dictionary"]

_Codes = npt.NDArray[np.int32]

# A pool is extended by values of which there are so many times fewer than it has.
_FEWER: Final = 4
# So many times fewer new values are put in order by a search each.
_SOUGHT: Final = 64
# So many strings are packed, if a good part of their rows have different ones.
_PACKED: Final = 1 << 15
_OFTEN: Final = 8
# Beside packed strings there are so many times fewer others, or all are packed anew.
_BESIDE: Final = 8


# Bytes of a string or another object with its place in the list, and in the table of codes.
_OBJECT: Final = 80
_LOOKED_UP: Final = 62


class _Pool:
    """Values that only grow in number, the code of each typed key, and them as an array.

    The first of them are ``packed``, if any are; ``values`` and ``index`` are of the others then.
    """

    __slots__ = ("index", "listed", "packed", "turn", "values", "wide")

    def __init__(
        self, values: list[Any], index: dict[Any, int] | None, packed: Texts | None = None
    ) -> None:
        self.values = values
        self.index = index
        self.packed = packed
        self.listed: Sequence[Any] = values if packed is None else _Listed(packed, values)
        # An array with room for more, and how many values are in it.
        self.wide: tuple[npt.NDArray[np.object_], int] | None = None
        # Whoever pops it may append, and popping is atomic.
        self.turn = [None]


class _Listed(Sequence[str]):
    """Packed strings and some more, as one sequence that makes them as they are asked for."""

    __slots__ = ("_more", "_packed")

    def __init__(self, packed: Texts, more: list[str]) -> None:
        self._packed = packed
        self._more = more

    def __len__(self) -> int:
        return len(self._packed) + len(self._more)

    def __getitem__(self, at: Any) -> Any:
        count = len(self._packed)
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            return (
                self._packed[start:stop] + self._more[max(start - count, 0) : max(stop - count, 0)]
            )
        return self._packed[at] if at < count else self._more[at - count]


class Dictionary:
    """Distinct values that codes point into; shared by every column cut from one run.

    ``listed[code]`` is the value of a code. The list may go on beyond the values of this one.
    """

    __slots__ = (
        "_count",
        "_is_text",
        "_keys",
        "_longest",
        "_older",
        "_pool",
        "_ranks",
        "_values",
        "listed",
    )

    def __init__(self, values: list[Any], index: dict[Any, int] | None = None) -> None:
        """Take distinct values, and the code of each typed key where that is known."""
        self._begin(_Pool(values, index), len(values))

    @classmethod
    def of_texts(cls, texts: Texts) -> Dictionary:
        """Return a dictionary of strings, of which none comes twice; packed if they are many."""
        if len(texts) < _PACKED:
            return cls(texts[:])
        texts.forget()
        out = cls.__new__(cls)
        out._begin(_Pool([], {}, texts), len(texts))
        out._is_text = True
        return out

    @staticmethod
    def unified(others: Sequence[Dictionary], rows: int) -> tuple[Dictionary, list[_Codes]] | None:
        """Return a dictionary of all values of others, and what the codes of each are there.

        None where there is a better way than to pack them: few of ``rows`` have strings of their
        own, or not all values are strings.
        """
        count = sum(map(len, others))
        if count < _PACKED or count * _OFTEN < rows or not all(d.is_text for d in others):
            return None
        texts, numbers = Texts.of(run for d in others for run in d._runs()).different()
        if len(texts) * _OFTEN < rows:
            return None
        codes, at = [], 0
        for d in others:
            stop = at + len(d)
            codes.append(
                np.arange(at, stop, dtype=np.int32) if numbers is None else numbers[at:stop]
            )
            at = stop
        return Dictionary.of_texts(texts), codes

    def _runs(self) -> Iterator[Sequence[Any]]:
        for i, j in pieces(self._count, each=COPIED):
            yield self.listed[i:j]

    def _begin(self, pool: _Pool, count: int) -> None:
        self._pool = pool
        self._count = count
        self.listed = pool.listed
        self._values: list[Any] | None = None
        self._keys: list[Any] | None = None
        self._ranks: _Codes | None = None
        # The ranks of the first values alone, which the others have yet to be put among.
        self._older: _Codes | None = None
        self._is_text: bool | None = None
        self._longest: int | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        pool = self._pool
        each = _OBJECT if pool.index is None else _OBJECT + _LOOKED_UP
        if pool.packed is None:
            return each * self._count
        return pool.packed.nbytes + each * len(pool.values)

    @property
    def packed(self) -> Texts | None:
        """The first values, where they are packed strings."""
        return self._pool.packed

    @property
    def beside(self) -> Sequence[str]:
        """The strings that come after those that are packed."""
        return self.listed[len(self._pool.packed or ()) : self._count]

    def at(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
        """Return the values of codes, as an object array."""
        if self._pool.packed is None:
            return taken(self.array, codes)
        out = np.empty(len(codes), np.object_)
        for i, j in pieces(len(codes), each=COPIED, size=COPIED * OBJECTS):
            out[i:j] = self.values_of(codes[i:j])
        return out

    def values_of(self, codes: npt.NDArray[Any]) -> list[Any]:
        """Return the values of codes."""
        packed, listed = self._pool.packed, self.listed
        if packed is None or len(self._pool.values):
            return [listed[code] for code in walked(codes.tolist(), each=COPIED)]
        return packed.made(codes)

    def of_codes(self, codes: npt.NDArray[Any]) -> Dictionary:
        """Return a dictionary of the values of some codes, in their order; none comes twice."""
        packed = self._texts() if len(codes) >= _PACKED else None
        if packed is None:
            return Dictionary(self.values_of(codes))
        return Dictionary.of_texts(packed.taken(codes))

    def _texts(self) -> Texts | None:
        """Return all values packed, where the first ones are and the others are strings too."""
        packed = self._pool.packed
        if packed is None or self._count == len(packed):
            return packed
        return packed.followed_by(self.beside) if self.is_text else None

    @property
    def values(self) -> list[Any]:
        """The values, each at its code; maybe some more at the end, by the time they are read."""
        if self._pool.packed is not None:
            return list(chain.from_iterable(self._runs()))
        if self._values is None:
            listed = self._pool.values
            # A copy where the list has grown; one that is this long may grow any time.
            if len(listed) == self._count:
                return listed
            self._values = listed[: self._count]
        return self._values

    @property
    def keys(self) -> list[Any]:
        """The typed key of each value: of all but UUIDs it is the value."""
        if self._keys is not None:
            return self._keys
        values = self.values
        keys: list[Any] = _keys_of(values)
        if keys is not values:
            self._keys = keys
        return keys

    def code(self, value: Any) -> int | None:
        """Return the code of a value of any type, or None where it is not there."""
        packed = self._pool.packed
        if packed is not None and type(value) is str:
            number = packed.number(value)
            if number is not None:
                return number
        found = self._index().get(typed_key(value))
        return found if found is not None and found < self._count else None

    def codes_of(self, other: Dictionary, missing: int) -> npt.NDArray[np.int64]:
        """Return what each code of another dictionary is here, or ``missing``."""
        count = len(other)
        if other._pool is self._pool:
            codes = np.arange(count)
            codes[self._count :] = missing
            return codes
        find, end = self._index().get, self._count
        if self._pool.packed is not None:
            runs = (self._numbers(run) for run in other._runs())
            codes = joined([np.empty(0, np.int64), *runs])
            codes[(codes < 0) | (codes >= end)] = missing
            return codes
        found = (find(key, end) for _, key in zip(range(count), walked(other.keys), strict=False))
        codes = np.fromiter(found, np.int64, count)
        codes[codes >= end] = missing
        return codes

    def _numbers(self, run: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Return the codes of some values, -1 for those that are not there."""
        packed = self._pool.packed
        if packed is None or types_of(run) != {str}:
            found = map(self.code, run)
            return np.array([-1 if code is None else code for code in found], np.int64)
        codes = packed.numbers(Texts.of([run])).astype(np.int64)
        if self._pool.values:
            for i in np.flatnonzero(codes < 0).tolist():
                codes[i] = self._index().get(run[i], -1)
        return codes

    def _index(self) -> dict[Any, int]:
        """Return the code of each typed key; where strings are packed, of those beside them."""
        pool = self._pool
        if pool.index is not None:
            return pool.index
        made = {key: i for i, key in enumerate(walked(self.keys, each=COPIED))}
        if not _claimed(pool):
            return made
        # Nobody extends a pool that has no index: it is no longer than when this was begun.
        if pool.index is None:
            pool.index = made
        pool.turn.append(None)
        return pool.index

    @property
    def array(self) -> npt.NDArray[np.object_]:
        """The values as an object array."""
        pool, count = self._pool, self._count
        if pool.packed is not None:
            return object_array(self.values)
        if pool.wide is None:
            # Not the list itself, which another thread may make longer meanwhile.
            pool.wide = (object_array(self.listed[:count]), count)
        array, done = pool.wide
        if done < count:
            if len(array) < count:
                larger = np.empty(count + count // 8 + 64, np.object_)
                filled(larger[:done], array[:done])
                array = larger
            # Two threads may do so at a time, and write the same.
            array[done:count] = object_array(self.listed[done:count])
            pool.wide = (array, count)
        return array if len(array) == count else array[:count]

    @property
    def ranks(self) -> _Codes:
        """Position of each value in the total order."""
        if self._ranks is None:
            older = self._older
            if older is None or (self._count - len(older)) * _SOUGHT > self._count:
                order = self._order()
                ranks = np.empty(len(order), np.int32)
                ranks[order] = np.arange(len(order), dtype=np.int32)
                self._ranks = ranks
            else:
                self._ranks = self._ranked(older)
            self._older = None
        return self._ranks

    def _order(self) -> Any:
        """Return the codes in the order of their values."""
        packed = self._texts()
        if packed is not None:
            return packed.order()
        # Strings sort as they are.
        values = self.values[: self._count]
        return ordered(values if self.is_text else [sort_key(v) for v in walked(values)])

    def _ranked(self, older: _Codes) -> _Codes:
        """Return the ranks, where those of the first values are known."""
        listed, known = self.listed, len(older)
        order = np.empty(known, np.int32)
        order[older] = np.arange(known, dtype=np.int32)
        codes = memoryview(order)  # type: ignore[arg-type]
        new = listed[known : self._count]
        keys = new if self.is_text else [sort_key(v) for v in new]
        sort = (lambda v: v) if self.is_text else sort_key
        sequence = ordered(keys)
        places = np.array(
            [
                bisect_left(range(known), keys[i], key=lambda rank: sort(listed[codes[rank]]))
                for i in walked(sequence)
            ],
            np.int64,
        )
        shift = np.cumsum(np.bincount(places, minlength=known + 1)).astype(np.int32)
        ranks = np.empty(self._count, np.int32)
        ranks[:known] = older + taken(shift, older)
        ranks[known + np.array(sequence, np.int64)] = places + np.arange(len(places))
        return ranks

    @property
    def is_text(self) -> bool:
        """Whether all values are strings."""
        if self._is_text is None:
            self._is_text = types_of(self.values) == {str}
        return self._is_text

    @property
    def longest(self) -> int:
        """How many characters its longest string has."""
        if self._longest is None:
            packed = self._pool.packed
            if packed is None:
                self._longest = _longest(self.values)
            else:
                # Bytes: no fewer than characters.
                self._longest = max(packed.longest, _longest(self.beside))
        return self._longest

    def extended(self, others: Sequence[Dictionary]) -> tuple[Dictionary, list[_Codes]]:
        """Return a dictionary that begins with these values and has those of others too.

        And for each of the others what its codes are there. It is this one if nothing is new.
        """
        index = self._index()
        few = sum(map(len, others)) * _FEWER <= self._count
        pool = self._pool
        mine = few and pool.index is index and _claimed(pool)
        if not mine:
            found = (
                Dictionary.unified([self, *others], 0)
                if pool.packed is not None and not few
                else None
            )
            if found is not None:
                return found[0], found[1][1:]
            index = dict(index)
            if len(index) > self._count:
                index = {k: c for k, c in index.items() if c < self._count}
            pool = _Pool([*self.beside], index, pool.packed)
        try:
            codes = [_added(pool, index, other) for other in others]
            count = len(pool.listed)
        finally:
            if mine:
                pool.turn.append(None)
        if all(int(c.max(initial=-1)) < self._count for c in codes):
            return self, codes
        longer = self._longer(pool, count)
        packed = pool.packed
        if packed is not None and longer.is_text and len(pool.values) * _BESIDE > len(packed):
            packed = packed.followed_by(longer.beside)
            return Dictionary.of_texts(packed), codes
        return longer, codes

    def _longer(self, pool: _Pool, count: int) -> Dictionary:
        out = Dictionary.__new__(Dictionary)
        out._begin(pool, count)
        new = pool.listed[self._count : count]
        if self._is_text is not None:
            out._is_text = self._is_text and types_of(new) == {str}
        if self._longest is not None:
            out._longest = max(self._longest, _longest(new))
        out._older = self._older if self._ranks is None else self._ranks
        return out

    @classmethod
    def encode(cls, values: Sequence[Any]) -> tuple[Dictionary, _Codes]:
        """Return the dictionary of ``values`` and the code of each."""
        index: dict[Any, int] = {}
        add = index.setdefault
        keys = _keys_of(values)
        each = walked(keys, each=COPIED)
        codes = np.fromiter((add(key, len(index)) for key in each), np.int32, len(keys))
        if keys is values:
            return cls(list(index), index), codes
        # Of equal values the last one stays; codes ascend as they come.
        return cls(list(dict(zip(codes.tolist(), values, strict=True)).values()), index), codes


def _claimed(pool: _Pool) -> bool:
    """Take the right to append to a pool; False while another thread has it."""
    try:
        pool.turn.pop()
    except IndexError:
        return False
    return True


def _added(pool: _Pool, index: dict[Any, int], other: Dictionary) -> _Codes:
    """Append what is new of a dictionary; return the code of each of its values."""
    codes = np.empty(len(other), np.int32)
    values, packed = pool.values, pool.packed
    first = 0 if packed is None else len(packed)
    there = None if packed is None or not other.is_text else packed.numbers(Texts.of(other._runs()))
    for i, key in zip(range(len(other)), walked(other.keys, each=COPIED), strict=False):
        if there is not None and there[i] >= 0:
            codes[i] = there[i]
            continue
        found = index.get(key)
        if found is None:
            # Nobody may find a code that has no value yet.
            found = first + len(values)
            values.append(other.listed[i])
            index[key] = found
        codes[i] = found
    return codes


def _keys_of(values: Sequence[Any]) -> Any:
    """Return the typed keys of codable values: the same list where they are their own."""
    return list(map(typed_key, values)) if UUID in types_of(values) else values


def _longest(values: Sequence[Any]) -> int:
    texts = [v for v in values if type(v) is str]
    parts = pieces(len(texts), each=COPIED)
    return max(max(map(len, texts[i:j]), default=0) for i, j in parts)
