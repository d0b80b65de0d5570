"""Tokens and tagged values to single Python values: names, numbers, strings, characters, readers.

Knows the grammar of one token and nothing of nesting or positions: what is wrong is said by
ValueError, and the reader adds where.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol

__all__ = [
    "NAME",
    "PLAIN",
    "READERS",
    "TAG",
    "Reader",
    "character",
    "is_number_like",
    "name",
    "number",
    "string",
]

Reader = Callable[[Any], Any]

# What may stand inside a token: everything but white space, delimiters and Clojure's macros.
PLAIN: Final = r"""[^\s,\[\](){}"\\;@^`~]"""
_HEAD: Final = r"""[^\s,\[\](){}"\\;@^`~/]"""
# One name, or a namespace and a name that may itself hold slashes; "/" alone is a name.
NAME: Final = re.compile(rf"(?![:#])(?:/|{_HEAD}+(?:/{PLAIN}+)?)\Z")
TAG: Final = re.compile(rf"[^\W\d_]{PLAIN}*\Z")
_NUMBER_LIKE: Final = re.compile(r"[+-]?\.?[0-9]")

_INT: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)N?\Z")
_FLOAT: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?M?\Z")
_RATIO: Final = re.compile(r"[+-]?[0-9]+/[0-9]+\Z")
_INST: Final = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?)?)?)?)?"
    r"([Zz]|[+-][0-9]{2}:?[0-9]{2})?\Z"
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
# CPython refuses to convert longer ones from text, because it takes quadratic time.
_MOST_DIGITS: Final = 4000

_WORDS: Final[dict[str, Any]] = {"nil": None, "true": True, "false": False}
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
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def name(token: str) -> Any:
    """Return nil, a boolean, a keyword or a symbol."""
    if token in _WORDS:
        return _WORDS[token]
    text = token[1:] if token[0] == ":" else token
    if NAME.match(text) is None:
        raise ValueError("it is no symbol or keyword")
    return Keyword(text) if text is not token else Symbol(text)


def is_number_like(token: str) -> bool:
    """Tell whether a token begins as only numbers may."""
    return _NUMBER_LIKE.match(token) is not None


def number(token: str) -> Any:
    """Return an int, float, Decimal or Fraction."""
    if _INT.match(token):
        return int(_bounded(token.rstrip("N")))
    if _FLOAT.match(token):
        if token[-1] != "M":
            return float(token)
        try:
            return Decimal(token[:-1])
        except InvalidOperation:
            raise ValueError("its exponent is out of range") from None
    if _RATIO.match(token):
        top, _, bottom = token.partition("/")
        if not int(_bounded(bottom)):
            raise ValueError("it divides by zero")
        value = Fraction(int(_bounded(top)), int(bottom))
        return int(value) if value.denominator == 1 else value
    raise ValueError("it is no number; 12, 1.5, 1e9, 3N, 2.50M and 1/3 are")


def _bounded(digits: str) -> str:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer may have {_MOST_DIGITS} digits")
    return digits


def string(body: str, fail: Callable[[str, int], Exception]) -> str:
    """Return a string's text from its body with escapes; ``fail`` makes the error at an offset."""

    def escape(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] == "u" and len(code) == 5:
            return chr(int(code[1:], 16))
        if code[0] in "01234567" and int(code, 8) <= 0o377:
            return chr(int(code, 8))
        found = _ESCAPES.get(code)
        if found is None:
            raise fail(
                f'unknown escape \\{code} in a string; \\n \\t \\r \\b \\f \\\\ \\" and '
                "\\u with four hexadecimal digits are expected",
                match.start(),
            )
        return found

    text = _ESCAPE.sub(escape, body)
    # A character beyond the first 65,536 is written as two escapes, which are one here.
    if _SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


def character(token: str) -> Char:
    """Return the character of a token such as ``\\a``, ``\\newline`` or ``\\u00e9``."""
    text = token[1:]
    if len(text) == 1:
        return Char(text)
    if text in _CHARS:
        return Char(_CHARS[text])
    try:
        if text[0] == "u" and len(text) == 5:
            return Char(chr(int(text[1:], 16)))
        if text[0] == "o" and len(text) <= 4 and int(text[1:], 8) <= 0o377:
            return Char(chr(int(text[1:], 8)))
    except ValueError:
        pass
    raise ValueError("one character, \\u with four digits or one of " + " ".join(_CHARS))


def _inst(value: Any) -> datetime:
    match = _INST.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("an RFC 3339 timestamp is expected, such as 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    micro = int((fraction or "").ljust(6, "0")[:6])
    offset = leap = timedelta()
    if second == "60" and minute == "59":
        # A leap second, which the clocks of computers do not have: the second that follows.
        second, leap = "59", timedelta(seconds=1)
    if zone and zone not in "Zz":
        sign = -1 if zone[0] == "-" else 1
        digits = zone[1:].replace(":", "")
        if int(digits[2:]) > 59:
            raise ValueError("the minutes of an offset are at most 59")
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
    return local.astimezone(UTC) + leap


def _uuid(value: Any) -> UUID:
    if not isinstance(value, str) or _UUID.match(value) is None:
        raise ValueError("36 characters are expected: hexadecimal digits as 8-4-4-4-12")
    return UUID(value)


def _bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise ValueError("base64 in a string is expected")
    return base64.b64decode(value, validate=True)


def _text(value: Any) -> str:
    if type(value) is not str or not value:
        raise ValueError("a name in a string is expected")
    return value


READERS: Final[dict[str, Reader]] = {
    "inst": _inst,
    "uuid": _uuid,
    "datahike/bytes": _bytes,
    # Names that EDN has no notation for, such as one with a space.
    "datahike/keyword": lambda value: Keyword(":" + _text(value)),
    "datahike/symbol": lambda value: Symbol(_text(value)),
}
