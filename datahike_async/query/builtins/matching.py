"""Predicates on columns of strings: each different string is asked for once, in runs of strings.

A pattern is matched without a time limit a call where its steps are bounded: where it repeats
single characters and classes only, what it may do on a text of ``n`` characters is a power of
``n``. Few steps take less time than a limit costs. What has no such bound, or a larger one on a
long text, is left to the guarded functions in ``regexes``.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import repeat
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import numbered, positions_of, taken
from datahike_async.index.columns import CODED, Column
from datahike_async.index.texts import Texts
from datahike_async.looks import PIECE, STEP, pieces, tally, walked
from datahike_async.query.builtins.regexes import compiled, source_of
from datahike_async.query.builtins.supply import Supply

__all__ = ["asked", "bounded", "compared", "of_texts", "pattern_mask", "text_mask"]

Mask = npt.NDArray[np.bool_]
Marks = npt.NDArray[np.uint8]

STEPS: Final = 1 << 14
"""How many steps of a pattern on one text are taken without a time limit: some 0.1 ms at worst."""

# Texts from one look to the next where patterns are matched, and at least where texts are long.
_RUN: Final = 256
_FEWEST: Final = 16
# Strings that are taken from a dictionary at once.
_MADE: Final = 1 << 13
# Characters that are looked through while NumPy handles a number.
_CHARS: Final = 16

# Numbers that NumPy handles in a second: what time counts for, in looks at the clock.
_A_SECOND: Final = 5e7

# What comparing two strings counts for, where NumPy goes over many.
_COMPARED: Final = 4

_UNDECIDED: Final = 2


def asked(column: Column, holds: Callable[[list[Any]], Iterable[int]], *, run: int = 0) -> Marks:
    """Return what ``holds`` says of each row of a coded column, asked once a different value.

    It is handed values in runs, of ``run`` where that is said; 0 means no.
    """
    dictionary = column.dictionary
    assert dictionary is not None
    values: Any = dictionary.listed
    codes, longest = column.data, -1
    count = len(dictionary)
    if _are_few(column):
        used, codes = numbered(codes)
        values = dictionary.values_of(used)
        count = len(values)
        longest = max(map(len, filter(_is_text, values)), default=0)
    else:
        longest = dictionary.longest
    marks = np.empty(count, np.uint8)
    each = max(STEP, longest // _CHARS)
    size = run * each if run else max(PIECE, _FEWEST * each)
    made: list[Any] = []
    first = 0
    for start, stop in pieces(count, each=each, size=size):
        if stop > first + len(made):
            # Strings that lie packed are made for many runs at once.
            made, first = values[start : max(stop, start + _MADE)], start
        part = made[start - first : stop - first]
        marks[start:stop] = np.frombuffer(bytes(holds(part)), np.uint8)
    return taken(marks, codes) if len(marks) else np.zeros(len(codes), np.uint8)


def _are_few(column: Column) -> bool:
    """Whether a column has far fewer rows than its dictionary has values."""
    assert column.dictionary is not None
    return len(column.dictionary) > 2 * len(column) + 64


def compared(column: Column, *tests: tuple[Callable[[Any, Any], Any], str]) -> Mask | None:
    """Return which strings of a coded column pass one or two comparisons, each with a string.

    None where not all are strings, or where there are far more of them than rows.
    """
    dictionary = column.dictionary
    assert dictionary is not None
    if _are_few(column) or not dictionary.is_text:
        return None
    if dictionary.packed is not None:
        mask = _packed_compared(column, *tests[0])
        for test in tests[1:]:
            mask &= _packed_compared(column, *test)
        return mask
    texts = dictionary.array
    # An array of one object: NumPy's own strings would lose zeros at the end.
    first, *others = [(compare, np.array(text, np.object_)) for compare, text in tests]
    marks = np.empty(len(texts), np.bool_)
    each = max(_COMPARED, max(len(text) for _, text in tests) // _CHARS)
    for start, stop in pieces(len(texts), each=each):
        part = texts[start:stop]
        mask = marks[start:stop] = first[0](part, first[1])
        for second in others:
            rest = np.flatnonzero(mask)
            marks[start + rest] = second[0](part[rest], second[1])
            if 2 * len(rest) > len(part):
                # What leaves fewer goes first.
                first, others = second, [first]
    return taken(marks, column.data)


def _packed_compared(column: Column, compare: Callable[[Any, Any], Any], value: str) -> Mask:
    return _of_packed(
        column,
        lambda texts: np.asarray(compare(texts.compared(value), 0)),
        lambda text: bool(compare(text, value)),
    )


def _of_packed(
    column: Column, of_all: Callable[[Texts], Mask], of_one: Callable[[str], bool]
) -> Mask:
    """Return what holds for the packed strings of a column, and for each of those beside them."""
    dictionary = column.dictionary
    assert dictionary is not None
    assert dictionary.packed is not None
    beside = dictionary.beside
    marks = np.empty(len(dictionary), np.bool_)
    marks[: len(marks) - len(beside)] = of_all(dictionary.packed)
    marks[len(marks) - len(beside) :] = [of_one(text) for text in walked(beside)]
    return taken(marks, column.data)


def _is_packed(column: Column) -> bool:
    """Whether the strings of a column lie packed, and not far more of them than rows."""
    dictionary = column.dictionary
    return (
        dictionary is not None
        and dictionary.packed is not None
        and dictionary.is_text
        and not _are_few(column)
    )


def _is_text(value: Any) -> bool:
    return type(value) is str


def of_texts(
    column: Column, holds: Callable[[list[str]], Iterable[int]]
) -> Callable[[list[Any]], Iterable[int]]:
    """Let a test see strings only; of all else it does not hold."""
    assert column.dictionary is not None
    if column.dictionary.is_text:
        return holds

    def among(values: list[Any]) -> Iterable[int]:
        found = iter(holds([v for v in values if type(v) is str]))
        return [next(found) if type(v) is str else 0 for v in values]

    return among


def _starting(part: str) -> Callable[[list[str]], Iterable[int]]:
    return lambda texts: map(str.startswith, texts, repeat(part))


def _after(part: str) -> str:
    """Return the first string after all that start with ``part``; nothing where there is none."""
    part = part.rstrip(chr(sys.maxunicode))
    return part and part[:-1] + chr(ord(part[-1]) + 1)


def _ending(part: str) -> Callable[[list[str]], Iterable[int]]:
    return lambda texts: map(str.endswith, texts, repeat(part))


def _including(part: str) -> Callable[[list[str]], Iterable[int]]:
    return lambda texts: [part in text for text in texts]


_STARTS: Final = "clojure.string/starts-with?"
_INCLUDES: Final = "clojure.string/includes?"
_TESTS: Final = {
    _STARTS: _starting,
    "clojure.string/ends-with?": _ending,
    _INCLUDES: _including,
}
# The same of one string, and of packed ones.
_PACKED: Final[dict[str, tuple[Callable[[str, str], bool], Callable[[Texts, str], Mask]]]] = {
    _STARTS: (str.startswith, Texts.starting),
    "clojure.string/ends-with?": (str.endswith, Texts.ending),
    _INCLUDES: (operator.contains, Texts.including),
}


def text_mask(name: str, args: Sequence[Any]) -> Mask | None:
    """Return where a predicate on strings holds for a column and a constant, None for others."""
    if name not in _TESTS or len(args) != 2 or not _has_texts(args[0]) or type(args[1]) is not str:
        return None
    column, part = args
    if _is_packed(column):
        of_one, of_all = _PACKED[name]
        return _of_packed(
            column, lambda texts: of_all(texts, part), lambda text: of_one(text, part)
        )
    if name == _STARTS and (end := _after(part)):
        found = compared(column, (operator.lt, end), (operator.ge, part))
        if found is not None:
            return found
    return asked(column, of_texts(column, _TESTS[name](part))).view(np.bool_)


def _has_texts(arg: Any) -> bool:
    return isinstance(arg, Column) and arg.kind == CODED


# -- patterns --------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """What a pattern may do on a text, and a string without which nothing matches."""

    needle: str
    # Whether the pattern is no more than its needle.
    plain: bool
    # It takes at most ``steps * (n + 1) ** power`` steps on a text of n characters.
    steps: int
    power: int

    @property
    def length(self) -> int:
        """The most characters of a text on which it takes STEPS at most; below 0 for none."""
        length = int((STEPS / self.steps) ** (1 / self.power))
        while self.steps * (length + 1) ** self.power > STEPS:
            length -= 1
        return length


_ESCAPED: Final = r"\\[^\w\s]"
_TOKEN: Final = re.compile(
    rf"(?P<char>[^\\\[\](){{}}.*+?^$|]|{_ESCAPED})"
    rf"|(?P<set>\.|\\[dDwWsS]|\[\^?(?:[^\[\]\\&|~-]|[\w ]-[\w ]|{_ESCAPED}|\\[dDwWsS])+\])"
    r"|(?P<place>[\^$]|\\b)"
    r"|(?P<open>\((?:\?:)?(?![?*]))|(?P<close>\))|(?P<either>\|)"
)
_QUANTIFIER: Final = re.compile(r"([*+?]|\{([0-9]{1,4})(?:(,)([0-9]{0,4}))?\})(\??)(?![*+?{])")
_FLAGGED: Final = re.compile(r"\(\?([imsa]+)\)")
_QUANTIFIES: Final = frozenset("*+?{")


@lru_cache(128)
def bounded(source: str) -> Bound | None:
    """Return the bound of a pattern, None where none is known.

    It repeats single characters and classes only, and looks neither back nor around. Flags come
    first.
    """
    flags = _FLAGGED.match(source)
    if flags is not None:
        source = source[flags.end() :]
    needle = run = ""
    # How many parts it has, how many ways there are through them, and how many have no end.
    size, ways, endless, at = 0, 1, 0, 0
    either = [1]
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            return None
        at, kind = token.end(), token.lastgroup
        repeats = source[at : at + 1] in _QUANTIFIES and at < len(source)
        if repeats and kind not in ("char", "set"):
            return None
        size += 1
        if repeats:
            found = _QUANTIFIER.match(source, at)
            if found is None:
                return None
            at, sign = found.end(), found[1]
            if sign in "*+" or (found[3] and not found[4]):
                endless += 1
                size += int(found[2] or 1)
            else:
                low = int(found[2] or 0)
                high = int(found[4] or low) if sign != "?" else 1
                if high < low:
                    return None
                ways *= high - low + 1
                size += high
        if kind == "char" and not repeats and len(either) == 1:
            run += token["char"][-1]
            continue
        needle, run = max(needle, run, key=len), ""
        if kind == "open":
            either.append(1)
        elif kind == "either":
            either[-1] += 1
        elif kind == "close":
            if len(either) == 1:
                return None
            ways *= either.pop()
    if len(either) != 1:
        return None
    needle = max(needle, run, key=len)
    plain = size == len(needle)
    if either[0] > 1:
        needle, ways = "", ways * either[0]
    if flags is not None and "i" in flags[1]:
        needle, plain = "", False
    return Bound(needle, plain, max(size, 1) * ways, endless + 1)


def pattern_mask(
    name: str, args: Sequence[Any], supply: Supply
) -> tuple[Mask, npt.NDArray[Any]] | None:
    """Return where a column matches a constant pattern, and the rows that this leaves undecided.

    None where ``name`` is no such predicate, or the pattern has no bound. The time that it takes is
    the supply's; raises QueryCanceled where that is over.
    """
    name = name.removeprefix("clojure.core/")
    if name not in ("re-find", "re-matches") or len(args) != 2:
        return None
    column = args[1]
    source = source_of(args[0])
    if source is None or not _has_texts(column):
        return None
    bound = bounded(source)
    if bound is None:
        return None
    try:
        pattern = compiled(source)
    except ValueError:
        return None  # each row says so
    longest = bound.length
    test = pattern.search if name == "re-find" else pattern.fullmatch
    needle = bound.needle

    def matching(texts: list[str], *, known: bool = False) -> Iterable[int]:
        start = perf_counter()
        if known or not needle:
            marks = [_mark(test, text, longest) for text in texts]
        elif bound.plain and name == "re-find":
            marks = [needle in text for text in texts]
        else:
            marks = [needle in text and _mark(test, text, longest) for text in texts]
        took = perf_counter() - start
        supply.spent(took)
        tally(int(took * _A_SECOND))
        return marks

    if needle and _is_packed(column):
        # All that is asked for is made first: only of those that may match.
        there = text_mask(_INCLUDES, (column, needle))
        assert there is not None
        if bound.plain and name == "re-find":
            return there, np.empty(0, np.int64)
        maybe = positions_of(there)
        if len(maybe) * 2 < len(column):
            marks = np.zeros(len(column), np.uint8)
            some = column.take(maybe)
            marks[maybe] = asked(some, partial(matching, known=True), run=_RUN)
            return marks == 1, positions_of(marks == _UNDECIDED)
    marks = asked(column, of_texts(column, matching), run=_RUN)
    return marks == 1, positions_of(marks == _UNDECIDED)


def _mark(test: Callable[[str], Any], text: str, longest: int) -> int:
    """Return whether a text passes, or _UNDECIDED where it has more characters than ``longest``."""
    if len(text) > longest:
        return _UNDECIDED
    return test(text) is not None
