"""Schema: the attribute table and the idents of one database state, immutable.

Attributes are interned as small ints (``Attr.id``), which is what datoms in memory and on disk
carry; the table only ever grows, so ids stay valid in every snapshot. Knows nothing of indexes or
transactions: it is handed the properties of a schema entity and says what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError, UnsupportedFormat, shown
from datahike_async.values.types import ANY, VALUE_TYPES, ValueType

__all__ = ["SYSTEM_ATTRIBUTES", "Attr", "Schema"]

_K = Keyword
IDENT: Final = _K("db/ident")
VALUE_TYPE: Final = _K("db/valueType")
CARDINALITY: Final = _K("db/cardinality")
UNIQUE: Final = _K("db/unique")
INDEX: Final = _K("db/index")
COMPONENT: Final = _K("db/isComponent")
NO_HISTORY: Final = _K("db/noHistory")
DOC: Final = _K("db/doc")
MAX_LENGTH: Final = _K("db/maxLength")
PREDS: Final = _K("db.attr/preds")
TUPLE_ATTRS: Final = _K("db/tupleAttrs")
TUPLE_TYPE: Final = _K("db/tupleType")
TUPLE_TYPES: Final = _K("db/tupleTypes")
TX_INSTANT: Final = _K("db/txInstant")
VALID_FROM: Final = _K("db.valid/from")
VALID_TO: Final = _K("db.valid/to")

MANY: Final = _K("db.cardinality/many")
IDEMPOTENCY_KEY: Final = _K("db.idempotency/key")
IDEMPOTENCY_TEMPIDS: Final = _K("db.idempotency/tempids")
KEPT_FOR_US: Final = frozenset({IDEMPOTENCY_KEY, IDEMPOTENCY_TEMPIDS})
"""What a user can read and not write."""
ONE: Final = _K("db.cardinality/one")
MERGE_STRATEGY: Final = _K("db.merge/strategy")
MERGE_ALSO: Final = _K("db.merge/also")
UNIQUE_IDENTITY: Final = _K("db.unique/identity")
UNIQUE_VALUE: Final = _K("db.unique/value")

# ident, value type, many, unique, indexed. The order gives the ids, which are stored: append only.
_SYSTEM: Final = (
    (IDENT, "keyword", False, "identity", True),
    (VALUE_TYPE, "keyword", False, None, False),
    (CARDINALITY, "keyword", False, None, False),
    (UNIQUE, "keyword", False, None, False),
    (INDEX, "boolean", False, None, False),
    (COMPONENT, "boolean", False, None, False),
    (NO_HISTORY, "boolean", False, None, False),
    (DOC, "string", False, None, False),
    (MAX_LENGTH, "long", False, None, False),
    (PREDS, "symbol", True, None, False),
    (TUPLE_ATTRS, "any", False, None, False),
    (TUPLE_TYPE, "keyword", False, None, False),
    (TUPLE_TYPES, "any", False, None, False),
    (TX_INSTANT, "instant", False, None, True),
    (_K("db.entity/attrs"), "keyword", True, None, False),
    (_K("db.entity/preds"), "symbol", True, None, False),
    (_K("db/fn"), "symbol", False, None, False),
    (VALID_FROM, "instant", False, None, True),
    (VALID_TO, "instant", False, None, True),
    (_K("db.install/attribute"), "any", True, None, False),
    (IDEMPOTENCY_KEY, "string", False, "value", True),
    (IDEMPOTENCY_TEMPIDS, "string", False, None, False),
)

# The same, of attributes that a database has from the first datom of them on. Their ids are not
# fixed, so that databases written before there were any are read as they are.
_LATE: Final = {
    # How values of an attribute that two branches changed are merged.
    MERGE_STRATEGY: ("keyword", False, False),
    # The ids that an entity has on other branches.
    MERGE_ALSO: ("long", True, True),
}
LATE_ATTRIBUTES: Final = frozenset(_LATE)
STRATEGIES: Final = frozenset(_K(f"db.merge/{name}") for name in ("both", "max", "min", "latest"))

SYSTEM_ATTRIBUTES: Final = frozenset(row[0] for row in _SYSTEM) | LATE_ATTRIBUTES
# Properties that make an entity an attribute definition (a doc or an ident alone does not).
_DEFINING: Final = frozenset(
    {
        VALUE_TYPE,
        CARDINALITY,
        UNIQUE,
        INDEX,
        COMPONENT,
        NO_HISTORY,
        TUPLE_ATTRS,
        TUPLE_TYPE,
        TUPLE_TYPES,
        MAX_LENGTH,
        PREDS,
    }
)
SCHEMA_PROPERTIES: Final = _DEFINING | {IDENT, DOC}


class Attr:
    """What the schema says of one attribute. Immutable.

    ``value_type`` is ``ANY`` for an attribute without a type (schema on read). ``indexed`` says
    that its datoms are in AVET: ``:db/index``, unique, or a ref. ``exact`` is the Python type of a
    value that needs no coercion, or None.
    """

    __slots__ = (
        "coerce",
        "component",
        "doc",
        "eid",
        "exact",
        "id",
        "ident",
        "indexed",
        "is_ref",
        "many",
        "max_length",
        "no_history",
        "plain",
        "preds",
        "system",
        "tuple_attrs",
        "tuple_type",
        "tuple_types",
        "unique",
        "value_type",
    )

    def __init__(
        self,
        ident: Keyword,
        id: int,
        *,
        eid: int | None = None,
        value_type: ValueType = ANY,
        many: bool = False,
        unique: str | None = None,
        index: bool = False,
        component: bool = False,
        no_history: bool = False,
        system: bool = False,
        doc: str | None = None,
        max_length: int | None = None,
        preds: tuple[Any, ...] = (),
        tuple_attrs: tuple[Keyword, ...] = (),
        tuple_type: Keyword | None = None,
        tuple_types: tuple[Keyword, ...] = (),
    ) -> None:
        self.ident = ident
        self.id = id
        self.eid = eid
        self.value_type = value_type
        self.exact = value_type.exact
        self.coerce = value_type.coerce
        self.is_ref = value_type.name == "ref"
        self.many = many
        self.unique = unique
        self.indexed = index or unique is not None or self.is_ref
        self.component = component
        self.no_history = no_history
        self.system = system
        self.doc = doc
        self.max_length = max_length
        self.preds = preds
        self.tuple_attrs = tuple_attrs
        self.tuple_type = tuple_type
        self.tuple_types = tuple_types
        # Nothing but a type check stands between a value of `exact` type and the datom.
        self.plain = (
            self.exact is not None
            and not self.is_ref
            and not preds
            and max_length is None
            and not system
            and not tuple_attrs
        )

    def __repr__(self) -> str:
        return f"<Attr {self.ident} #{self.id}>"


class Schema:
    """The attributes and idents of one database state.

    ``attrs`` is indexed by attribute id; ``by_key`` finds an attribute by Keyword or by its text
    with the colon. A changed schema is a new object (a key for plan caches).
    """

    __slots__ = (
        "attrs",
        "by_key",
        "composites",
        "entities",
        "flexibility",
        "ident_of",
        "idents",
    )

    def __init__(
        self,
        flexibility: str,
        attrs: list[Attr],
        entities: dict[int, dict[Keyword, Any]],
        idents: dict[Keyword, int],
    ) -> None:
        self.flexibility = flexibility
        self.attrs = attrs
        self.entities = entities
        self.idents = idents
        self.ident_of = {eid: ident for ident, eid in idents.items()}
        by_key: dict[Any, Attr] = {}
        composites: dict[Keyword, list[Attr]] = {}
        for attr in attrs:
            by_key[attr.ident] = attr
            by_key[":" + attr.ident.text] = attr
            for part in attr.tuple_attrs:
                composites.setdefault(part, []).append(attr)
        self.by_key = by_key
        # part attribute -> the composite tuples it belongs to
        self.composites = composites

    @classmethod
    def empty(cls, flexibility: str = "write") -> Schema:
        """Return the schema of a new database: the system attributes alone."""
        attrs = [
            Attr(
                ident,
                i,
                value_type=VALUE_TYPES[type_] if type_ != "any" else ANY,
                many=many,
                unique=unique,
                index=index,
                system=True,
            )
            for i, (ident, type_, many, unique, index) in enumerate(_SYSTEM)
        ]
        return cls(flexibility, attrs, {}, {})

    def get(self, key: Any) -> Attr | None:
        """Return the attribute named by a Keyword or ``":name"``, or None."""
        return self.by_key.get(key)

    def takes_data(self, attr: Attr) -> bool:
        """Whether an attribute may be written.

        One whose definition was retracted keeps its id and takes no more, unless schema is on read.
        """
        return attr.eid is not None or attr.system or self.flexibility == "read"

    def with_attr(self, ident: Keyword) -> tuple[Schema, Attr]:
        """Intern an attribute without a definition (schema on read)."""
        found = self.by_key.get(ident)
        if found is not None:
            return self, found
        attr = _interned(ident, len(self.attrs))
        return Schema(self.flexibility, [*self.attrs, attr], self.entities, self.idents), attr

    def with_entity(self, eid: int, props: Mapping[Keyword, Any]) -> Schema:
        """Return the schema after entity ``eid`` has exactly the schema properties ``props``.

        Raises TransactionError(":schema/validation") where they contradict one another.
        """
        ident = props.get(IDENT)
        old_ident = self.ident_of.get(eid)
        idents = dict(self.idents)
        if old_ident is not None and old_ident is not ident:
            del idents[old_ident]
        if ident is not None:
            idents[ident] = eid
        entities = dict(self.entities)
        attrs = self.attrs
        defining = ident is not None and not _DEFINING.isdisjoint(props)
        was = entities.pop(eid, None)
        if was is not None and (not defining or was.get(IDENT) is not ident):
            # The definition is gone or renamed: its interned id stays, without a type.
            old = self.by_key[was[IDENT]]
            attrs = list(attrs)
            attrs[old.id] = Attr(old.ident, old.id)
        if defining:
            assert ident is not None
            entities[eid] = dict(props)
            found = self.by_key.get(ident)
            attrs = list(attrs)
            made = _attr_of(ident, found.id if found else len(attrs), eid, props, self)
            if found is None:
                attrs.append(made)
            else:
                attrs[found.id] = made
        return Schema(self.flexibility, attrs, entities, idents)

    def with_map(self, attributes: Mapping[Any, Mapping[Any, Any]]) -> Schema:
        """Return the schema with attributes that no entity defines."""
        schema = self
        if not isinstance(attributes, Mapping):
            raise _malformed(
                "A schema is a map of attributes to their properties, such as "
                f'{{":name": {{}}}}, not {shown(attributes)}.'
            )
        for i, (key, given) in enumerate(attributes.items(), 1):
            if not isinstance(key, (str, Keyword)) or key in ("", ":"):
                raise _malformed(f"An attribute is a keyword such as :name, not {shown(key)}.")
            ident = Keyword(key)
            if not isinstance(given, Mapping):
                raise _malformed(
                    f"The properties of attribute {ident} are a map, such as "
                    f'{{":db/index": True}}, not {shown(given)}.',
                    attribute=ident,
                )
            props: dict[Keyword, Any] = {IDENT: ident}
            for name, value in given.items():
                prop = schema.by_key.get(name) if isinstance(name, (str, Keyword)) else None
                if prop is None or prop.ident not in SCHEMA_PROPERTIES:
                    raise _bad(ident, name, value, "properties such as :db/valueType")
                if prop.many:
                    values = value if isinstance(value, (list, tuple, set)) else [value]
                    props[prop.ident] = tuple(prop.coerce(v, prop.ident) for v in values)
                else:
                    props[prop.ident] = prop.coerce(value, prop.ident)
            if props[IDENT] is not ident:
                raise _bad(ident, IDENT, props[IDENT], f"{ident}, or none")
            schema.check_complete(props)
            if props.keys() == {IDENT}:
                schema, _ = schema.with_attr(ident)
                continue
            idents = schema.idents
            schema = schema.with_entity(-i, props)
            # The negative id only keys the definition: such an attribute is no entity.
            schema = Schema(schema.flexibility, schema.attrs, schema.entities, idents)
        for attr in schema.attrs:
            schema.check_parts(attr)
        return schema

    def check_complete(self, props: Mapping[Keyword, Any]) -> None:
        """Raise TransactionError ``:transact/schema`` where a definition lacks what it must say."""
        if self.flexibility == "write" and not (VALUE_TYPE in props and CARDINALITY in props):
            raise incomplete(props)

    def check_parts(self, attr: Attr) -> None:
        """Raise TransactionError ``:transact/schema`` for a composite tuple that cannot be.

        Its parts have cardinality one and are no tuples. One that is not declared yet may be later;
        until then its place in the tuple is nil.
        """
        for part in attr.tuple_attrs:
            found = self.by_key.get(part)
            if found is None:
                continue
            if found.tuple_attrs:
                raise _bad_part(attr, part, "which is itself a tuple")
            if found.many:
                raise _bad_part(attr, part, "which must not have :db.cardinality/many")

    def public(self) -> dict[Keyword, dict[Keyword, Any]]:
        """Return ident → attribute map, the user's attributes only."""
        return {
            props[IDENT]: {Keyword("db/id"): eid, **props} if eid > 0 else dict(props)
            for eid, props in self.entities.items()
        }

    def reverse(self) -> dict[Keyword, frozenset[Keyword]]:
        """Return property → idents, e.g. ``:db/unique`` → all unique attributes."""
        out: dict[Keyword, set[Keyword]] = {}

        def add(key: str, attr: Attr) -> None:
            out.setdefault(Keyword(key), set()).add(attr.ident)

        for attr in self.attrs:
            if attr.system or attr.eid is None:
                continue
            if attr.unique:
                add("db/unique", attr)
                add("db.unique/" + attr.unique, attr)
            if attr.indexed:
                add("db/index", attr)
            if attr.many:
                add("db.cardinality/many", attr)
            if attr.component:
                add("db/isComponent", attr)
            if attr.no_history:
                add("db/noHistory", attr)
            add("db.type/" + attr.value_type.name, attr)
        return {key: frozenset(idents) for key, idents in out.items()}

    def to_data(self) -> dict[str, Any]:
        """Return what must be stored to restore this schema: plain data with Keywords."""
        return {
            "flexibility": self.flexibility,
            "attrs": [a.ident for a in self.attrs[len(_SYSTEM) :]],
            "entities": [[eid, list(props.items())] for eid, props in self.entities.items()],
            "idents": [[ident, eid] for ident, eid in self.idents.items()],
            "system": len(_SYSTEM),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Schema:
        """Restore a schema from :meth:`to_data`. Raises UnsupportedFormat."""
        if data["system"] != len(_SYSTEM):
            raise UnsupportedFormat(
                f"The database has {data['system']} system attributes, this version knows "
                f"{len(_SYSTEM)}: it was written by a newer version, or before 0.1.0.",
                error=":db-was-written-with-newer-datahike-version",
            )
        schema = cls.empty(data["flexibility"])
        attrs = list(schema.attrs)
        attrs += [_interned(ident, i) for i, ident in enumerate(data["attrs"], data["system"])]
        schema = cls(schema.flexibility, attrs, {}, dict(data["idents"]))
        entities = {eid: dict(props) for eid, props in data["entities"]}
        for eid, props in entities.items():
            found = schema.by_key[props[IDENT]]
            attrs[found.id] = _attr_of(found.ident, found.id, eid, props, schema)
        return cls(schema.flexibility, attrs, entities, schema.idents)


def _interned(ident: Keyword, id: int) -> Attr:
    """Return an attribute that no entity defines."""
    late = _LATE.get(ident)
    if late is None:
        return Attr(ident, id)
    type_, many, index = late
    attr = Attr(ident, id, value_type=VALUE_TYPES[type_], many=many, index=index, system=True)
    if ident is MERGE_STRATEGY:
        attr.coerce = _strategy
    return attr


def _strategy(value: Any, attribute: object = None) -> Any:
    """Return a strategy: one of ours, or the name of a function, which has a namespace."""
    name = VALUE_TYPES["keyword"].coerce(value, attribute)
    if name in STRATEGIES or name.namespace not in (None, MERGE_STRATEGY.namespace):
        return name
    known = ", ".join(sorted(map(repr, STRATEGIES)))
    raise TransactionError(
        f"{shown(name)} is no strategy of a merge; expected {known}, or the name, with a "
        "namespace, that a function is registered under.",
        error=":schema/validation",
        attribute=attribute,
        value=name,
    )


def _bad(ident: Keyword, prop: Keyword, value: Any, expected: str) -> TransactionError:
    return TransactionError(
        f"Attribute {ident} has {prop} {shown(value)}; expected {expected}.",
        error=":schema/validation",
        attribute=ident,
        key=prop,
        value=value,
    )


def incomplete(props: Mapping[Keyword, Any]) -> TransactionError:
    """Return the error for the definition of an attribute that lacks what it must say."""
    missing = [k for k in (IDENT, VALUE_TYPE, CARDINALITY) if k not in props]
    return TransactionError(
        "Incomplete schema transaction attributes, expected :db/ident, :db/valueType, "
        f":db/cardinality; {', '.join(map(repr, missing))} missing in {shown(dict(props))}.",
        error=":transact/schema",
    )


def _malformed(message: str, **data: Any) -> TransactionError:
    return TransactionError(message, error=":schema/validation", **data)


def _bad_part(attr: Attr, part: Keyword, why: str) -> TransactionError:
    return TransactionError(
        f":db/tupleAttrs of {attr.ident} references {part}, {why}.",
        error=":transact/schema",
        attribute=attr.ident,
        part=part,
    )


def _choice(
    ident: Keyword, props: Mapping[Keyword, Any], prop: Keyword, choices: Iterable[Keyword]
) -> Keyword | None:
    value = props.get(prop)
    if value is None:
        return None
    options = tuple(choices)
    if value not in options:
        raise _bad(ident, prop, value, "one of " + ", ".join(map(repr, options)))
    return value  # type: ignore[no-any-return]


def _idents_tuple(
    ident: Keyword, props: Mapping[Keyword, Any], prop: Keyword
) -> tuple[Keyword, ...]:
    value = props.get(prop)
    if value is None:
        return ()
    if not isinstance(value, (tuple, list)) or not value:
        raise _bad(ident, prop, value, "a vector of keywords that is not empty")
    for v in value:
        if not isinstance(v, (str, Keyword)) or v in ("", ":"):
            raise _bad(ident, prop, value, f"keywords in the vector, not {shown(v)}")
    return tuple(map(Keyword, value))


def _attr_of(
    ident: Keyword, id: int, eid: int, props: Mapping[Keyword, Any], schema: Schema
) -> Attr:
    types = {vt.ident: vt for vt in VALUE_TYPES.values()}
    type_ = _choice(ident, props, VALUE_TYPE, types)
    cardinality = _choice(ident, props, CARDINALITY, (ONE, MANY))
    unique = _choice(ident, props, UNIQUE, (UNIQUE_IDENTITY, UNIQUE_VALUE))
    if props.get(COMPONENT) and type_ is not Keyword("db.type/ref"):
        raise _bad(ident, COMPONENT, True, ":db/valueType :db.type/ref on the same attribute")
    tuple_attrs = _idents_tuple(ident, props, TUPLE_ATTRS)
    tuple_types = _idents_tuple(ident, props, TUPLE_TYPES)
    tuple_type = _choice(ident, props, TUPLE_TYPE, types)
    for t in tuple_types:
        if t not in types:
            raise _bad(ident, TUPLE_TYPES, t, "value types such as :db.type/long")
    many = cardinality is MANY
    if tuple_attrs and many:
        raise _bad(ident, TUPLE_ATTRS, tuple_attrs, ":db.cardinality/one for a composite tuple")
    is_tuple = tuple_attrs or tuple_types or tuple_type
    if type_ is Keyword("db.type/tuple") and not is_tuple:
        raise _bad(
            ident, VALUE_TYPE, type_, ":db/tupleAttrs, :db/tupleType or :db/tupleTypes beside it"
        )
    max_length = props.get(MAX_LENGTH)
    if max_length is not None and max_length < 0:
        raise _bad(ident, MAX_LENGTH, max_length, "a length of at least 0")
    return Attr(
        ident,
        id,
        eid=eid,
        value_type=types[type_] if type_ is not None else ANY,
        many=many,
        unique=None if unique is None else unique.name,
        index=bool(props.get(INDEX)),
        component=bool(props.get(COMPONENT)),
        no_history=bool(props.get(NO_HISTORY)),
        doc=props.get(DOC),
        max_length=max_length,
        preds=tuple(props.get(PREDS, ())),
        tuple_attrs=tuple_attrs,
        tuple_type=tuple_type,
        tuple_types=tuple_types,
    )
