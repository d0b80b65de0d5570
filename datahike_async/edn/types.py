"""Keyword, Symbol, Char, Tagged and FrozenMap: the EDN values that Python has no type for.

Knows nothing of the notation; reader and writer do.
"""

from __future__ import annotations

from collections.abc import Collection
from threading import RLock
from typing import Any, ClassVar, Final, NoReturn
from weakref import WeakValueDictionary

from datahike_async.errors import ArgumentError, shown
from datahike_async.looks import STEP, walked
from datahike_async.pydantic_hooks import Json, JsonSchema

__all__ = ["Char", "FrozenMap", "Keyword", "Symbol", "Tagged", "crowded", "kw", "sym"]

# Re-entrant: a signal handler or a finaliser may intern a name while its thread holds the lock.
_interning: Final = RLock()


class _Name(Json):
    """An interned, possibly namespaced name: two equal names are the same object.

    Identity equality keeps sets and dicts of names as fast as sets of ints.
    """

    __slots__ = ("__weakref__", "name", "namespace", "text")
    _interned: ClassVar[WeakValueDictionary[str, Any]]

    text: Final[str]  # type: ignore[misc]
    namespace: Final[str | None]  # type: ignore[misc]
    name: Final[str]  # type: ignore[misc]

    def as_json(self) -> str:
        """Return the text that names it, a keyword's with its colon."""
        return repr(self)

    @classmethod
    def accepted(cls, value: Any) -> Any:
        """Return the name of a text; a name of the other kind is none."""
        return value if type(value) is cls else cls(value)  # type: ignore[call-arg]

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __copy__(self) -> _Name:
        return self

    def __deepcopy__(self, memo: object) -> _Name:
        return self

    def __lt__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.namespace or "", self.name) < (other.namespace or "", other.name)


def _intern(cls: type[_Name], text: str) -> Any:
    found = cls._interned.get(text)
    if found is not None:
        return found
    if not text.isascii():
        _check_storable(text)
    made = object.__new__(cls)
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name:
        namespace, name = "", text
    object.__setattr__(made, "text", text)
    object.__setattr__(made, "namespace", namespace or None)
    object.__setattr__(made, "name", name)
    # Two threads that intern one name at once must end up with one object, and the weak
    # dictionary's own setdefault is not atomic.
    with _interning:
        return cls._interned.setdefault(text, made)


def _check_storable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(
            f"{shown(text)} is no name: it has half of a surrogate pair, which UTF-8 cannot hold."
        ) from None


def _no_name(cls: type[_Name], text: object) -> ArgumentError:
    if isinstance(text, str):
        return ArgumentError(f"a {cls.__name__.lower()} needs a name; {shown(text)} has none")
    return ArgumentError(f"a {cls.__name__.lower()} is made of a str, not of {shown(text)}")


class Keyword(_Name):
    """An EDN keyword such as ``:person/name``; ``text`` is it without the leading colon.

    ``Keyword(":a/b")`` and ``Keyword("a/b")`` are the same object.
    """

    __slots__ = ()
    _interned: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()
    json_schema: ClassVar[JsonSchema] = {"type": "string", "examples": [":person/name"]}

    def __new__(cls, text: str | Keyword) -> Keyword:
        """Return the keyword of a text, with or without its leading colon."""
        if isinstance(text, Keyword):
            return text
        if not isinstance(text, str):
            raise _no_name(cls, text)
        if text[:1] == ":":
            text = text[1:]
        if not text:
            raise _no_name(cls, text)
        return _intern(cls, text)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return ":" + self.text

    def __reduce__(self) -> Any:
        return Keyword, (self.text,)


class Symbol(_Name):
    """An EDN symbol such as ``?e``, ``$`` or ``my.ns/f``."""

    __slots__ = ()
    _interned: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()
    json_schema: ClassVar[JsonSchema] = {"type": "string", "examples": ["?e"]}

    def __new__(cls, text: str | Symbol) -> Symbol:
        """Return the symbol of a text."""
        if isinstance(text, Symbol):
            return text
        if not isinstance(text, str) or not text:  # type: ignore[redundant-expr]
            raise _no_name(cls, text)
        return _intern(cls, text)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> Any:
        return Symbol, (self.text,)


class Char(str):
    """An EDN character such as ``\\a``: a string of length one that is not an EDN string."""

    __slots__ = ()

    def __new__(cls, text: str) -> Char:
        """Return the character of a string of length one."""
        if not isinstance(text, str) or len(text) != 1:  # type: ignore[redundant-expr]
            raise ArgumentError(f"a character is one code point, not {shown(text)}")
        return super().__new__(cls, text)

    def __eq__(self, other: object) -> bool:
        return type(other) is Char and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Char, str(self)))


class Tagged:
    """A tagged element ``#tag value`` for which no reader is registered."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: str, value: Any) -> None:
        self.tag = tag
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and self.tag == other.tag and self.value == other.value

    def __hash__(self) -> int:
        return hash((Tagged, self.tag, self.value))

    def __repr__(self) -> str:
        return f"#{self.tag} {self.value!r}"


class FrozenMap(dict[Any, Any]):
    """A map that is a key of a map or an element of a set: a dict that never changes and hashes.

    Equal to a dict with the same entries. Its values must be hashable.
    """

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((FrozenMap, frozenset(self.items())))

    def __repr__(self) -> str:
        return f"FrozenMap({dict.__repr__(self)})"

    def __reduce__(self) -> Any:
        return FrozenMap, (dict(self),)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a FrozenMap does not change; make a dict of it first: dict(m)")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse


MOST_ALIKE: Final = 64


def crowded(values: Collection[Any]) -> Any:
    """Return a value whose hash more than 64 others have, or None: a set would take for ever.

    Numbers and UUIDs have hashes without a salt, of which one can be had by any number of them,
    and Python compares all that share one. By accident hardly three do.
    """
    if len(values) > MOST_ALIKE:
        counts: dict[int, int] = {}
        for value in walked(values, each=STEP // 2):
            found = hash(value)
            counts[found] = count = counts.get(found, 0) + 1
            if count > MOST_ALIKE:
                return value
    return None


kw = Keyword
sym = Symbol
