"""Python data to EDN text: the inverse of the reader.

What is written reads back as the same value of the same type, with these exceptions: subclasses
and NumPy values are written as what they hold, and other sequences than list and tuple as vectors.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from heapq import merge
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.scalars import NAME, TAG, is_number_like
from datahike_async.edn.types import Char, Keyword, Symbol, Tagged
from datahike_async.looks import walked

__all__ = ["write"]

_ESCAPES: Final = {
    **{i: f"\\u{i:04x}" for i in (*range(0x20), 0x7F)},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    ord("\r"): "\\r",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    **{i: f"\\u{i:04x}" for i in range(0xD800, 0xE000)},
}
_CHARS: Final = {
    "\n": "newline",
    " ": "space",
    "\t": "tab",
    "\r": "return",
    "\b": "backspace",
    "\f": "formfeed",
}
_WIDTH: Final = 88
_LONG: Final = 1 << 14


def write(value: Any, *, pretty: bool = False) -> str:
    """Return ``value`` as EDN text, over several lines where ``pretty`` and too long for one.

    Lists are written as vectors, tuples as lists, bytes as ``#datahike/bytes``, and keywords and
    symbols that the notation cannot spell as ``#datahike/keyword`` and ``#datahike/symbol``. Equal
    sets give equal text. Raises TypeError for what EDN has no form for, and ValueError for a
    datetime without a time zone, a Decimal that is no number, and data nested beyond measure.
    """
    try:
        return _pretty(value, 0) if pretty else _flat(value)
    except RecursionError:
        raise ValueError("the data is nested too deeply, or contains itself") from None


def _flat(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return f'"{value.translate(_ESCAPES)}"'
    if kind is Keyword:
        text = value.text
        return f":{text}" if NAME.match(text) else f"#datahike/keyword {_flat(text)}"
    if kind is Symbol:
        return _symbol(value)
    if value is None:
        return "nil"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return _float(value)
    if kind is list:
        return "[" + " ".join(map(_flat, walked(value))) + "]"
    if kind is tuple:
        return "(" + " ".join(map(_flat, walked(value))) + ")"
    return _other(value)


def _in_order(texts: list[str]) -> Iterable[str]:
    if len(texts) <= _LONG:
        return sorted(texts)
    # All in one call would keep the interpreter from every other thread for long.
    parts = [sorted(texts[i : i + _LONG]) for i in range(0, len(texts), _LONG)]
    return walked(merge(*parts))


def _symbol(value: Symbol) -> str:
    text = value.text
    if (
        NAME.match(text) is None
        or text in ("nil", "true", "false")
        or text[0] in "'\ufeff"
        or is_number_like(text)
    ):
        return f"#datahike/symbol {_flat(text)}"
    return text


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "##NaN" if math.isnan(value) else "##Inf" if value > 0 else "##-Inf"


def _other(value: Any) -> str:
    if isinstance(value, Char):
        return _char(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flat(k)} {_flat(v)}" for k, v in walked(value.items())) + "}"
    if isinstance(value, AbstractSet):
        return "#{" + " ".join(_in_order(list(map(_flat, walked(value))))) + "}"
    if isinstance(value, datetime):
        return f'#inst "{_inst(value)}"'
    if isinstance(value, UUID):
        return f'#uuid "{value}"'
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"EDN has no form for {value!r}")
        return f"{value}M"
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f'#datahike/bytes "{base64.b64encode(bytes(value)).decode()}"'
    if isinstance(value, Tagged):
        if TAG.match(value.tag) is None:
            raise ValueError(f"{value.tag!r} is no tag; it begins with a letter, as in my/tag")
        return f"#{value.tag} {_flat(value.value)}"
    if isinstance(value, str):
        return _flat(str.__str__(value))  # str() of a member of an enum is its name
    if isinstance(value, bool | int):
        return str(int(value))
    if isinstance(value, float):
        return _float(float(value))
    if isinstance(value, Sequence):
        return "[" + " ".join(map(_flat, value)) + "]"
    if hasattr(value, "tolist"):
        plain = value.tolist()  # NumPy's scalars and arrays
        if type(plain) is not type(value):
            return _flat(plain)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no EDN form")


def _char(value: Char) -> str:
    text = str(value)
    if text in _CHARS:
        return "\\" + _CHARS[text]
    if not text.isprintable() and ord(text) < 0x10000:
        return f"\\u{ord(text):04x}"
    return "\\" + text


def _inst(value: datetime) -> str:
    if value.utcoffset() is None:
        raise ValueError(
            f"{value!r} has no time zone; give it one, for example with tzinfo=datetime.UTC"
        )
    text = value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    # Milliseconds are what other EDN readers print; finer digits only where there are some.
    return (text[:-3] if text.endswith("000") else text) + "Z"


def _pretty(value: Any, indent: int) -> str:
    flat = _flat(value)
    if indent + len(flat) <= _WIDTH:
        return flat
    if isinstance(value, Mapping):
        lines = []
        for k, v in value.items():
            key = _flat(k)
            lines.append(f"{key} {_pretty(v, indent + len(key) + 2)}")
        return "{" + ("\n" + " " * (indent + 1)).join(lines) + "}"
    opening, closing = ("[", "]")
    if isinstance(value, AbstractSet):
        opening, closing = "#{", "}"
    elif type(value) is tuple:
        opening, closing = "(", ")"
    elif not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return flat
    inner = indent + len(opening)
    parts = [_pretty(v, inner) for v in value]
    if opening == "#{":
        parts.sort()
    return opening + ("\n" + " " * inner).join(parts) + closing
