"""Idempotency keys: a transaction that is sent again gets the answer that it got the first time.

The key and the tempids of the first answer are datoms of the transaction entity, so they are as
durable as the transaction itself, and every process finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datahike_async.edn import reader
from datahike_async.edn.types import Keyword
from datahike_async.edn.writer import write
from datahike_async.errors import TransactionError
from datahike_async.index.source import read
from datahike_async.snapshot.ids import TX0
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.tx.forms import syntax_error
from datahike_async.values.schema import IDEMPOTENCY_KEY, IDEMPOTENCY_TEMPIDS

__all__ = ["Answer", "checked_basis", "checked_key", "first_answer", "stored_tempids"]

_LONGEST: Final = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transaction answered: found in ``state``, where it is the transaction ``tx``."""

    state: Snapshot
    tx: int
    tempids: Mapping[Any, int]
    tx_meta: dict[Keyword, Any]


def checked_key(key: Any) -> str | None:
    """Return an idempotency key. Raises TransactionError where it can be none."""
    if key is None or (isinstance(key, str) and 0 < len(key) <= _LONGEST):
        return key
    raise syntax_error(
        f"An idempotency key is a string of 1 to {_LONGEST} characters, not {key!r}."
    )


def checked_basis(basis: Any) -> int | None:
    """Return the transaction id of an expected basis, which may be given as a database."""
    found = getattr(basis, "max_tx", basis)
    if found is None or (type(found) is int and found >= TX0):
        return found
    raise syntax_error(
        f"An expected basis is a database or the id of its newest transaction, not {basis!r}."
    )


def stored_tempids(tempids: Mapping[Any, int]) -> str:
    """Return a tempid map as it is kept with the transaction."""
    return write(dict(tempids))


async def first_answer(state: Snapshot, key: str) -> Answer | None:
    """Return what the transaction with a key answered, or None where there is none in ``state``.

    Its meta is what is kept of it: of an attribute with many values, a list.
    """
    return await read(_find, state, key)


def _find(state: Snapshot, key: str) -> Answer | None:
    schema = state.schema
    found = state.lookup(schema.by_key[IDEMPOTENCY_KEY].id, key)
    if not found:
        return None
    tx = found[0]
    if tx <= TX0:
        raise TransactionError(
            f"The idempotency key {key!r} is a value of entity {tx}, which is no transaction.",
            error=":transact/unique",
            entity_id=tx,
        )
    rows = state.entity(tx)
    meta: dict[Keyword, Any] = {}
    for a, v in zip(rows.a.tolist(), rows.v.tolist(), strict=True):
        attr = schema.attrs[a]
        if attr.many:
            meta.setdefault(attr.ident, []).append(v)
        else:
            meta[attr.ident] = v
    stored = meta.pop(IDEMPOTENCY_TEMPIDS, "{}")
    return Answer(state, tx, reader.read(stored), meta)
