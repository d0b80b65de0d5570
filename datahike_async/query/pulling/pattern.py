"""Pull patterns: from EDN text or data to specs. Parsed text is cached.

Data has the shape of the text: lists for vectors, strings such as ``":person/name"`` for keywords,
``"*"`` and ``"..."`` for the symbols, ``("limit", ":a", 10)`` for a list form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.looks import STEP, tally
from datahike_async.query.builtins.calls import is_async
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.language.bindings import forward_of, unquoted
from datahike_async.query.language.text import MAX_QUERY

__all__ = ["DB_ID", "DEFAULT_LIMIT", "AttrSpec", "Spec", "parse_pattern", "xform_of"]

DB_ID: Final = Keyword("db/id")
DEFAULT_LIMIT: Final = 1000
_NOTHING: Final = object()
_OPTIONS: Final = ("as", "limit", "default", "xform")
_DEEPEST: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class AttrSpec:
    """One attribute of a pattern.

    ``name`` is the attribute as the schema knows it, ``key`` what the result calls it.
    ``recursion`` is None, a depth, or -1 for without end; ``limit`` is None for no limit.
    ``xform`` is a function, or the symbol of one that is looked up when it is called for.
    """

    name: Keyword
    reverse: bool
    key: Any
    limit: int | None = DEFAULT_LIMIT
    default: Any = _NOTHING
    xform: Callable[[Any], Any] | Symbol | None = None
    sub: Spec | None = None
    recursion: int | None = None
    # Whether a default stands in for a missing attribute.
    has_default: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_default", self.default is not _NOTHING)


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """A pattern: attributes, whether ``*`` is among them, whether ``:db/id`` is."""

    attrs: tuple[AttrSpec, ...]
    wildcard: bool
    db_id: bool
    db_id_key: Any = DB_ID
    # How many attributes, here and in nested patterns, recur.
    recursions: int = 0
    db_id_xform: Callable[[Any], Any] | Symbol | None = None


def _error(message: str, form: Any) -> QueryError:
    return QueryError(message, error=":parser/pull", form=form)


@lru_cache(512)
def _parsed_text(text: str) -> Spec:
    return _pattern(read(text, max_size=MAX_QUERY), 0)


def parse_pattern(pattern: Any) -> Spec:
    """Parse a pull pattern. Raises QueryError ``:parser/pull``, and EdnError for bad text."""
    if type(pattern) is str:
        return _parsed_text(pattern)
    if type(pattern) is Spec:
        return pattern
    return _pattern(pattern, 0)


def _pattern(form: Any, depth: int) -> Spec:
    if depth > _DEEPEST:
        raise _error(f"A pull pattern is nested deeper than {_DEEPEST} levels.", None)
    form = unquoted(form)
    if isinstance(form, (set, frozenset)):
        form = list(form)
    if not isinstance(form, (list, tuple)) or not form:
        raise _error(
            f"A pull pattern is a vector that is not empty, such as [:person/name] or [*], "
            f"not {shown(form)}.",
            form,
        )
    tally(4 * STEP * len(form))
    attrs: dict[Any, AttrSpec] = {}
    wildcard = db_id = False
    db_id_key: Any = DB_ID
    db_id_xform: Callable[[Any], Any] | Symbol | None = None
    for item in form:
        if _is_star(item):
            wildcard = db_id = True
            continue
        if type(item) is Keyword:
            spec = _named(item)
        elif isinstance(item, Mapping):
            if not item:
                raise _error("An empty map in a pull pattern names no attribute.", form)
            for key, sub in item.items():
                spec = _sub(_attribute(key), sub, item, depth)
                attrs[spec.key, spec.name, spec.reverse] = spec
            continue
        else:
            spec = _attribute(item)
        if spec.name is DB_ID:
            db_id, db_id_key, db_id_xform = True, spec.key, spec.xform
        else:
            attrs[spec.key, spec.name, spec.reverse] = spec
    if wildcard:
        # As in Datahike: what * shows is there, and nothing stands in for what is not.
        attrs = {k: s if s.reverse else replace(s, default=_NOTHING) for k, s in attrs.items()}
    found = tuple(attrs.values())
    recursions = sum(
        (a.recursion is not None) + (0 if a.sub is None else a.sub.recursions) for a in found
    )
    return Spec(found, wildcard, db_id, db_id_key, recursions, db_id_xform)


def _is_star(item: Any) -> bool:
    item = unquoted(item)
    return _word(item) == "*" or (type(item) is Keyword and item.text == "*")


def _word(form: Any) -> str | None:
    """Return the text of a symbol, or of a string that stands for one."""
    if type(form) is Symbol:
        return form.text
    return form if isinstance(form, str) and type(form) is not Char else None


def _named(name: Keyword) -> AttrSpec:
    forward = forward_of(name)
    return AttrSpec(name, False, name) if forward is None else AttrSpec(forward, True, name)


def _attribute(form: Any, levels: int = 8) -> AttrSpec:
    """Parse an attribute name or an attribute with options."""
    if not levels:
        raise _error("An attribute of a pull pattern is nested too deeply.", None)
    if isinstance(form, Keyword):
        return _named(form)
    if isinstance(form, str) and form[:1] == ":" and len(form) > 1:
        return _named(Keyword(form))
    if isinstance(form, (list, tuple)) and form:
        head = _word(form[0])
        if head in ("limit", "default"):
            if len(form) != 3:
                raise _error(
                    f"({head} …) takes an attribute and a value, as in ({head} :person/aka 10); "
                    f"got {shown(form)}.",
                    form,
                )
            return _options(_attribute(form[1], levels - 1), [Keyword(head), form[2]], form)
        return _options(_attribute(form[0], levels - 1), list(form[1:]), form)
    raise _error(
        f"Cannot parse {shown(form)} in a pull pattern; expected an attribute such as "
        ":person/name, *, a map {:person/friend [:person/name]}, or an attribute with options.",
        form,
    )


def _options(spec: AttrSpec, options: list[Any], form: Any) -> AttrSpec:
    if len(options) % 2:
        raise _error(f"The options in {shown(form)} should come in pairs.", form)
    values: dict[str, Any] = {
        "key": spec.key,
        "limit": spec.limit,
        "default": spec.default,
        "xform": spec.xform,
    }
    for key, value in zip(options[::2], options[1::2], strict=True):
        text = key.text if isinstance(key, Keyword) else key
        name = text.removeprefix(":") if isinstance(text, str) else None
        if name not in _OPTIONS:
            raise _error(
                f"Unknown option {shown(key)} in {shown(form)}; known: :as :limit :default :xform.",
                form,
            )
        if name == "as":
            values["key"] = _key(value, form)
        elif name == "limit":
            if value is not None and (type(value) is not int or value < 1):
                raise _error(f":limit in {shown(form)} should be a positive int or nil.", form)
            values["limit"] = value
        elif name == "xform":
            values["xform"] = _function(value, form)
        else:
            values[name] = value
    return AttrSpec(spec.name, spec.reverse, sub=spec.sub, recursion=spec.recursion, **values)


def _key(value: Any, form: Any) -> Any:
    if isinstance(value, str) and value[:1] == ":" and len(value) > 1:
        return Keyword(value)
    try:
        hash(value)
    except TypeError:
        raise _error(f":as in {shown(form)} should be a keyword or a string.", form) from None
    return value


def _function(value: Any, form: Any) -> Callable[[Any], Any] | Symbol:
    if isinstance(value, (Symbol, str)):
        name = Symbol(value)
        _find(name, form)
        return name
    if not callable(value):
        raise _error(f":xform in {shown(form)} should be a function or the name of one.", form)
    return value  # type: ignore[no-any-return]


def _find(name: Symbol, form: Any) -> Callable[[Any], Any]:
    found = lookup_function(name) or BUILTINS.get(name.text.removeprefix("clojure.core/"))
    if found is None:
        raise _error(
            f"Unknown function {name} for :xform in {shown(form)}; make it known with "
            "register_function.",
            form,
        )
    return found


def xform_of(xform: Callable[[Any], Any] | Symbol) -> Callable[[Any], Any]:
    """Return the function of an ``:xform``, as it is registered now."""
    found = _find(xform, xform) if isinstance(xform, Symbol) else xform
    if is_async(found):
        raise _error(
            f":xform {shown(xform)} is a coroutine function; pull takes plain ones.", xform
        )
    return found


def _sub(spec: AttrSpec, sub: Any, form: Any, depth: int) -> AttrSpec:
    nested: Spec | None = None
    recursion: int | None = None
    if spec.name is DB_ID:
        raise _error(f":db/id in {shown(form)} takes no pattern: it is no reference.", form)
    if _word(sub) == "...":
        recursion = -1
    elif type(sub) is int:
        if sub < 1:
            raise _error(f"The depth of recursion in {shown(form)} should be at least 1.", form)
        recursion = sub
    elif isinstance(sub, str) and sub.lstrip()[:1] in ("[", "#"):
        nested = _pattern(read(sub, max_size=MAX_QUERY), depth + 1)
    elif isinstance(sub, (list, tuple, set, frozenset)):
        nested = _pattern(sub, depth + 1)
    else:
        raise _error(
            f"Cannot parse {shown(sub)} in {shown(form)}; an attribute in a map takes a pattern, "
            "a depth or "
            '"...".',
            form,
        )
    return AttrSpec(
        spec.name, spec.reverse, spec.key, spec.limit, spec.default, spec.xform, nested, recursion
    )
