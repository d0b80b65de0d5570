"""The inputs of one run, as ``inputs`` binds them and ``references`` resolves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.relations.relation import Relation
from datahike_async.snapshot.views import View

__all__ = ["Bound"]


@dataclass(slots=True)  # not frozen: made in every query, at a third of the cost
class Bound:
    """The inputs of one run, by what they are."""

    sources: Mapping[Symbol, Any]
    views: Mapping[Symbol, View]
    rules: RuleSet
    functions: Mapping[Symbol, Any]
    consts: Mapping[Symbol, Any]
    relations: Sequence[Relation]

    def variables(self) -> set[Symbol]:
        """Return the variables that have a value."""
        return {*self.consts, *(v for relation in self.relations for v in relation.columns)}
