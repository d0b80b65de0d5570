"""The clauses of ``:where`` and of rule bodies, from data to records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import ArgumentError, QueryError, shown
from datahike_async.looks import STEP, tally, walked
from datahike_async.query.language.ast import (
    BLANK,
    DEFAULT_SOURCE,
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleBranch,
    RuleCall,
    is_var,
    nested,
)
from datahike_async.query.language.bindings import parse_binding, symbols, unquoted
from datahike_async.query.language.text import MAX_QUERY, term_text

__all__ = [
    "attributes_of",
    "calls_of",
    "canonical",
    "parse_clauses",
    "parse_rules",
    "plain_calls",
    "rules_called",
    "variables_of",
]

# What parsing a clause counts for.
_PARSED: Final = 256
# Characters of a nested clause by which it is put in order; of what follows, a digest.
_TOLD: Final = 500
_NOT: Final = Symbol("not")
_NOT_JOIN: Final = Symbol("not-join")
_OR: Final = Symbol("or")
_OR_JOIN: Final = Symbol("or-join")
_AND: Final = Symbol("and")
_FORMS: Final = frozenset({_NOT, _NOT_JOIN, _OR, _OR_JOIN, _AND})
_FORM_NAMES: Final = frozenset(form.text for form in _FORMS)


def _error(message: str, form: Any, section: str = "where") -> QueryError:
    return QueryError(message, error=f":parser/{section}", form=form)


def _is_source(term: Any) -> bool:
    return type(term) is Symbol and term.text[0] == "$"


def parse_clauses(forms: Iterable[Any], source: Symbol = DEFAULT_SOURCE) -> tuple[Clause, ...]:
    """Parse the clauses of a conjunction. Raises QueryError ``:parser/where``."""
    return tuple(_clause(form, source) for form in walked(forms, each=_PARSED))


def _clause(form: Any, source: Symbol) -> Clause:
    if isinstance(form, Mapping) or not isinstance(form, (list, tuple)) or not form:
        raise _error(f"Cannot parse clause {term_text(form)}; expected a vector or a list.", form)
    head = form[0]
    if isinstance(head, (tuple, list)) and _callable(head):
        return _call(form)
    if type(head) is tuple and len(form) == 1:
        raise _error(
            f"Cannot parse clause {term_text(form)}; expected a function's name in its list.", form
        )
    items = list(form)
    own = source
    if _is_source(head) and len(items) > 1:
        own = head
        items = items[1:]
        head = items[0]
    if type(form) is tuple or _names_form(head):
        head = Symbol(head) if type(head) is str and head[:1] != ":" else head
        if type(head) is Symbol and not is_var(head) and head is not BLANK:
            if head in _FORMS:
                return _form(head, items[1:], own, form)
            args = tuple(items[1:])
            if not args:
                raise _error(f"The rule call {term_text(form)} needs at least one argument.", form)
            return RuleCall(own, head, args)
        if type(form) is tuple and not is_var(head):
            raise _error(
                f"Cannot parse clause {term_text(form)}; expected a rule's name first.", form
            )
    if len(items) > 5:
        raise _error(
            f"The pattern {term_text(form)} has more than five components: e a v tx added.",
            form,
        )
    terms = list(items) + [BLANK] * (5 - len(items))
    if type(terms[1]) is str and terms[1][:1] == ":":
        terms[1] = Keyword(terms[1])
    return Pattern(own, tuple(terms))


def _names_form(head: Any) -> bool:
    """Whether a vector begins like ``["not", …]``, which data may use for a list."""
    return (type(head) is Symbol and head in _FORMS) or (type(head) is str and head in _FORM_NAMES)


MAX_ARGUMENTS: Final = 4096
"""The most arguments that a query may write down for one call."""


def _callable(head: Any) -> bool:
    # A lookup ref in the entity position is a vector that begins with a keyword.
    if not head:
        return False
    first = head[0]
    if isinstance(first, Keyword) or (type(first) is str and first[:1] == ":"):
        return False
    return type(head) is tuple or type(first) is Symbol


def _call(form: Any) -> Predicate | Function:
    call = form[0]
    function, *args = call
    if len(args) > MAX_ARGUMENTS:
        raise QueryError(
            f"The call of {term_text(function)} has {len(args)} arguments, and {MAX_ARGUMENTS} are "
            "the most; pass a collection as one argument instead.",
            error=":query/where",
        )
    args = [*map(unquoted, args)]
    function = Symbol(function) if type(function) is str else function
    if type(function) is not Symbol:
        raise QueryError(
            f"{term_text(function)} is no function; expected the name of one, or a variable.",
            error=":query/where",
            form=form,
        )
    for arg in args:
        if type(arg) is tuple and arg and type(arg[0]) is Symbol:
            raise QueryError(
                f"Nested expression {term_text(arg)} in {term_text(call)}: bind it to a "
                "variable in a clause of its own first.",
                error=":query/where",
                form=form,
            )
    if len(form) == 1:
        return Predicate(function, tuple(args))
    if len(form) == 2:
        return Function(function, tuple(args), parse_binding(form[1]))
    raise _error(
        f"Cannot parse {term_text(form)}; expected [(f args…)] or [(f args…) binding].", form
    )


def _form(head: Symbol, items: list[Any], source: Symbol, form: Any) -> Clause:
    if head is _NOT:
        if not items:
            raise _error(f"{term_text(form)} needs at least one clause.", form)
        return Not(None, parse_clauses(items, source))
    if head is _NOT_JOIN:
        first, others = _head(items[0] if items else None, form)
        if len(items) < 2:
            raise _error(f"{term_text(form)} needs at least one clause.", form)
        return Not(first + others, parse_clauses(items[1:], source))
    if head is _AND:
        if not items:
            raise _error(f"{term_text(form)} needs at least one clause.", form)
        return Or((), None, (parse_clauses(items, source),))
    required: tuple[Symbol, ...] = ()
    variables: tuple[Symbol, ...] | None = None
    if head is _OR_JOIN:
        required, variables = _head(items[0] if items else None, form)
        items = items[1:]
    if not items:
        raise _error(f"{term_text(form)} needs at least one branch.", form)
    branches = []
    for item in items:
        clause = _clause(item, source)
        if isinstance(clause, Or) and len(clause.branches) == 1 and clause.variables is None:
            branches.append(clause.branches[0])
        else:
            branches.append((clause,))
    return Or(required, variables, tuple(branches))


def _head(form: Any, whole: Any) -> tuple[tuple[Symbol, ...], tuple[Symbol, ...]]:
    """Parse ``[[?required…] ?free…]``."""
    if not isinstance(form, (list, tuple)) or not form:
        raise _error(f"{term_text(whole)} needs a vector of variables.", whole, "rule-vars")
    required: Sequence[Any] = ()
    items = list(form)
    if isinstance(items[0], (list, tuple)):
        required, items = items[0], items[1:]
    names = [*required, *items]
    if not names or not all(map(is_var, names)):
        raise _error(f"{term_text(form)} should hold variables only.", whole, "rule-vars")
    if len(set(names)) != len(names):
        raise _error(f"Variables in {term_text(form)} should be distinct.", whole, "rule-vars")
    return tuple(required), tuple(items)


def canonical(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    """Return clauses in an order that depends on what they say, not on how they were written.

    Where two are equally cheap the first one runs: a function that fails on some rows then meets
    the same rows however the query is written.
    """
    return tuple(clause for _, clause in _told(clauses))


def _told(clauses: Sequence[Clause]) -> list[tuple[str, Clause]]:
    """Return clauses in their order, each with what it says; what is nested is put down once."""
    out: list[tuple[str, Clause]] = []
    for clause in clauses:
        tally(_PARSED)
        if clause.children:
            parts = [_told(inner) for inner in clause.children]
            text = _joined(clause.around([() for _ in parts]), parts)
            made = [tuple([one for _, one in part]) for part in parts]
            out.append((text, clause.around(made)))
        else:
            out.append((_text(clause), clause))
    out.sort(key=itemgetter(0))
    return out


def _joined(bare: Clause, parts: list[list[tuple[str, Clause]]]) -> str:
    text = " ".join([_text(bare), *(str([text for text, _ in part]) for part in parts)])
    if len(text) <= _TOLD:
        return text
    # Or each clause that it is in would repeat it.
    return text[:_TOLD] + blake2b(text.encode(errors="surrogatepass")).hexdigest()


def _text(clause: Clause) -> str:
    try:
        return repr(clause)
    except Exception:  # of a constant: an int of too many digits, an object without a repr
        return shown(clause)


# -- rules -------------------------------------------------------------------------------------


def parse_rules(rules: Any) -> dict[Symbol, tuple[RuleBranch, ...]]:
    """Parse rules given as EDN text or data: name → branches.

    Raises QueryError ``:parser/rule``.
    """
    try:
        return _rules(rules)
    except ArgumentError as error:  # a name that is none
        raise _error(f"In the rules: {error}.", rules, "rule") from None


def _rules(rules: Any) -> dict[Symbol, tuple[RuleBranch, ...]]:
    if isinstance(rules, str):
        rules = unquoted(read(rules, max_size=MAX_QUERY))
    else:
        rules = symbols(unquoted(rules))
    if not isinstance(rules, (list, tuple)):
        raise _error(f"Rules are a vector of vectors, not {term_text(rules)}.", rules, "rule")
    grouped: dict[Symbol, list[RuleBranch]] = {}
    for rule in walked(rules, each=_PARSED):
        if not isinstance(rule, (list, tuple)) or len(rule) < 2:
            raise _error(f"A rule is [(name ?x …) clauses…], not {term_text(rule)}.", rule, "rule")
        head = rule[0]
        if not isinstance(head, (list, tuple)) or not head:
            raise _error(f"The head of a rule is (name ?x …), not {term_text(head)}.", rule, "rule")
        name = Symbol(head[0]) if type(head[0]) is str else head[0]
        if type(name) is not Symbol or is_var(name):
            raise _error(
                f"{term_text(head[0])} is no name of a rule; expected a symbol.", rule, "rule"
            )
        if name in _FORMS:
            raise _error(f"A rule cannot be called {name}, which is a clause.", rule, "rule")
        required: Sequence[Any] = ()
        items = list(head[1:])
        if items and isinstance(items[0], (list, tuple)):
            required, items = items[0], items[1:]
        names = [*required, *items]
        if not names or not all(map(is_var, names)):
            raise _error(
                f"The head {term_text(head)} should hold variables only.", rule, "rule-vars"
            )
        clauses = parse_clauses(rule[1:])
        branch = RuleBranch(name, tuple(required), tuple(items), clauses)
        others = grouped.setdefault(name, [])
        if others and len(others[0].head) != len(branch.head):
            raise _error(f"The branches of rule {term_text(name)} differ in arity.", rule, "rule")
        others.append(branch)
    return {name: tuple(branches) for name, branches in grouped.items()}


# -- variables ---------------------------------------------------------------------------------


def variables_of(clauses: Iterable[Clause]) -> set[Symbol]:
    """Return the variables that occur in ``clauses``, those of not-join and or-join heads only."""
    out: set[Symbol] = set()
    for clause in clauses:
        tally(STEP)
        out.update(clause.inputs, clause.gives)
        head = clause.head
        if head is not None:
            out.update(head)
        else:
            for inner in clause.children:
                out |= variables_of(inner)
    return out


def calls_of(clauses: Iterable[Clause]) -> list[Predicate | Function | RuleCall]:
    """Return all calls of functions and rules among clauses, nested ones too."""
    return [c for c in nested(clauses) if isinstance(c, (Predicate, Function, RuleCall))]


def rules_called(clauses: Iterable[Clause]) -> set[Symbol]:
    """Return the names of the rules that clauses call."""
    return {c.name for c in nested(clauses) if isinstance(c, RuleCall)}


def attributes_of(clauses: Iterable[Clause]) -> list[tuple[Symbol, Any]]:
    """Return the (source, attribute) of all patterns, nested ones too; None for a variable one."""
    patterns = [c for c in nested(clauses) if isinstance(c, Pattern)]
    keys = [(c.source, c.terms[1]) for c in patterns]
    return [(source, a if isinstance(a, (Keyword, str)) else None) for source, a in keys]


def plain_calls(
    clause: Clause,
    rules: Mapping[Symbol, Sequence[RuleBranch]],
    is_builtin: Callable[[Any], bool],
) -> bool:
    """Whether a clause, and all rules that it reaches, call built-in functions alone."""
    seen: set[Symbol] = set()
    todo: list[Clause] = [clause]
    while todo:
        for one in nested([todo.pop()]):
            if isinstance(one, (Predicate, Function)):
                if not is_builtin(one.function):
                    return False
            elif isinstance(one, RuleCall) and one.name not in seen:
                seen.add(one.name)
                for definition in rules.get(one.name, ()):
                    todo += definition.clauses
    return True
