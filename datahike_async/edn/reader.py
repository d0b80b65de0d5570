"""EDN text to Python data.

nil → None, booleans, ints (any size), floats, ``M`` → Decimal, ratios → Fraction, strings,
characters → Char, keywords, symbols, ``[…]`` → list, ``(…)`` → tuple, ``{…}`` → dict, ``#{…}`` →
frozenset, ``#inst`` → aware datetime, ``#uuid`` → UUID, other tags → Tagged. Inside a set and as a
key of a map, vectors become tuples, which EDN counts as equal. Python merges ``1``, ``true`` and
``1.0`` in sets and dicts: text that has two of these in one set or as keys is refused, not merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from datahike_async.edn.scalars import (
    NAME,
    PLAIN,
    READERS,
    Reader,
    character,
    is_number_like,
    name,
    number,
    string,
)
from datahike_async.edn.types import FrozenMap, Keyword, Symbol, Tagged, crowded
from datahike_async.errors import EdnError
from datahike_async.looks import STEP, tally

__all__ = ["read", "read_all"]

MAX_DEPTH: Final = 200
MAX_SIZE: Final = 64 * 1024 * 1024

_TOKEN: Final = re.compile(
    rf"""[\s,]+
    | (?P<comment> ;[^\n]*)
    | (?P<string> "[^"\\]*(?:\\.[^"\\]*)*")
    | (?P<char> \\.{PLAIN}*)
    | (?P<open> \#\{{ | [\[({{])
    | (?P<close> [\])}}])
    | (?P<discard> \#_)
    | (?P<special> \#\#{PLAIN}*)
    | (?P<nsmap> \#:{PLAIN}*)
    | (?P<tag> \#[^\W\d_]{PLAIN}*)
    | (?P<quote> '(?=\S))
    | (?P<atom> {PLAIN}+)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK: Final = re.compile(r"(?:[\s,]|;[^\n]*)*")
_BLANK_AND_CLOSE: Final = re.compile(r"(?:[\s,]|;[^\n]*)*[\])}]")
_BLANK_AND_MAP: Final = re.compile(r"[\s,]*\{")
_SPECIAL: Final = {"Inf": float("inf"), "-Inf": float("-inf"), "NaN": float("nan")}
_CLOSER: Final = {"[": "]", "(": ")", "{": "}", "#{": "}"}

_END: Final = object()
_NOTHING: Final = object()

# Values of the names met lately: most of a text is the same few keywords. Names only: they are
# interned, so that a cached one is the same object as a fresh one. Bounded in count and length.
_names: Final[dict[str, Any]] = {}
_MOST_NAMES: Final = 4096
_LONGEST_NAME: Final = 64
_WIDEST: Final = 80
# A look at the clock comes after so many elements, and one.
_MANY: Final = 31
# What reading an element counts for: it is made of several matches of a pattern.
_READ: Final = 4 * STEP


def read(
    text: str,
    *,
    readers: Mapping[str, Reader] | None = None,
    max_depth: int = MAX_DEPTH,
    max_size: int = MAX_SIZE,
) -> Any:
    """Read one EDN element.

    ``readers`` maps a tag (without ``#``) to a function of the tagged value. Raises EdnError with
    line and column where the text is malformed, holds no or several elements, is nested deeper
    than ``max_depth``, or is longer than ``max_size`` characters.
    """
    parser = _Parser(text, readers, max_depth, max_size)
    value = parser.next()
    if value is _END:
        raise parser.error("there is no element to read", len(text))
    at = parser.at
    if parser.next() is not _END:
        raise parser.error("one element is expected, and another one follows", parser.after(at))
    return value


def read_all(
    text: str,
    *,
    readers: Mapping[str, Reader] | None = None,
    max_depth: int = MAX_DEPTH,
    max_size: int = MAX_SIZE,
) -> list[Any]:
    """Read all EDN elements of ``text``; like :func:`read` otherwise."""
    parser = _Parser(text, readers, max_depth, max_size)
    out = []
    while (value := parser.next()) is not _END:
        out.append(value)
    return out


class _Parser:
    def __init__(
        self, text: str, readers: Mapping[str, Reader] | None, max_depth: int, max_size: int
    ) -> None:
        self.text = text
        self.at = 1 if text[:1] == "\ufeff" else 0  # past the mark of some Windows editors
        self.depth = 0
        self.closed = False  # whether the _END just returned was a closing delimiter
        self.max_depth = max_depth
        self.readers = {**READERS, **readers} if readers else READERS
        if len(text) > max_size:
            raise EdnError(f"the text has {len(text)} characters; the limit is {max_size}")

    def next(self) -> Any:
        """Return the next element at the top level, or _END."""
        try:
            return self.element()
        except RecursionError:
            # The caller's own stack, or a generous max_depth, left too little room.
            raise self.error("nested too deeply for the interpreter's stack", self.at) from None

    def error(self, message: str, at: int) -> EdnError:
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return EdnError(message, line=line, column=column)

    def after(self, at: int) -> int:
        """Return where the next thing that is not blank begins."""
        match = _BLANK.match(self.text, at)
        return match.end() if match else at

    def element(self, closer: str | None = None) -> Any:
        """Return the next element; _END at the end of the text or at ``closer``."""
        text = self.text
        while True:
            match = _TOKEN.match(text, self.at)
            if match is None:
                if self.at >= len(text):
                    return _END
                raise self._unreadable()
            kind = match.lastgroup
            start, self.at = self.at, match.end()
            if kind is None or kind == "comment":
                continue
            if kind == "discard":
                if self._nested(start) is _NOTHING:
                    raise self.error("#_ should be followed by the element to discard", start)
                continue
            token = match.group()
            if kind == "atom":
                return _names[token] if token in _names else self._atom(token, start)
            if kind == "string":
                if "\\" not in token:
                    return token[1:-1]
                return self._escaped(token, start)
            if kind == "open":
                return self._collection(token, start)
            if kind == "close":
                if token == closer:
                    self.closed = True
                    return _END
                wanted = f"; {closer} is expected" if closer else ""
                raise self.error(f"unmatched delimiter {token}{wanted}", start)
            if kind == "char":
                return self._scalar(character, token, start)
            if kind == "tag":
                return self._tagged(token[1:], start)
            if kind == "special":
                if token[2:] not in _SPECIAL:
                    raise self.error(
                        f"unknown symbolic value {_shown(token)}; ##Inf ##-Inf and ##NaN are "
                        "expected",
                        start,
                    )
                return _SPECIAL[token[2:]]
            if kind == "quote":
                return (Symbol("quote"), self._required("'", start))
            return self._namespaced(token, start)

    def _unreadable(self) -> EdnError:
        rest = self.text[self.at : self.at + 10]
        if rest.startswith('"'):
            return self.error('this string is not closed; a " is expected', self.at)
        return self.error(f"cannot read {rest!r}", self.at)

    def _nested(self, start: int) -> Any:
        """Return an element that must not be an end, or _NOTHING."""
        self._enter(start)
        # A closing delimiter is no element here; it is left for whoever opened.
        match = _BLANK_AND_CLOSE.match(self.text, self.at)
        value = _END if match else self.element()
        self.depth -= 1
        return _NOTHING if value is _END else value

    def _required(self, what: str, start: int) -> Any:
        value = self._nested(start)
        if value is _NOTHING:
            raise self.error(f"{what} should be followed by an element", start)
        return value

    def _enter(self, start: int) -> None:
        self.depth += 1
        if self.depth > self.max_depth:
            raise self.error(f"nested deeper than {self.max_depth} levels", start)

    def _items(self, opener: str, start: int) -> list[Any]:
        self._enter(start)
        closer = _CLOSER[opener]
        items = []
        element = self.element
        while (value := element(closer)) is not _END:
            items.append(value)
            if not len(items) & _MANY:
                tally(_READ * (_MANY + 1))
        if not self.closed:
            raise self.error(f"{opener} is not closed; {closer} is expected", start)
        self.closed = False
        self.depth -= 1
        tally(_READ * (1 + (len(items) & _MANY)))
        return items

    def _collection(self, opener: str, start: int) -> Any:
        items = self._items(opener, start)
        if opener == "[":
            return items
        if opener == "(":
            return tuple(items)
        if opener == "{":
            return self._map(items, start)
        return self._set(items, start)

    def _map(self, items: list[Any], start: int) -> dict[Any, Any]:
        if len(items) % 2:
            raise self.error(
                f"a map needs an even number of elements; {_shown(repr(items[-1]))} has no value",
                start,
            )
        out: dict[Any, Any] = {}
        keys = items[::2]
        for i, key in enumerate(keys):
            if type(key) is not Keyword:
                keys[i] = self._hashable(key, start)
        self._uncrowded(keys, "keys", start)
        for key, value in zip(keys, items[1::2], strict=True):
            if key in out:
                raise self._merges(next(k for k in out if k == key), key, "keys", start)
            out[key] = value
        return out

    def _uncrowded(self, values: list[Any], what: str, start: int) -> None:
        one = crowded(values)
        # Of nil as well as of nothing the answer is None; it stands there once at most.
        if one is not None:
            raise self.error(
                f"{_shown(repr(one))} and many other {what} are the same, or were chosen to have "
                "the same hash",
                start,
            )

    def _set(self, items: list[Any], start: int) -> frozenset[Any]:
        seen: dict[Any, Any] = {}
        items = [self._hashable(item, start) for item in items]
        self._uncrowded(items, "elements", start)
        for key in items:
            if key in seen:
                raise self._merges(seen[key], key, "elements", start)
            seen[key] = key
        return frozenset(seen)

    def _merges(self, one: Any, other: Any, what: str, start: int) -> EdnError:
        a, b = _shown(repr(one)), _shown(repr(other))
        if a == b:
            return self.error(f"duplicate {what[:-1]} {b}", start)
        return self.error(
            f"{a} and {b} cannot be told apart as {what} of a Python collection", start
        )

    def _hashable(self, value: Any, start: int) -> Any:
        kind = type(value)
        if kind is list or kind is tuple:
            return tuple(self._hashable(v, start) for v in value)
        if kind is dict:
            # Its keys are hashable already.
            return FrozenMap({k: self._hashable(v, start) for k, v in value.items()})
        if kind is Tagged:
            return Tagged(value.tag, self._hashable(value.value, start))
        try:
            hash(value)
        except TypeError:
            raise self.error(
                f"{_shown(repr(value))} of type {kind.__name__} cannot be a key of a map or an "
                "element of a set, since it has no hash",
                start,
            ) from None
        return value

    def _namespaced(self, token: str, start: int) -> dict[Any, Any]:
        namespace = token[2:]
        match = _BLANK_AND_MAP.match(self.text, self.at)
        if NAME.match(namespace) is None or "/" in namespace:
            raise self.error(f"{_shown(token)} names no namespace for the keys of a map", start)
        if match is None:
            raise self.error(f"{_shown(token)} should be followed by a map", start)
        self.at = match.end()
        items = self._items("{", start)
        for i in range(0, len(items) - 1, 2):
            key = items[i]
            if isinstance(key, (Keyword, Symbol)):
                if key.namespace is None:
                    items[i] = type(key)(f"{namespace}/{key.text}")
                elif key.namespace == "_":
                    items[i] = type(key)(key.name)
        return self._map(items, start)

    def _tagged(self, tag: str, start: int) -> Any:
        value = self._required("#" + tag, start)
        reader = self.readers.get(tag)
        if reader is None:
            return Tagged(tag, value)
        try:
            return reader(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.error(
                f"bad value for #{tag}: {_shown(repr(value))} ({error})", start
            ) from error

    def _escaped(self, token: str, start: int) -> str:
        return string(token[1:-1], lambda what, at: self.error(what, start + 1 + at))

    def _atom(self, token: str, start: int) -> Any:
        if is_number_like(token):
            return self._scalar(number, token, start)
        value = self._scalar(name, token, start)
        if len(token) <= _LONGEST_NAME:
            if len(_names) >= _MOST_NAMES:
                _names.clear()
            _names[token] = value
        return value

    def _scalar(self, make: Reader, token: str, start: int) -> Any:
        try:
            return make(token)
        except ValueError as error:
            raise self.error(f"cannot read {_shown(token)}: {error}", start) from None


def _shown(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
