"""Built-in functions on strings, keywords and symbols.

Those that take patterns are in ``regexes``; predicates on whole columns in ``matching``. A text
that a function makes is limited in length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import shown
from datahike_async.query.builtins.regexes import PATTERNS
from datahike_async.query.builtins.regexes import string as _string
from datahike_async.query.builtins.size import MAX_TEXT
from datahike_async.query.builtins.walk import each

__all__ = ["TEXT"]

_LINES: Final = re.compile(r"\r?\n")


def _shown(value: Any) -> str:
    """Return what ``str`` shows of a value: strings as they are, all else as EDN."""
    if value is None:
        return ""
    if isinstance(value, (str, UUID, Decimal)):
        return str(value)
    return write(value)


def _joined(separator: str, texts: Iterable[str]) -> str:
    """Return texts in one; raise ValueError before it gets longer than a text may be."""
    parts: list[str] = []
    size = 0
    for text in texts:
        size += len(text) + len(separator)
        if size > MAX_TEXT + len(separator):
            raise ValueError(f"the text would be longer than {MAX_TEXT} characters")
        parts.append(text)
    return separator.join(parts)


def _str(*args: Any) -> str:
    return _joined("", map(_shown, each(args)))


def _print_str(*args: Any) -> str:
    return _joined(" ", (_shown(a) if a is not None else "nil" for a in each(args)))


def _pr_str(*args: Any) -> str:
    return _joined(" ", map(write, each(args)))


def _on_strings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function see strings only."""

    def call(*args: Any) -> Any:
        return function(*map(_string, args))

    return call


def _name(value: Any) -> str:
    return value.name if isinstance(value, (Keyword, Symbol)) else _string(value)


def _namespace(value: Any) -> str | None:
    if not isinstance(value, (Keyword, Symbol)):
        raise TypeError(f"(namespace …) takes a keyword or symbol, not {shown(value)}")
    return value.namespace


def _keyword(*parts: Any) -> Keyword:
    if len(parts) == 1 and isinstance(parts[0], (Keyword, Symbol)):
        return Keyword(parts[0].text)
    return Keyword("/".join(map(_name, parts)))


def _symbol(*parts: Any) -> Symbol:
    if len(parts) == 1 and isinstance(parts[0], (Keyword, Symbol)):
        return Symbol(parts[0].text)
    return Symbol("/".join(map(_name, parts)))


def _subs(text: Any, start: Any, end: Any = None) -> str:
    size = len(_string(text))
    end = size if end is None else end
    if type(start) is not int or type(end) is not int:
        raise TypeError("(subs …) takes a string and ints")
    if not 0 <= start <= end <= size:
        raise IndexError(f"{start} to {end} is not within the {size} characters")
    return text[start:end]  # type: ignore[no-any-return]


def _join(*args: Any) -> str:
    separator, items = args if len(args) == 2 else ("", *args)
    if isinstance(items, Mapping):
        items = map(list, each(items.items()))
    elif hasattr(items, "__len__"):
        items = each(items)
    return _joined(_shown(separator), map(_shown, items))


def _index_of(text: Any, part: Any, start: Any = 0) -> int | None:
    if type(start) is not int:
        raise TypeError(f"a position is an int, not {shown(start)}")
    found = _string(text).find(_string(part), max(start, 0))
    return None if found < 0 else found


def _last_index_of(text: Any, part: Any) -> int | None:
    found = _string(text).rfind(_string(part))
    return None if found < 0 else found


def _is_blank(text: Any) -> bool:
    return text is None or not _string(text).strip()


_S = "clojure.string/"

TEXT: Final[dict[str, Callable[..., Any]]] = {
    "str": _str,
    "pr-str": _pr_str,
    "prn-str": lambda *args: _pr_str(*args) + "\n",
    "print-str": _print_str,
    "println-str": lambda *args: _print_str(*args) + "\n",
    "name": _name,
    "namespace": _namespace,
    "keyword": _keyword,
    "symbol": _symbol,
    "subs": _subs,
    _S + "upper-case": _on_strings(str.upper),
    _S + "lower-case": _on_strings(str.lower),
    _S + "capitalize": _on_strings(str.capitalize),
    _S + "trim": _on_strings(str.strip),
    _S + "triml": _on_strings(str.lstrip),
    _S + "trimr": _on_strings(str.rstrip),
    _S + "trim-newline": _on_strings(lambda s: s.rstrip("\r\n")),
    _S + "reverse": _on_strings(lambda s: s[::-1]),
    _S + "blank?": _is_blank,
    _S + "starts-with?": _on_strings(str.startswith),
    _S + "ends-with?": _on_strings(str.endswith),
    _S + "includes?": _on_strings(lambda s, part: part in s),
    _S + "index-of": _index_of,
    _S + "last-index-of": _last_index_of,
    _S + "split-lines": _on_strings(_LINES.split),
    _S + "join": _join,
    **PATTERNS,
}
