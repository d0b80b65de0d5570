"""Built-in functions that take patterns, with a bound on what a pattern may cost.

Patterns are those of the package ``regex``, close to Java's. Its matching takes a time limit, and
:class:`~datahike_async.query.builtins.supply.Supply` holds the time for all rows of a clause. What
a limit of time does not bound is refused beforehand: patterns that are long, that repeat something
many times (which is written out when a pattern is compiled), or that call themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Final

import regex

from datahike_async.errors import shown
from datahike_async.query.builtins.size import MAX_TEXT
from datahike_async.query.builtins.supply import Supplied, Supply

__all__ = [
    "MAX_GROUPS",
    "MAX_PATTERN",
    "MAX_REPEATS",
    "PATTERNS",
    "compiled",
    "source_of",
    "string",
]

MAX_PATTERN: Final = 1000
MAX_REPEATS: Final = 10_000
"""How often the parts of a pattern may have to be written out."""
MAX_GROUPS: Final = 10_000_000
"""The most groups of a pattern, times the characters of the text: each match may be kept."""

_KINDS: Final = (str, re.Pattern, regex.Pattern)
_FLAGS: Final = {re.I: "i", re.M: "m", re.S: "s", re.X: "x", re.A: "a"}
_CALL: Final = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?:R|[+-]?[0-9]|&|P>)")
_ODD: Final = re.compile(r"\(\?[\w-]*[xV]|\(\?#|\[:")
_REPEAT: Final = re.compile(r"\{\s*([0-9]*)")


def string(value: Any) -> str:
    """Return ``value`` if it is a string; raise TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"a string is expected, not {shown(value)}")
    return value


def _repeats(source: str) -> int:
    """Return a bound on how many parts the compiled pattern has."""
    counts = [max(int(n), 1) for n in _REPEAT.findall(source) if n]
    product = 1
    for count in counts:
        product *= count
    if product * len(source) <= MAX_REPEATS or not counts or _ODD.search(source):
        # Comments and nested classes could hide a bracket: then all are taken for nested.
        return product
    sizes, i, last = [0], 0, 0
    while i < len(source):
        char = source[i]
        if char == "{" and (found := _REPEAT.match(source, i)) and found[1]:
            sizes[-1] += last * (max(int(found[1]), 1) - 1)
            last *= max(int(found[1]), 1)
            i = found.end()
            continue
        if char == "(":
            sizes.append(0)
        elif char == ")":
            if len(sizes) == 1:
                return product
            last = sizes.pop()
            sizes[-1] += last
        else:
            if char == "\\":
                i += 1
            elif char == "[":
                i = _class_end(source, i)
            last = 1
            sizes[-1] += 1
        i += 1
    return sizes[0] if len(sizes) == 1 else product


def _class_end(source: str, i: int) -> int:
    """Return where the class of characters ends that begins at ``i``."""
    i += 2 if source[i + 1 : i + 2] == "^" else 1
    first = i
    while i < len(source) and (source[i] != "]" or i == first):
        i += 2 if source[i] == "\\" else 1
    return i


@lru_cache(128)
def compiled(source: str, flags: str = "") -> regex.Pattern[str]:
    """Return the pattern of a text; raise ValueError where it is bad, or may cost too much."""
    if len(source) > MAX_PATTERN:
        raise ValueError(f"a pattern is limited to {MAX_PATTERN} characters")
    if _CALL.search(source):
        raise ValueError(f"the pattern {shown(source)} calls itself, or one of its groups")
    if _repeats(source) > MAX_REPEATS:
        raise ValueError(f"the pattern {shown(source)} repeats more than {MAX_REPEATS} parts")
    try:
        return regex.compile(f"(?{flags}){source}" if flags else source, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError, MemoryError, KeyError) as error:
        raise ValueError(f"bad pattern {shown(source)}: {error}") from error


def source_of(pattern: Any) -> str | None:
    """Return the text of a pattern, its flags in front; None where that does not say all."""
    if type(pattern) is str:
        return pattern
    if not isinstance(pattern, (re.Pattern, regex.Pattern)) or type(pattern.pattern) is not str:
        return None
    plain = re.compile("") if isinstance(pattern, re.Pattern) else compiled("")
    flags, letters = pattern.flags & ~plain.flags, ""
    for flag, letter in _FLAGS.items():
        if flags & flag:
            flags, letters = flags & ~flag, letters + letter
    # Without U the pattern is for ASCII, which its flag says.
    if flags or (pattern.flags & plain.flags != plain.flags and "a" not in letters):
        return None
    return f"(?{letters}){pattern.pattern}" if letters else pattern.pattern


