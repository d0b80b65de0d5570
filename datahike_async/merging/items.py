"""Facts to add and to retract as a transaction, in an order in which each item is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.merging.report import Fact
from datahike_async.values.schema import IDENT, PREDS, SCHEMA_PROPERTIES

__all__ = ["items_of"]

_ADD: Final = Keyword("db/add")
_RETRACT: Final = Keyword("db/retract")
_ID: Final = Keyword("db/id")


def items_of(added: Iterable[Fact], retracted: Iterable[Fact]) -> list[Any]:
    """Return the transaction that adds and retracts facts.

    First goes what data lose, so that a unique value is free for another entity. Then definitions:
    what they lose, the ident first, after which nothing is asked of the rest; what they gain, an
    entity at once. Then what data gain.
    """
    defined: dict[int, dict[Keyword, Any]] = {}
    data: list[Any] = []
    for fact in added:
        if fact.a not in SCHEMA_PROPERTIES:
            data.append([_ADD, fact.e, fact.a, fact.v])
        elif fact.a is PREDS:
            defined.setdefault(fact.e, {}).setdefault(fact.a, []).append(fact.v)
        else:
            defined.setdefault(fact.e, {})[fact.a] = fact.v
    lost: list[Any] = []
    undefined: list[Fact] = []
    for fact in retracted:
        if fact.a not in SCHEMA_PROPERTIES:
            lost.append([_RETRACT, fact.e, fact.a, fact.v])
        elif fact.a is PREDS or fact.a not in defined.get(fact.e, {}):
            undefined.append(fact)
    undefined.sort(key=lambda fact: fact.a is not IDENT)
    return [
        *lost,
        *([_RETRACT, fact.e, fact.a, fact.v] for fact in undefined),
        *({_ID: e, **properties} for e, properties in sorted(defined.items())),
        *data,
    ]
