"""What users hand to ``transact``: EDN text, a list of maps and vectors, or a map around one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Char, Keyword
from datahike_async.errors import TransactionError, shown
from datahike_async.planned import SCHEMA_NAMESPACES
from datahike_async.tx.table import Table
from datahike_async.values.datom import Datom
from datahike_async.values.schema import LATE_ATTRIBUTES, SCHEMA_PROPERTIES, Attr, Schema
from datahike_async.values.spelling import did_you_mean

__all__ = [
    "LARGE",
    "MOST_LEVELS",
    "is_large",
    "keyword",
    "normalize",
    "reaches_far",
    "replace_items",
    "require_attr",
    "reserved",
    "syntax_error",
    "take_options",
    "unknown_attribute",
]

LARGE: Final = 4096
"""Facts from which a transaction is applied in a worker thread."""

MOST_LEVELS: Final = 128
"""So deep may entity maps be nested in one another."""

_DEFINING_KEYS: Final = frozenset({*SCHEMA_PROPERTIES, *(f":{k.text}" for k in SCHEMA_PROPERTIES)})
_FLAT: Final = frozenset({list, tuple, set, frozenset})
_NESTING: Final = _FLAT | {dict}
_FAR: Final = frozenset(
    spelling
    for name in ("retractEntity", "retractAttribute")
    for space in ("db", "db.fn")
    for spelling in (f":{space}/{name}", Keyword(f"{space}/{name}"))
)
_TX_DATA: Final = (Keyword("tx-data"), ":tx-data", "tx-data", "tx_data")
_OPTIONS: Final = {
    spelling: name
    for name in ("expected_basis", "idempotency_key")
    for spelling in (
        name,
        name.replace("_", "-"),
        ":" + name.replace("_", "-"),
        Keyword(name.replace("_", "-")),
    )
}
_NAME: Final = 100
_TX_META: Final = (Keyword("tx-meta"), ":tx-meta", "tx-meta", "tx_meta")


def syntax_error(message: str, **data: Any) -> TransactionError:
    """Return the error for transaction data that has the wrong form."""
    return TransactionError(message, error=":transact/syntax", **data)


def normalize(
    tx_data: Any, tx_meta: Mapping[Any, Any] | None
) -> tuple[Sequence[Any], Mapping[Any, Any]]:
    """Return the items and the tx-meta of whatever form was given."""
    if type(tx_data) is list and tx_meta is None:
        return list(tx_data), {}  # nearly always, and without a question
    if isinstance(tx_data, str) and not isinstance(tx_data, Char):
        tx_data = read(tx_data)
    if isinstance(tx_data, Mapping):
        found = [k for k in tx_data if isinstance(k, (str, Keyword)) and k in _TX_DATA]
        if not found:
            raise syntax_error(
                "Bad argument to transact: a map needs the key :tx-data; to transact one entity "
                "map, put it into a list."
            )
        unknown = [k for k in tx_data if k not in (*_TX_DATA, *_TX_META)]
        if unknown:
            raise syntax_error(f"Bad argument to transact: unknown key {shown(unknown[0])}.")
        meta = next((tx_data[k] for k in tx_data if k in _TX_META), None)
        return normalize(tx_data[found[0]], tx_meta if meta is None else meta)
    if isinstance(tx_data, (bytes, Keyword, Datom)) or not isinstance(tx_data, Iterable):
        raise syntax_error(
            f"Bad transaction data {shown(tx_data)}, expected a list of maps and vectors.",
            tx_data=tx_data,
        )
    if tx_meta is not None and not isinstance(tx_meta, Mapping):
        raise syntax_error(f"Bad :tx-meta {shown(tx_meta)}, expected a map.")
    items = tx_data if isinstance(tx_data, Table) else list(tx_data)
    return items, tx_meta or {}


async def replace_items(
    tx_data: Mapping[Any, Any], read_items: Callable[[Any], Awaitable[Any]]
) -> Mapping[Any, Any]:
    """Return a map around transaction data with its items put through ``read_items``."""
    found = [k for k in tx_data if isinstance(k, (str, Keyword)) and k in _TX_DATA]
    if not found or isinstance(tx_data[found[0]], Mapping):
        return tx_data
    return {**tx_data, found[0]: await read_items(tx_data[found[0]])}


def is_large(items: Sequence[Any], facts: int = LARGE) -> bool:
    """Whether the items state so many facts, nested ones included, and thus take long."""
    if isinstance(items, Table):
        return len(items) + sum(len(cells.rows) for cells in items.cells) >= facts
    left = facts - len(items)
    for item in items:
        if left <= 0:
            break
        left -= _weight(item, left, MOST_LEVELS)
    return left <= 0


def reaches_far(items: Sequence[Any]) -> bool:
    """Whether an item may touch more than it names.

    The definition of an attribute looks at all its datoms, and some retractions take others along.
    """
    if isinstance(items, Table):
        return not _DEFINING_KEYS.isdisjoint(cells.attribute for cells in items.cells)
    for item in items:
        if type(item) is dict or isinstance(item, Mapping):
            if not _DEFINING_KEYS.isdisjoint(item):
                return True
        elif isinstance(item, (list, tuple)) and item:
            head = item[0]
            if isinstance(head, (str, Keyword)) and head in _FAR:
                return True
            attribute = item[2] if len(item) > 2 else None
            if isinstance(attribute, (str, Keyword)) and attribute in _DEFINING_KEYS:
                return True
    return False


def _weight(item: Any, enough: int, levels: int) -> int:
    kind = type(item)
    if kind is dict or (kind not in _FLAT and isinstance(item, Mapping)):
        values: Any = item.values()
    elif kind in _FLAT:
        values = item
    else:
        return 0
    weight = len(values)
    if levels and not _NESTING.isdisjoint(map(type, values)):
        for value in values:
            if weight >= enough:
                break
            if type(value) in _NESTING:
                weight += _weight(value, enough - weight, levels - 1)
    return weight


def take_options(tx_data: Any) -> tuple[Any, dict[str, Any]]:
    """Return the data without the keys that are about the sending, and those by name."""
    if isinstance(tx_data, str) and not isinstance(tx_data, Char):
        tx_data = read(tx_data)
    if not isinstance(tx_data, Mapping):
        return tx_data, {}
    options: dict[str, Any] = {}
    rest: dict[Any, Any] = {}
    for key, value in tx_data.items():
        name = _OPTIONS.get(key) if isinstance(key, (str, Keyword)) else None
        if name is None:
            rest[key] = value
        else:
            options[name] = value
    return rest, options


def keyword(value: Any) -> Keyword | None:
    """Return ``value`` as a keyword where it is one or a string that begins with a colon."""
    if isinstance(value, Keyword):
        return value
    if isinstance(value, str) and len(value) > 1 and value[0] == ":":
        return Keyword(value)
    return None


def reserved(attribute: Keyword) -> TransactionError:
    """Return the error for an attribute that only the library writes."""
    return syntax_error(
        f"{attribute} is written by transact alone; pass idempotency_key to it.",
        attribute=attribute,
    )


def _quoted(text: str) -> str:
    """Return a name as the keys around it are written."""
    plain = text.isprintable() and len(text) <= _NAME and not {'"', "\\"} & set(text)
    return f'"{text}"' if plain else shown(text)


def unknown_attribute(key: Any, schema: Schema, what: str = "entity attribute") -> TransactionError:
    """Return the error for an attribute that the schema does not have: how to declare it."""
    text = key if isinstance(key, str) else repr(key)
    own = text.startswith(":db/")
    hint = did_you_mean(
        schema,
        text,
        lambda attr: schema.takes_data(attr) and (attr.ident.namespace == "db") is own,
    )
    if not own and keyword(key) is not None:
        hint += (
            f' Declare it first: transact([{{":db/ident": {_quoted(text)}, ":db/valueType": '
            '":db.type/string", ":db/cardinality": ":db.cardinality/one"}]), with the type and '
            'cardinality of its values; or create the database with schema_flexibility="read", '
            "which takes attributes as they come."
        )
    return TransactionError(
        f"Bad {what} {shown(key)}, not defined in current schema.{hint}",
        error=":transact/schema",
        attribute=key,
    )


def require_attr(key: Any, schema: Schema) -> Attr | None:
    """Return the attribute of ``key``, None where it may be interned: schema on read, or ours.

    Raises TransactionError where ``key`` can be no attribute, or must be in the schema and is not.
    """
    try:
        found = schema.by_key.get(key)
    except TypeError:
        found = None
    if found is not None and schema.takes_data(found):
        return found
    name = keyword(key)
    if name is None:
        hint = f"; did you mean {shown(':' + key)}?" if isinstance(key, str) else ""
        raise syntax_error(
            f"Bad entity attribute {shown(key)}, expected a keyword{hint}", attribute=key
        )
    if name in LATE_ATTRIBUTES:
        return None
    if name.namespace in SCHEMA_NAMESPACES:
        raise TransactionError(
            f"{name} comes with a later version of datahike-async; nothing was written.",
            error=":transact/schema",
            attribute=key,
        )
    if schema.flexibility == "write" or name.namespace == "db":
        raise unknown_attribute(key, schema)
    return None