def _pattern(pattern: Any, text: Any = "") -> regex.Pattern[str]:
    if not isinstance(pattern, _KINDS) or not isinstance(text, str):
        raise TypeError("a pattern and a string are expected")
    if isinstance(pattern, str):
        found = compiled(pattern)
    elif isinstance(pattern, regex.Pattern):
        found = pattern
    else:
        if not isinstance(pattern.pattern, str):
            raise TypeError("a pattern of strings is expected, not one of bytes")
        flags = "".join(letter for flag, letter in _FLAGS.items() if pattern.flags & flag)
        found = compiled(pattern.pattern, flags)
    if len(text) > MAX_TEXT:
        raise ValueError(f"texts that are searched are limited to {MAX_TEXT} characters")
    if found.groups * len(text) > MAX_GROUPS:
        raise ValueError(f"{found.groups} groups are too many for {len(text)} characters")
    return found


def _groups(found: regex.Match[str] | None) -> Any:
    if found is None:
        return None
    return found.group() if not found.re.groups else (found.group(), *found.groups())


def _re_find(supply: Supply, pattern: Any, text: Any) -> Any:
    return _groups(supply.run(partial(_pattern(pattern, text).search, text)))


def _re_matches(supply: Supply, pattern: Any, text: Any) -> Any:
    return _groups(supply.run(partial(_pattern(pattern, text).fullmatch, text)))


def _all(supply: Supply, pattern: Any, text: Any) -> list[regex.Match[str]]:
    find = _pattern(pattern, text).finditer
    return supply.run(lambda **limits: list(find(text, **limits)))  # type: ignore[no-any-return]


def _re_seq(supply: Supply, pattern: Any, text: Any) -> Any:
    return list(map(_groups, _all(supply, pattern, text))) or None


def _template(new: str, groups: int) -> list[str | int]:
    """Return a replacement in Java's notation, ``$1`` and ``\\$``, as texts and groups."""
    parts: list[str | int] = []
    i = 0
    while i < len(new):
        char = new[i]
        if char == "$":
            number = new[i + 1 : i + 2]
            if not number.isascii() or not number.isdigit() or int(number) > groups:
                raise ValueError(f"no group {shown(number)} in the pattern; write \\$ for a dollar")
            parts.append(int(number))
            i += 2
            continue
        if char == "\\":
            i += 1
            char = new[i : i + 1]
        parts.append(char)
        i += 1
    return parts


def _limited(pieces: Iterator[str]) -> str:
    out, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_TEXT:
            raise ValueError(f"the text would be longer than {MAX_TEXT} characters")
        out.append(piece)
    return "".join(out)


def _replaced(supply: Supply, text: str, match: Any, new: str, count: int) -> str:
    if isinstance(match, str):
        found = min(text.count(match), count or MAX_TEXT + 1)
        if len(text) + found * (len(new) - len(match)) > MAX_TEXT:
            raise ValueError(f"the text would be longer than {MAX_TEXT} characters")
        return text.replace(match, new, count or -1)
    pattern = _pattern(match, text)
    parts = _template(new, pattern.groups)
    if count:
        first = supply.run(partial(pattern.search, text))
        matches = [] if first is None else [first]
    else:
        matches = _all(supply, pattern, text)

    def pieces() -> Iterator[str]:
        at = 0
        for m in matches:
            yield text[at : m.start()]
            for part in parts:
                yield part if isinstance(part, str) else m.group(part) or ""
            at = m.end()
        yield text[at:]

    return _limited(pieces())


def _replace(supply: Supply, text: Any, match: Any, new: Any) -> str:
    return _replaced(supply, string(text), match, string(new), 0)


def _replace_first(supply: Supply, text: Any, match: Any, new: Any) -> str:
    return _replaced(supply, string(text), match, string(new), 1)


def _split(supply: Supply, text: Any, pattern: Any, limit: Any = 0) -> list[str]:
    if type(limit) is not int:
        raise TypeError(f"a limit is an int, not {shown(limit)}")
    if limit == 1:
        return [string(text)]
    parts: list[str] = []
    at = 0
    for found in _all(supply, pattern, text):
        # As in Java, an empty match at the start splits nothing off.
        if found.end() == 0 or (found.start() == found.end() == len(text)):
            continue
        if 0 < limit <= len(parts) + 1:
            break
        parts.append(text[at : found.start()])
        at = found.end()
    parts.append(text[at:])
    while not limit and len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


_S: Final = "clojure.string/"

PATTERNS: Final[dict[str, Callable[..., Any]]] = {
    "re-pattern": _pattern,
    "re-find": Supplied(_re_find),
    "re-matches": Supplied(_re_matches),
    "re-seq": Supplied(_re_seq),
    _S + "replace": Supplied(_replace),
    _S + "replace-first": Supplied(_replace_first),
    _S + "split": Supplied(_split),
}
