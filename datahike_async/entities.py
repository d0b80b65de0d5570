"""Entities: what a database value says of one entity, as a read-only map from attributes.

Loading is awaited, reading is plain. Of an entity all attributes are loaded at once; what it refers
to, and what refers to it, when somebody asks. Knows database values and how pull reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, NotLoaded, shown
from datahike_async.index.source import read
from datahike_async.pausing import pause
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.query.language.bindings import forward_of
from datahike_async.query.pulling.pattern import DB_ID
from datahike_async.query.pulling.read import ALL, Reader
from datahike_async.snapshot.views import View
from datahike_async.tx.forms import keyword
from datahike_async.values.json_form import jsonable
from datahike_async.values.schema import Attr
from datahike_async.values.spelling import did_you_mean
from datahike_async.values.value_set import ValueSet

if TYPE_CHECKING:
    from datahike_async.database import Database

__all__ = ["Entity", "entity"]

_AT_ONCE: Final = 256


class Entity(Json, Mapping[Keyword, Any]):
    """One entity of a database value: a read-only map of its attributes; ``db.entity`` makes it.

    Keys are keywords, which may also be given as text. A value of an attribute of cardinality many
    is a set, a reference is an Entity again. One that was not loaded knows its ``id`` alone:
    ``await e.fetch(":person/knows")`` loads what it refers to, and with ``":person/_knows"`` what
    refers to it; both are plain from then on. ``e[":db/id"]`` is its id, which is not among its
    keys. Equal where the databases are equal and the ids are. ::

        ada = await db.entity([":person/email", "ada@example.org"])
        assert ada[":person/name"] == "Ada"
        bob = await ada.fetch(":person/knows")
        assert [friend[":person/name"] for friend in bob] == ["Bob"]

    Raises KeyError for what it does not have, with a note where the schema does not have it
    either; and NotLoaded for what has to be read first.
    """

    __slots__ = ("_back", "_own", "db", "id")
    json_schema: ClassVar[JsonSchema] = {"type": "object", "additionalProperties": True}

    def __init__(self, db: Database, id: int) -> None:
        self.db = db
        self.id = id
        self._own: dict[Keyword, Any] | None = None
        # What refers to it, by the reverse attribute.
        self._back: dict[Keyword, Any] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether its attributes can be read."""
        return self._own is not None

    # -- reading what is loaded ----------------------------------------------------------------

    def _loaded(self, wanted: str) -> dict[Keyword, Any]:
        if self._own is None:
            raise NotLoaded(
                f"Entity {self.id} was not loaded: await entity.{wanted} first, or fetch the "
                "attribute that refers to it.",
                entity_id=self.id,
            )
        return self._own

    def _found(self, key: Any) -> Any:
        """Return what it has by a key; no value is None."""
        name = keyword(key)
        if name is None:
            return None
        if name is DB_ID:
            return self.id
        if _is_reverse(self.db.view, name):
            if name not in self._back:
                raise NotLoaded(
                    f"What refers to entity {self.id} by {name!r} was not loaded: await "
                    f"entity.fetch({repr(name)!r}) first.",
                    entity_id=self.id,
                    attribute=name,
                )
            return self._back[name]
        return self._loaded("touch()").get(name)

    def __getitem__(self, key: Any) -> Any:
        found = self._found(key)
        if found is None:
            error = KeyError(key)
            hint = _hint(self.db.view, key)
            if hint:
                error.add_note(hint)
            raise error
        return found

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of an attribute, ``default`` where it has none."""
        found = self._found(key)
        return default if found is None else found

    def __contains__(self, key: object) -> bool:
        return self._found(key) is not None

    def __iter__(self) -> Iterator[Keyword]:
        return iter(self._loaded("touch()"))

    def __len__(self) -> int:
        return len(self._loaded("touch()"))

    def __bool__(self) -> bool:
        # Of one that was not loaded it can't be said that there is nothing.
        return self._own is None or bool(self._own)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entity):
            return NotImplemented
        return self.id == other.id and self.db == other.db

    def __hash__(self) -> int:
        return hash((self.id, self.db.max_tx))

    def __repr__(self) -> str:
        own = {DB_ID: self.id, **(self._own or {})}
        told = {name: _Brief(value) for name, value in own.items()}
        return f"<Entity {told}>" if self.is_loaded else f"<Entity {told}, not loaded>"

    def as_json(self) -> dict[str, Any]:
        """Return what is loaded of it, components inside; of other entities their ids."""
        return self._json(frozenset())

    def _json(self, above: frozenset[int]) -> dict[str, Any]:
        above = above | {self.id}
        out: dict[str, Any] = {repr(DB_ID): self.id}
        for name, value in (self._own or {}).items():
            attr = self.db.snapshot.schema.by_key[name]
            entities = sorted(_entities(value), key=lambda e: e.id)
            if not entities:
                out[repr(name)] = jsonable(value)
                continue
            forms = [
                e._json(above) if attr.component and e.id not in above else {repr(DB_ID): e.id}
                for e in entities
            ]
            out[repr(name)] = forms[0] if isinstance(value, Entity) else forms
        return out

    # -- loading -------------------------------------------------------------------------------

    async def fetch(self, attribute: Any) -> Any:
        """Return the value of an attribute, with the entities in it loaded; None without one.

        ``:ns/_attr`` are the entities that refer to this one by ``:ns/attr``, as a set; where that
        is a component's attribute, the one that has it. Raises ArgumentError where it is none of
        references. ::

            bob = await db.entity([":person/email", "bob@example.org"])
            assert {e[":person/name"] for e in await bob.fetch(":person/_knows")} == {"Ada"}
        """
        name = keyword(attribute)
        if name is None:
            raise ArgumentError(
                f"{shown(attribute)} is no attribute; give a keyword such as :person/name.",
                attribute=attribute,
            )
        if name is DB_ID:
            return self.id
        await _load(self.db, [self])
        if _is_reverse(self.db.view, name):
            if name not in self._back:
                self._back[name] = await self._referring(name)
            value = self._back[name]
        else:
            value = self._loaded("touch()").get(name)
        await _load(self.db, _entities(value))
        return value

    async def _referring(self, name: Keyword) -> Any:
        view = self.db.view
        attr = view.schema.by_key.get(forward_of(name))
        if attr is None or not attr.is_ref:
            raise ArgumentError(
                f"{name!r} asks what refers to entity {self.id}, but {forward_of(name)!r} is not "
                "an attribute of references (:db/valueType :db.type/ref).",
                attribute=name,
            )
        found = await read(Reader(view).values, attr, True, [self.id])
        entities = [Entity(self.db, e) for e in found.get(self.id, ())]
        if not entities:
            return None
        return entities[0] if attr.component else frozenset(entities)

    async def touch(self) -> Entity:
        """Load it, its components, theirs, and so on; return it."""
        level, met = [self], {self.id: self}
        while level:
            await _load(self.db, level)
            below: list[Entity] = []
            for e in level:
                own = e._loaded("touch()")
                for name, value in own.items():
                    if not self.db.snapshot.schema.by_key[name].component:
                        continue
                    # One that is met again is the same one, already under way.
                    new = [x for x in _entities(value) if x.id not in met]
                    met.update((x.id, x) for x in new)
                    below += new
                    own[name] = _exchanged(value, met)
                await pause()
            level = below
        return self


async def entity(db: Database, eid: Any) -> Entity | None:
    """Return an entity, loaded; see :func:`datahike_async.entity`."""
    found = await read(db.view.entid, eid)
    if found is None:
        return None
    made = Entity(db, found)
    await _load(db, [made])
    await pause()
    return made


async def _load(db: Database, entities: Iterable[Entity]) -> None:
    """Load those that are not: so many at once are read in the same waves."""
    todo: dict[int, list[Entity]] = {}
    for e in entities:
        if not e.is_loaded:
            todo.setdefault(e.id, []).append(e)
    ids, reader = list(todo), Reader(db.view)
    attrs = db.view.schema.attrs
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        found = await read(reader.whole, part, ALL) or {}
        own: dict[int, dict[Keyword, Any]] = {i: {} for i in part}
        for a in sorted(found):
            attr = attrs[a]
            for i, values in found[a].items():
                own[i][attr.ident] = _value(db, attr, values)
        for i in part:
            for e in todo[i]:
                e._own = dict(own[i])
        if len(ids) > _AT_ONCE:
            await pause()


def _value(db: Database, attr: Attr, values: list[Any]) -> Any:
    many = attr.many or db.view.history
    if attr.is_ref:
        if many:
            return frozenset([Entity(db, e) for e in values])
        return Entity(db, values[0])
    return ValueSet(values) if many else values[0]


def _entities(value: Any) -> Iterable[Entity]:
    if isinstance(value, Entity):
        return (value,)
    if type(value) is frozenset:
        return [e for e in value if isinstance(e, Entity)]
    return ()


def _exchanged(value: Any, known: Mapping[int, Entity]) -> Any:
    if isinstance(value, Entity):
        return known.get(value.id, value)
    if type(value) is frozenset:
        return frozenset([known.get(e.id, e) for e in value])
    return value


def _hint(view: View, key: Any) -> str:
    """Return what may have been meant by a key that is no attribute of a database."""
    if not isinstance(key, str):
        return "" if isinstance(key, Keyword) else "A key is a keyword, such as :person/name."
    name = key if key.startswith(":") else ":" + key
    known = view.schema.by_key
    if name in known:
        return "" if name == key else f"Did you mean {name}?"
    return f"The schema has no such attribute.{did_you_mean(view.schema, name)}"


def _is_reverse(view: View, name: Keyword) -> bool:
    return forward_of(name) is not None and name not in view.schema.by_key


class _Brief:
    """A value as it is shown inside of an entity: of others their ids."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, Entity):
            return f"{{{DB_ID!r}: {value.id}}}"
        ids = sorted(e.id for e in _entities(value))
        if ids:
            more = ", …" if len(ids) > 5 else ""
            return "{" + ", ".join(f"{{{DB_ID!r}: {i}}}" for i in ids[:5]) + more + "}"
        return shown(value)
