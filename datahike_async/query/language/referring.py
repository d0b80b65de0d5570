"""What is known of a query's references before it has inputs: where they may stand, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import Clause
from datahike_async.query.language.places import Noting, Place, walked
from datahike_async.query.language.rewriting import Use
from datahike_async.query.language.ruleset import RuleSet

__all__ = ["Kept"]


class Kept:
    """What is known of a query's references before it has inputs: kept with its text."""

    __slots__ = ("attributes", "constants", "places", "rules", "uses")

    def __init__(self, where: Sequence[Clause], rules: RuleSet) -> None:
        self.rules = rules
        found = Noting(rules.places)
        walked(where, found)
        # Where the variables stand, and which of them name attributes of values.
        self.places: Mapping[Symbol, AbstractSet[Place]] = found.places
        self.attributes = tuple(found.attributes)
        self.constants = bool(found.constants) or rules.hold_references(found.called)
        self.uses: dict[Any, Use] = {}
