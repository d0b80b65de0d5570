"""Built-in functions on strings, keywords and symbols.

Patterns are Python's, which differ from Java's in rare corners. Pattern and text are limited in
length, but a pattern such as ``(a+)+$`` can still take exponential time: do not let strangers
choose patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import shown

__all__ = ["MAX_PATTERN", "MAX_TEXT", "TEXT"]

MAX_PATTERN: Final = 1000
MAX_TEXT: Final = 1_000_000


def _shown(value: Any) -> str:
    """Return what ``str`` shows of a value: strings as they are, all else as EDN."""
    if value is None:
        return ""
    if isinstance(value, (str, UUID, Decimal)):
        return str(value)
    return write(value)


def _str(*args: Any) -> str:
    return "".join(map(_shown, args))


def _print_str(*args: Any) -> str:
    return " ".join(_shown(a) if a is not None else "nil" for a in args)


def _pr_str(*args: Any) -> str:
    return " ".join(map(write, args))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string is expected, not {shown(value)}")
    return value


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


# -- patterns ----------------------------------------------------------------------------------


def _pattern(pattern: Any, text: Any = "") -> re.Pattern[str]:
    if not isinstance(pattern, (str, re.Pattern)) or not isinstance(text, str):
        raise TypeError("a pattern and a string are expected")
    source = pattern if isinstance(pattern, str) else pattern.pattern
    if len(source) > MAX_PATTERN or len(text) > MAX_TEXT:
        raise ValueError(
            f"patterns are limited to {MAX_PATTERN} and texts to {MAX_TEXT} characters"
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"bad pattern {shown(source)}: {error}") from error


def _groups(found: re.Match[str] | None) -> Any:
    if found is None:
        return None
    return found.group() if not found.re.groups else (found.group(), *found.groups())


def _re_seq(pattern: Any, text: Any) -> Any:
    return [_groups(m) for m in _pattern(pattern, text).finditer(text)] or None


def _replacement(text: str, match: Any, new: str, count: int) -> str:
    if isinstance(match, re.Pattern):
        # Java writes groups as $1.
        template = re.sub(r"\$(\d)", r"\\g<\1>", new.replace("\\", "\\\\"))
        return _pattern(match, text).sub(template, text, count)
    return text.replace(_string(match), new, count or -1)


def _replace(text: Any, match: Any, new: Any) -> str:
    return _replacement(_string(text), match, _string(new), 0)


def _replace_first(text: Any, match: Any, new: Any) -> str:
    return _replacement(_string(text), match, _string(new), 1)


def _split(text: Any, pattern: Any, limit: Any = 0) -> list[str]:
    parts = _pattern(pattern, text).split(text, max(limit - 1, 0))
    while not limit and len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


def _join(*args: Any) -> str:
    separator, items = args if len(args) == 2 else ("", *args)
    if isinstance(items, Mapping):
        items = [list(pair) for pair in items.items()]
    return _shown(separator).join(map(_shown, items))


def _index_of(text: Any, part: Any, start: int = 0) -> int | None:
    found = _string(text).find(_string(part), start)
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
    "re-pattern": _pattern,
    "re-find": lambda p, s: _groups(_pattern(p, s).search(s)),
    "re-matches": lambda p, s: _groups(_pattern(p, s).fullmatch(s)),
    "re-seq": _re_seq,
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
    _S + "replace": _replace,
    _S + "replace-first": _replace_first,
    _S + "split": _split,
    _S + "split-lines": _on_strings(lambda s: re.split(r"\r?\n", s)),
    _S + "join": _join,
}
