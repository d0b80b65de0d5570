"""What a merge tells: the datoms it adds and retracts, its conflicts, and how they were settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from uuid import UUID

from datahike_async.edn.types import Keyword
from datahike_async.errors import shown
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.values.json_form import jsonable
from datahike_async.values.report import TxReport

__all__ = ["KINDS", "SETTLED", "Conflict", "Fact", "MergeReport"]

KINDS: Final = {
    "value": "both sides gave the attribute another value",
    "deleted": "one side changed a value that the other retracted",
    "entity": "one side changed an entity that the other retracted",
    "unique": "a unique value is claimed by two entities",
    "identity": "two identities of one entity name two",
    "reference": "one side refers to an entity that the other retracted",
    "transaction": "the other side refers to one of its transactions, which is not here",
    "schema": "both sides changed a definition",
    "schema-data": "data of one side do not fit the definitions of the other",
    "cardinality": "an attribute that holds one value would hold several",
    "predicate": "a value that results does not pass a check of its attribute",
    "ensure": "an entity that results lacks what its spec asks for",
    "refused": "the result is no valid transaction",
}
"""Each kind of conflict, and what it is."""

SETTLED: Final = frozenset({"value", "deleted"})
"""The kinds that ``on_conflict`` and ``resolve`` can settle; all others always abort."""

_MANY: Final = 20


@dataclass(frozen=True, slots=True)
class Fact(Json):
    """A datom that is to be, or to be no more: entity, attribute and value."""

    e: int
    a: Keyword
    v: Any

    json_schema: ClassVar[JsonSchema] = {
        "type": "array",
        "items": {},
        "minItems": 3,
        "maxItems": 3,
    }

    def as_json(self) -> list[Any]:
        """Return the list of its three parts."""
        return [self.e, self.a.as_json(), jsonable(self.v)]


@dataclass(frozen=True, slots=True)
class Conflict(Json):
    """Something that two sides do not agree on.

    ``kind`` is one of ``KINDS``. ``entity`` is its id on our side, ``base``, ``ours`` and
    ``theirs`` are the values of ``attribute`` there, None for none. ``settled`` says what settled
    it, ``"ours"`` or ``"theirs"`` that side, the name of a strategy, ``"resolve"`` a value that was
    given; None where nothing did. ``why`` says more where there is more to say.
    """

    kind: str
    entity: int | None
    attribute: Keyword | None
    base: Any = None
    ours: Any = None
    theirs: Any = None
    why: str = ""
    settled: str | None = None

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "properties": {
            "kind": {"enum": list(KINDS)},
            "entity": {"type": ["integer", "null"]},
            "attribute": {"type": ["string", "null"]},
            "base": {},
            "ours": {},
            "theirs": {},
            "why": {"type": "string"},
            "settled": {"type": ["string", "null"]},
        },
    }

    def as_json(self) -> dict[str, Any]:
        """Return its parts."""
        return {
            "kind": self.kind,
            "entity": self.entity,
            "attribute": jsonable(self.attribute),
            "base": jsonable(self.base),
            "ours": jsonable(self.ours),
            "theirs": jsonable(self.theirs),
            "why": self.why,
            "settled": self.settled,
        }

    def __str__(self) -> str:
        where = "" if self.entity is None else f" of entity {self.entity}"
        where = where if self.attribute is None else f" at {self.attribute}{where}"
        text = f"{self.kind}{where}: {self.why or KINDS[self.kind]}"
        if self.base is not None or self.ours is not None or self.theirs is not None:
            values = (self.base, self.ours, self.theirs)
            base, ours, theirs = ("nothing" if v is None else shown(v) for v in values)
            text += f" (base {base}, ours {ours}, theirs {theirs})"
        return text if self.settled is None else f"{text} → {self.settled}"


@dataclass(frozen=True, slots=True)
class MergeReport(Json):
    """What a merge does, or would do.

    ``ours`` and ``theirs`` are the commits that are merged, ``bases`` their newest common
    ancestors. ``added`` and ``retracted`` are what our side gains and loses, without the composite
    tuples that follow from them; ``conflicts`` what nothing has settled, ``settled`` what something
    has. ``same`` maps ids of entities on their side to those of the entities on ours that they are.
    ``up_to_date`` says that theirs is in our past already: there is nothing to merge.
    ``transaction`` is the report of the transaction that did it, of a preview None; two reports are
    compared without it.
    """

    ours: UUID | None = None
    theirs: UUID | None = None
    bases: tuple[UUID, ...] = ()
    up_to_date: bool = False
    added: Sequence[Fact] = ()
    retracted: Sequence[Fact] = ()
    conflicts: Sequence[Conflict] = ()
    settled: Sequence[Conflict] = ()
    same: Mapping[int, int] = field(default_factory=dict)
    transaction: TxReport | None = field(default=None, compare=False)

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "properties": {
            "ours": {"type": ["string", "null"]},
            "theirs": {"type": ["string", "null"]},
            "bases": {"type": "array", "items": {"type": "string"}},
            "up_to_date": {"type": "boolean"},
            "added": {"type": "array", "items": Fact.json_schema},
            "retracted": {"type": "array", "items": Fact.json_schema},
            "conflicts": {"type": "array", "items": Conflict.json_schema},
            "settled": {"type": "array", "items": Conflict.json_schema},
            "same": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    }

    @property
    def changes(self) -> bool:
        """Whether anything is added or retracted."""
        return bool(self.added or self.retracted)

    def as_json(self) -> dict[str, Any]:
        """Return all of it but the transaction's report."""
        return {
            "ours": jsonable(self.ours),
            "theirs": jsonable(self.theirs),
            "bases": jsonable(self.bases),
            "up_to_date": self.up_to_date,
            "added": [fact.as_json() for fact in self.added],
            "retracted": [fact.as_json() for fact in self.retracted],
            "conflicts": [conflict.as_json() for conflict in self.conflicts],
            "settled": [conflict.as_json() for conflict in self.settled],
            "same": {str(theirs): ours for theirs, ours in self.same.items()},
        }

    def __repr__(self) -> str:
        return f"<MergeReport {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        if self.up_to_date:
            return "Nothing to merge: it is in the past of this branch already."
        lines = [
            f"{len(self.added)} added, {len(self.retracted)} retracted, "
            f"{len(self.conflicts)} conflicts, {len(self.settled)} settled"
        ]
        for head, found in (("conflict", self.conflicts), ("settled", self.settled)):
            lines += [f"{head}: {one}" for one in found[:_MANY]]
            if len(found) > _MANY:
                lines.append(f"{head}: and {len(found) - _MANY} more")
        for sign, facts in (("+", self.added), ("-", self.retracted)):
            lines += [f"{sign} {fact.e} {fact.a} {shown(fact.v)}" for fact in facts[:_MANY]]
            if len(facts) > _MANY:
                lines.append(f"{sign} and {len(facts) - _MANY} more")
        return "\n".join(lines)
