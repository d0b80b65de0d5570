"""Pull patterns: from EDN text or data to specs. Parsed patterns are cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError
from datahike_async.functions import lookup_function
from datahike_async.query.builtins import BUILTINS

__all__ = ["AttrSpec", "Spec", "parse_pattern"]

DEFAULT_LIMIT: Final = 1000
_NOTHING: Final = object()
_STAR: Final = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """One attribute of a pattern.

    ``recursion`` is None, a depth, or -1 for without end; ``limit`` is None for no limit.
    """

    name: Keyword
    reverse: bool
    key: Any
    limit: int | None = DEFAULT_LIMIT
    default: Any = _NOTHING
    xform: Callable[[Any], Any] | None = None
    sub: Spec | None = None
    recursion: int | None = None

    @property
    def has_default(self) -> bool:
        """Whether a default stands in for a missing attribute."""
        return self.default is not _NOTHING


@dataclass(frozen=True, slots=True)
class Spec:
    """A pattern: attributes, whether ``*`` is among them, whether ``:db/id`` is."""

    attrs: tuple[AttrSpec, ...]
    wildcard: bool
    db_id: bool
    db_id_key: Any = Keyword("db/id")


def _error(message: str, form: Any) -> QueryError:
    return QueryError(message, error=":parser/pull", form=form)


@lru_cache(512)
def _parsed_text(text: str) -> Spec:
    return _pattern(read(text))


def parse_pattern(pattern: Any) -> Spec:
    """Parse a pull pattern. Raises QueryError ``:parser/pull``, and EdnError for bad text."""
    if isinstance(pattern, Spec):
        return pattern
    if type(pattern) is str:
        return _parsed_text(pattern)
    return _pattern(pattern)


def _pattern(form: Any) -> Spec:
    if isinstance(form, (set, frozenset)):
        form = list(form)
    if not isinstance(form, (list, tuple)) or not form:
        raise _error(f"A pull pattern is a vector that is not empty, not {form!r}.", form)
    attrs: list[AttrSpec] = []
    wildcard = db_id = False
    db_id_key: Any = Keyword("db/id")
    for item in form:
        if _is_star(item):
            wildcard = db_id = True
            continue
        if isinstance(item, Mapping):
            for key, sub in item.items():
                attrs.append(_sub(_attribute(key), sub, item))
            continue
        spec = _attribute(item)
        if spec.name is Keyword("db/id"):
            db_id, db_id_key = True, spec.key
        else:
            attrs.append(spec)
    return Spec(tuple(attrs), wildcard, db_id, db_id_key)


def _is_star(item: Any) -> bool:
    if isinstance(item, (tuple, list)) and len(item) == 2 and item[0] is Symbol("quote"):
        item = item[1]
    return (
        getattr(item, "text", item) in _STAR if isinstance(item, (str, Symbol, Keyword)) else False
    )


def _attribute(form: Any) -> AttrSpec:
    """Parse an attribute name or an attribute with options."""
    if isinstance(form, Keyword) or (isinstance(form, str) and form[:1] == ":" and len(form) > 1):
        name = Keyword(form)
        reverse = name.name[:1] == "_" and len(name.name) > 1
        forward = name
        if reverse:
            text = name.name[1:]
            forward = Keyword(f"{name.namespace}/{text}" if name.namespace else text)
        return AttrSpec(forward, reverse, name)
    if isinstance(form, (list, tuple)) and form:
        head = getattr(form[0], "text", form[0]) if isinstance(form[0], (Symbol, str)) else None
        if head in ("limit", "default") and not isinstance(form[0], Keyword):
            if len(form) != 3:
                raise _error(f"{form!r} should have an attribute and a value.", form)
            return _options(_attribute(form[1]), [Keyword(head), form[2]], form)
        return _options(_attribute(form[0]), list(form[1:]), form)
    raise _error(f"Cannot parse {form!r} in a pull pattern; expected an attribute.", form)


def _options(spec: AttrSpec, options: list[Any], form: Any) -> AttrSpec:
    if len(options) % 2:
        raise _error(f"The options in {form!r} should come in pairs.", form)
    values: dict[str, Any] = {
        "key": spec.key,
        "limit": spec.limit,
        "default": spec.default,
        "xform": spec.xform,
    }
    for key, value in zip(options[::2], options[1::2], strict=True):
        name = key.text if isinstance(key, Keyword) else str(key).removeprefix(":")
        if name == "as":
            values["key"] = value
        elif name == "limit":
            if value is not None and (type(value) is not int or value < 1):
                raise _error(f":limit in {form!r} should be a positive int or nil.", form)
            values["limit"] = value
        elif name == "default":
            values["default"] = value
        elif name == "xform":
            values["xform"] = _function(value, form)
        else:
            raise _error(
                f"Unknown option {key!r} in {form!r}; known: :as :limit :default :xform.", form
            )
    return AttrSpec(spec.name, spec.reverse, sub=spec.sub, recursion=spec.recursion, **values)


def _function(value: Any, form: Any) -> Callable[[Any], Any]:
    if callable(value) and not isinstance(value, Symbol):
        return value  # type: ignore[no-any-return]
    found = None
    if isinstance(value, (Symbol, str)):
        text = getattr(value, "text", value)
        found = lookup_function(text) or BUILTINS.get(text)
    if found is None:
        raise _error(f"Unknown function {value!r} for :xform in {form!r}; register it first.", form)
    return found


def _sub(spec: AttrSpec, sub: Any, form: Any) -> AttrSpec:
    nested: Spec | None = None
    recursion: int | None = None
    text = getattr(sub, "text", sub)
    if text == "...":
        recursion = -1
    elif type(sub) is int:
        if sub < 1:
            raise _error(f"The depth of recursion in {form!r} should be at least 1.", form)
        recursion = sub
    elif type(sub) is str:
        nested = _pattern(read(sub))
    else:
        nested = _pattern(sub)
    return AttrSpec(
        spec.name,
        spec.reverse,
        spec.key,
        spec.limit,
        spec.default,
        spec.xform,
        nested,
        recursion,
    )
