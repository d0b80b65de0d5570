"""Query text or data to a :class:`Query`; rules text or data to rule branches.

Text is EDN. Data is the same shape in Python: lists for vectors, tuples for lists, and strings
where only a symbol or keyword can stand (``"?e"``, ``"$"``, ``":person/name"``, ``"not"``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import ArgumentError, QueryError, shown
from datahike_async.looks import tally
from datahike_async.query.language.ast import (
    DEFAULT_SOURCE,
    Aggregate,
    Binding,
    BindScalar,
    Find,
    Pull,
    Query,
    is_var,
)
from datahike_async.query.language.bindings import (
    DOTS,
    parse_binding,
    symbols,
    unquoted,
)
from datahike_async.query.language.having import parse_having
from datahike_async.query.language.text import MAX_QUERY, term_text
from datahike_async.query.language.where import parse_clauses, variables_of

__all__ = ["DEFAULT_IN", "order_by_of", "parse_query", "parse_query_data", "seconds_of"]

_SECTIONS: Final = (
    "find",
    "with",
    "in",
    "where",
    "having",
    "keys",
    "strs",
    "syms",
    "order-by",
    "limit",
    "offset",
    "timeout",
    "args",
)
_FOREVER: Final = 1e15
_DIRECTIONS: Final = ("asc", "desc")
_DOT: Final = Symbol(".")
# What comparing an element of :find counts for, in looks at the clock.
_COMPARED: Final = 8
_RETURN_MAPS: Final = ("keys", "strs", "syms")
DEFAULT_IN: Final = (BindScalar(DEFAULT_SOURCE),)
"""What ``:in`` is where a query has none."""


def _error(section: str, message: str, form: Any = None) -> QueryError:
    return QueryError(message, error=f":parser/{section}", form=form)


def parse_query(query: Any) -> Query:
    """Parse a query given as EDN text, list or map. Raises QueryError ``:parser/…``, EdnError."""
    try:
        return parse_query_data(
            unquoted(
                read(query, max_size=MAX_QUERY)
                if isinstance(query, str)
                else symbols(unquoted(query))
            )
        )
    except ArgumentError as error:  # a name that is none
        raise _error("query", f"In the query: {error}.", query) from None


def _section_name(key: Any) -> str | None:
    if isinstance(key, Keyword):
        return key.text
    return key[1:] if isinstance(key, str) and key[:1] == ":" else None


def parse_query_data(query: Any) -> Query:
    """Parse a query whose symbols are symbols already."""
    if isinstance(query, Mapping):
        sections = {}
        for key, value in query.items():
            name = _section_name(key) or key
            if not isinstance(name, str):
                raise _error("query", f"{term_text(key)} is no section of a query.", query)
            sections[name] = value
    elif isinstance(query, (list, tuple)):
        sections = _split(query)
    else:
        raise _error("query", f"A query is a vector, a map or text, not {shown(query)}.", query)
    for name in sections:
        if name not in _SECTIONS:
            raise _error("query", f"Unknown section :{name} in a query; known: {_known()}.")
    if "find" not in sections:
        raise _error("find", "A query needs a :find section.")
    find = _find(sections["find"])
    with_ = tuple(_variables(sections.get("with", ()), "with"))
    ins = _ins(sections["in"]) if sections.get("in") is not None else DEFAULT_IN
    where = sections.get("where", ())
    if not isinstance(where, (list, tuple)):
        raise _error("where", f"Cannot parse :where {shown(where)}; expected clauses.", where)
    clauses = parse_clauses(where)
    return_names = [str(name) for name in _RETURN_MAPS if name in sections]
    keys = _return_map(sections, return_names, find)
    out = Query(
        find,
        with_,
        ins,
        clauses,
        parse_having(sections.get("having"), find, with_, ins, _element),
        keys,
        order_by_of(sections.get("order-by"), find),
        _count(sections, "limit"),
        max(_count(sections, "offset") or 0, 0),
        _timeout(sections.get("timeout")),
    )
    _check(out)
    return out


def _known() -> str:
    return ", ".join(":" + s for s in _SECTIONS)


def _split(query: Sequence[Any]) -> dict[Any, Any]:
    sections: dict[Any, Any] = {}
    current: list[Any] | None = None
    for item in query:
        name = _section_name(item)
        if name in _DIRECTIONS and list(sections)[-1:] == ["order-by"]:
            sections["order-by"].append(item)
        elif name is not None:
            if name in sections:
                raise _error("query", f"The section :{name} occurs twice.")
            current = sections[name] = []
        elif current is None:
            raise _error("query", f"A query begins with :find, not {term_text(item)}.", query)
        else:
            current.append(item)
    for name in ("limit", "offset", "timeout", "order-by"):
        if name in sections and len(sections[name]) == 1:
            sections[name] = sections[name][0]
    return sections


# -- find --------------------------------------------------------------------------------------


def _find(form: Any) -> Find:
    if not isinstance(form, (list, tuple)) or not form:
        raise _error("find", f"Cannot parse :find {term_text(form)}; expected variables.", form)
    if len(form) == 2 and form[1] is _DOT:
        return Find("scalar", (_element(form[0]),))
    if len(form) == 1 and type(form[0]) is list:
        inner = form[0]
        if len(inner) == 2 and inner[1] is DOTS:
            return Find("collection", (_element(inner[0]),))
        if not inner:
            raise _error("find", "Cannot parse [] in :find; expected [?a ?b] or [?x ...].", form)
        return Find("tuple", tuple(map(_element, inner)))
    return Find("relation", tuple(map(_element, form)))


def _element(form: Any) -> Any:
    if is_var(form):
        return form
    if type(form) is list and form[1:] == [DOTS]:
        raise _error("find", f"{term_text(form)} in :find should stand alone, as [?x ...].", form)
    if isinstance(form, (tuple, list)) and form:
        head, *args = form
        if head is Symbol("pull"):
            source = DEFAULT_SOURCE
            if args and type(args[0]) is Symbol and args[0].text[0] == "$":
                source, *args = args
            if len(args) != 2 or not is_var(args[0]):
                raise _error(
                    "find", f"Cannot parse {term_text(form)}; expected (pull ?e pattern).", form
                )
            pattern = args[1]
            return Pull(source, args[0], pattern)
        if head is Symbol("aggregate") and args:
            head, *args = args
        if type(head) is Symbol and args:
            if not is_var(args[-1]):
                raise _error(
                    "find", f"The last argument of {term_text(form)} should be a variable.", form
                )
            return Aggregate(head, tuple(args))
    raise _error(
        "find", f"Cannot parse {term_text(form)} in :find; expected a variable, aggregate or pull."
    )


# -- in ----------------------------------------------------------------------------------------


def _ins(form: Any) -> tuple[Binding, ...]:
    if not isinstance(form, (list, tuple)):
        raise _error(
            "in", f"Cannot parse :in {term_text(form)}; expected a vector of bindings.", form
        )
    return tuple(parse_binding(item, "in") for item in form)


# -- the other sections ------------------------------------------------------------------------


def _variables(form: Any, section: str) -> list[Symbol]:
    if not isinstance(form, (list, tuple)) or not all(map(is_var, form)):
        raise _error(
            section, f"Cannot parse :{section} {term_text(form)}; expected variables.", form
        )
    return list(form)


def _return_map(
    sections: Mapping[Any, Any], names: list[str], find: Find
) -> tuple[Any, ...] | None:
    if not names:
        return None
    if len(names) > 1:
        raise _error("return-maps", "Only one of :keys, :strs and :syms may be given.")
    if find.kind in ("scalar", "collection"):
        raise _error("return-maps", f":{names[0]} goes with tuples, not with a {find.kind} find.")
    given = sections[names[0]]
    if not isinstance(given, (list, tuple)):
        raise _error(
            "return-maps", f":{names[0]} should be a list of names, not {term_text(given)}."
        )
    if len(given) != len(find.elements):
        raise _error(
            "return-maps",
            f":{names[0]} has {len(given)} names for {len(find.elements)} elements of :find.",
        )
    make: dict[str, Any] = {"keys": Keyword, "strs": str, "syms": Symbol}
    texts = [x.removeprefix(":") if type(x) is str else getattr(x, "text", "") for x in given]
    seen: set[str] = set()
    for x, text in zip(given, texts, strict=True):
        if not text:
            raise _error(
                "return-maps", f"{term_text(x)} in :{names[0]} is no name; expected a symbol."
            )
        if text in seen:
            raise _error("return-maps", f":{names[0]} has the name {term_text(x)} twice.")
        seen.add(text)
    return tuple(make[names[0]](text) for text in texts)


def order_by_of(form: Any, find: Find) -> tuple[tuple[int, bool], ...]:
    """Return (index of the find element, descending) for each key of an ``:order-by``.

    Raises QueryError ``:parser/order-by``.
    """
    if form is None:
        return ()
    # A list such as (count ?e) is one item, an aggregate of :find.
    many = isinstance(form, (list, tuple)) and not _is_call(form)
    out: list[tuple[int, bool]] = []
    directed = True
    for item in form if many else [form]:
        name = _section_name(item)
        if name in _DIRECTIONS:
            if directed:
                raise _error(
                    "order-by",
                    f":order-by has :{name} without a variable before it; expected [?x :{name}].",
                )
            out[-1] = (out[-1][0], name == "desc")
            directed = True
            continue
        out.append((_ordered_by(item, find), False))
        directed = False
    return tuple(out)


def _is_call(form: Any) -> bool:
    return type(form) is tuple and bool(form) and type(form[0]) is Symbol and not is_var(form[0])


def _ordered_by(item: Any, find: Find) -> int:
    """Return which element of :find is meant: by its index, or as it stands there."""
    count = len(find.elements)
    if type(item) is int:
        if not 0 <= item < count:
            raise _error(
                "order-by",
                f":order-by index {shown(item)} is out of bounds; :find has 0 to {count - 1}.",
            )
        return item
    tally(_COMPARED * count)
    element = Symbol(item) if type(item) is str and item else item
    if _is_call(element):
        element = _element(element)
    if not isinstance(element, (Symbol, Aggregate, Pull)) or element not in find.elements:
        raise _error(
            "order-by",
            f":order-by {term_text(item)} is not in :find; expected one of its elements, or the "
            "index of one.",
        )
    return find.elements.index(element)


def _count(sections: Mapping[Any, Any], name: str) -> int | None:
    value = sections.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise _error(name, f":{name} should be an int, not {shown(value)}.")
    return value


def _timeout(value: Any) -> float | None:
    return None if value is None else seconds_of(value)


def seconds_of(value: Any) -> float:
    """Return seconds of a timeout given in milliseconds, as Datahike's are.

    Raises QueryError ``:parser/timeout``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _FOREVER:
        raise _error("timeout", f":timeout should be a positive number of ms, not {shown(value)}.")
    return float(value) / 1000


def _check(query: Query) -> None:
    """Check that every variable of :find and :with occurs in :where or :in."""
    known = variables_of(query.where)
    for binding in query.ins:
        known.update(binding.variables)
    wanted: list[Any] = list(query.with_)
    for element in query.find.elements:
        if isinstance(element, Aggregate):
            wanted += [x for x in element.args if is_var(x)]
        elif isinstance(element, Pull):
            wanted.append(element.variable)
        else:
            wanted.append(element)
    unknown = [v for v in wanted if v not in known]
    if unknown:
        listed = ", ".join(map(repr, dict.fromkeys(unknown)))
        raise _error(
            "query", f"Query for unknown vars: {listed}; they are in neither :where nor :in."
        )
    found = set(wanted[len(query.with_) :])
    shared = [v for v in query.with_ if v in found]
    if shared:
        raise _error("query", f":find and :with should not share {shown(shared[0])}.")
    names = [b.name for b in query.ins if isinstance(b, BindScalar)]
    seen: set[Symbol] = set()
    for name in names:
        if name in seen:
            raise _error("query", f":in names {shown(name)} twice.")
        seen.add(name)
