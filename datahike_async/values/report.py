"""TxReport: what a transaction did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from datahike_async.edn.types import Keyword
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.values.datom import Datom
from datahike_async.values.json_form import jsonable

__all__ = ["TxReport"]


class TxReport(Json, Mapping[Any, Any]):
    """What a transaction did: attributes, or entries under Datahike's keywords.

    ``db_before`` and ``db_after`` are database values; ``tx_data`` the datoms it added and
    retracted, in order; ``tempids`` maps each tempid the caller used to its entity id; ``tx_meta``
    is what was said of the transaction, ``:db/txInstant`` always among it; ``tx`` is its id.
    ``repeated`` says that it had been run before, under the same idempotency key; without history
    both databases are then the present one, and ``tx_data`` is what is left of its datoms.
    ``purged`` counts the datoms of the present and the past that it purged, which are not shown.
    """

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "properties": {
            "tx": {"type": "integer"},
            "tempids": {"type": "object", "additionalProperties": {"type": "integer"}},
            "tx_data": {"type": "array", "items": Datom.json_schema},
            "tx_meta": {"type": "object"},
            "repeated": {"type": "boolean"},
            "purged": {"type": "integer"},
        },
        "required": ["tx", "tempids", "tx_data", "tx_meta", "repeated", "purged"],
    }

    def __init__(
        self,
        db_before: Any,
        db_after: Any,
        tx: int,
        tempids: Mapping[Any, int],
        tx_meta: Mapping[Keyword, Any],
        load: Callable[[], Sequence[Datom]],
        *,
        repeated: bool = False,
        purged: int = 0,
    ) -> None:
        self.db_before = db_before
        self.db_after = db_after
        self.tx = tx
        self.tempids = tempids
        self.tx_meta = tx_meta
        self.repeated = repeated
        self.purged = purged
        self._load = load

    @cached_property
    def tx_data(self) -> Sequence[Datom]:
        """The datoms, made when first looked at."""
        return self._load()

    @property
    def instant(self) -> datetime:
        """When the transaction happened, by the database's clock."""
        return self.tx_meta[Keyword("db/txInstant")]  # type: ignore[no-any-return]

    _KEYS = ("db-before", "db-after", "tx-data", "tempids", "tx-meta")

    def __getitem__(self, key: Any) -> Any:
        name = key.text if isinstance(key, Keyword) else str(key).removeprefix(":")
        if name not in self._KEYS:
            raise KeyError(key)
        return getattr(self, name.replace("-", "_"))

    def __iter__(self) -> Iterator[Keyword]:
        return map(Keyword, self._KEYS)

    def __len__(self) -> int:
        return len(self._KEYS)

    def as_json(self) -> dict[str, Any]:
        """Return all of it but the two databases, which are no data."""
        return {
            "tx": self.tx,
            "tempids": jsonable(self.tempids),
            "tx_data": [datom.as_json() for datom in self.tx_data],
            "tx_meta": jsonable(self.tx_meta),
            "repeated": self.repeated,
            "purged": self.purged,
        }

    def __repr__(self) -> str:
        return f"<TxReport tx {self.tx}, {len(self.tx_data)} datoms, tempids {self.tempids!r}>"
