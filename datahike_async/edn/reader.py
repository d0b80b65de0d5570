"""EDN text to Python data.

nil → None, booleans, ints (any size), floats, ``M`` → Decimal, ratios → Fraction, strings,
characters → Char, keywords, symbols, ``[…]`` → list, ``(…)`` → tuple, ``{…}`` → dict, ``#{…}`` →
frozenset, ``#inst`` → aware datetime, ``#uuid`` → UUID, other tags → Tagged. Inside a set and as a
key of a map, vectors become tuples, which EDN counts as equal. Python merges ``1``, ``true`` and
``1.0`` in sets and dicts: text that has two of these in one set or as keys is refused, not merged.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol, Tagged
from datahike_async.errors import EdnError

__all__ = ["read", "read_all"]

MAX_DEPTH: Final = 200
MAX_SIZE: Final = 64 * 1024 * 1024

_TOKEN: Final = re.compile(
    r"""[\s,]+
    | (?P<comment> ;[^\n]*)
    | (?P<string> "(?:[^"\\]|\\.)*")
    | (?P<char> \\(?:u[0-9a-fA-F]{4}|o[0-7]{1,3}|[A-Za-z]+|.))
    | (?P<open> \#\{ | [\[({])
    | (?P<close> [\])}])
    | (?P<discard> \#_)
    | (?P<special> \#\#[A-Za-z]+)
    | (?P<nsmap> \#::?[^\s,\[\](){}"\\;]*)
    | (?P<tag> \#[A-Za-z][^\s,\[\](){}"\\;]*)
    | (?P<quote> '(?=\S))
    | (?P<atom> [^\s,\[\](){}"\\;@^`~]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_INT: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)N?\Z")
_FLOAT: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?M?\Z")
_RATIO: Final = re.compile(r"[+-]?[0-9]+/[0-9]+\Z")
_INST: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?)?)?"
    r"(Z|[+-]\d\d:?\d\d)?\Z"
)
_CHARS: Final = {
    "newline": "\n",
    "space": " ",
    "tab": "\t",
    "return": "\r",
    "backspace": "\b",
    "formfeed": "\f",
    "nul": "\0",
}
_ESCAPES: Final = {
    "t": "\t",
    "r": "\r",
    "n": "\n",
    "b": "\b",
    "f": "\f",
    "\\": "\\",
    '"': '"',
    "/": "/",
}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", re.DOTALL)
_WORDS: Final[dict[str, Any]] = {"nil": None, "true": True, "false": False}
_SPECIAL: Final = {"Inf": float("inf"), "-Inf": float("-inf"), "NaN": float("nan")}
_CLOSER: Final = {"[": "]", "(": ")", "{": "}", "#{": "}"}

_END: Final = object()
_NOTHING: Final = object()

Reader = Callable[[Any], Any]


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
    value = parser.element()
    if value is _END:
        raise parser.error("there is no element to read", len(text))
    at = parser.at
    if parser.element() is not _END:
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
    while (value := parser.element()) is not _END:
        out.append(value)
    return out


class _Parser:
    def __init__(
        self, text: str, readers: Mapping[str, Reader] | None, max_depth: int, max_size: int
    ) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.closed = False  # whether the _END just returned was a closing delimiter
        self.max_depth = max_depth
        self.readers = {**_READERS, **(readers or {})}
        if len(text) > max_size:
            raise EdnError(f"The text has {len(text)} characters; the limit is {max_size}.")

    def error(self, message: str, at: int) -> EdnError:
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return EdnError(message, line=line, column=column)

    def after(self, at: int) -> int:
        """Return where the next thing that is not blank begins."""
        match = re.compile(r"(?:[\s,]|;[^\n]*)*").match(self.text, at)
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
                return self._atom(token, start)
            if kind == "string":
                return self._string(token, start) if "\\" in token else token[1:-1]
            if kind == "open":
                return self._collection(token, start)
            if kind == "close":
                if token == closer:
                    self.closed = True
                    return _END
                wanted = f"; {closer} is expected" if closer else ""
                raise self.error(f"unmatched delimiter {token}{wanted}", start)
            if kind == "char":
                return self._char(token, start)
            if kind == "tag":
                return self._tagged(token[1:], start)
            if kind == "special":
                if token[2:] not in _SPECIAL:
                    raise self.error(f"unknown symbolic value {token}", start)
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
        match = re.compile(r"(?:[\s,]|;[^\n]*)*[\])}]").match(self.text, self.at)
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
        if not self.closed:
            raise self.error(f"{opener} is not closed; {closer} is expected", start)
        self.closed = False
        self.depth -= 1
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
                f"a map needs an even number of elements; {items[-1]!r} has no value", start
            )
        out: dict[Any, Any] = {}
        for i in range(0, len(items), 2):
            key = self._hashable(items[i], start)
            if key in out:
                raise self._merges(next(k for k in out if k == key), key, "keys", start)
            out[key] = items[i + 1]
        return out

    def _set(self, items: list[Any], start: int) -> frozenset[Any]:
        seen: dict[Any, Any] = {}
        for item in items:
            key = self._hashable(item, start)
            if key in seen:
                raise self._merges(seen[key], key, "elements", start)
            seen[key] = key
        return frozenset(seen)

    def _merges(self, one: Any, other: Any, what: str, start: int) -> EdnError:
        if type(one) is type(other):
            return self.error(f"duplicate {what[:-1]} {other!r}", start)
        return self.error(
            f"{one!r} and {other!r} cannot be told apart as {what} of a Python collection", start
        )

    def _hashable(self, value: Any, start: int) -> Any:
        if type(value) is list:
            return tuple(self._hashable(v, start) for v in value)
        if type(value) is tuple:
            return tuple(self._hashable(v, start) for v in value)
        if type(value) is dict:
            raise self.error("a map cannot be a key or an element of a set here", start)
        if isinstance(value, Tagged):
            return Tagged(value.tag, self._hashable(value.value, start))
        return value

    def _namespaced(self, token: str, start: int) -> dict[Any, Any]:
        namespace = token.lstrip("#:")
        match = re.compile(r"[\s,]*\{").match(self.text, self.at)
        if not namespace or match is None:
            raise self.error(f"{token} should be followed by a map", start)
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
            raise self.error(f"bad value for #{tag}: {value!r} ({error})", start) from error

    def _string(self, token: str, start: int) -> str:
        def escape(match: re.Match[str]) -> str:
            code = match.group(1)
            if code[0] == "u" and len(code) == 5:
                return chr(int(code[1:], 16))
            if code[0] in "01234567":
                return chr(int(code, 8))
            found = _ESCAPES.get(code)
            if found is None:
                raise self.error(f"unknown escape \\{code} in a string", start + 1 + match.start())
            return found

        return _joined(_ESCAPE.sub(escape, token[1:-1]))

    def _char(self, token: str, start: int) -> Char:
        name = token[1:]
        if len(name) == 1:
            return Char(name)
        if name in _CHARS:
            return Char(_CHARS[name])
        if name[0] == "u" and len(name) == 5:
            return Char(chr(int(name[1:], 16)))
        if name[0] == "o" and name[1:].isdigit():
            return Char(chr(int(name[1:], 8)))
        raise self.error(f"unknown character {token}", start)

    def _atom(self, token: str, start: int) -> Any:
        first = token[0]
        if first == ":":
            return self._keyword(token, start)
        if token in _WORDS:
            return _WORDS[token]
        if first.isdigit() or (first in "+-" and len(token) > 1 and token[1].isdigit()):
            return self._number(token, start)
        self._check_name(token, token, start)
        return Symbol(token)

    def _keyword(self, token: str, start: int) -> Keyword:
        name = token[1:]
        if not name or name[0] == ":":
            raise self.error(f"{token!r} is no keyword", start)
        self._check_name(name, token, start)
        return Keyword(name)

    def _check_name(self, name: str, token: str, start: int) -> None:
        if name == "/":
            return
        parts = name.split("/")
        if len(parts) > 2 and parts[0]:
            parts = [parts[0], "/".join(parts[1:])]
            if parts[1] == "/":
                return
        if not all(parts) or "#" in parts[0][:1]:
            raise self.error(f"{token!r} is no symbol or keyword", start)

    def _number(self, token: str, start: int) -> Any:
        if _INT.match(token):
            digits = token.rstrip("N")
            if len(digits) > 4000:
                raise self.error("an integer has more than 4000 digits", start)
            return int(digits)
        if _FLOAT.match(token):
            return Decimal(token[:-1]) if token[-1] == "M" else float(token)
        if _RATIO.match(token):
            top, _, bottom = token.partition("/")
            if not int(bottom):
                raise self.error(f"{token} divides by zero", start)
            value = Fraction(int(top), int(bottom))
            return int(value) if value.denominator == 1 else value
        raise self.error(f"{token!r} is no number", start)


def _joined(text: str) -> str:
    """Join surrogate pairs that were written as two escapes."""
    if not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _inst(value: Any) -> datetime:
    match = _INST.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("an RFC 3339 timestamp is expected, such as 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    micro = int((fraction or "").ljust(6, "0")[:6])
    offset = timedelta()
    if zone and zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        digits = zone[1:].replace(":", "")
        offset = sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    local = datetime(
        int(year),
        int(month or 1),
        int(day or 1),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        micro,
        timezone(offset),
    )
    return local.astimezone(UTC)


def _uuid(value: Any) -> UUID:
    if not isinstance(value, str) or len(value) != 36:
        raise ValueError("36 characters are expected")
    return UUID(value)


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value, validate=True)


_READERS: Final[dict[str, Reader]] = {"inst": _inst, "uuid": _uuid, "datahike/bytes": _bytes}
