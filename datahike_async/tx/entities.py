"""Which entity is meant: tempids, lookup refs, idents, upserts. Part of a running transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from datahike_async.edn.types import Char, Keyword
from datahike_async.errors import QueryError, TransactionError, shown
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.snapshot import EMAX, TX0
from datahike_async.snapshot.views import View
from datahike_async.tx.forms import syntax_error
from datahike_async.values.schema import Attr

__all__ = ["CURRENT_TX", "Entities", "Retry", "is_tempid"]

CURRENT_TX: Final = frozenset(
    {"datomic.tx", "datahike.tx", ":db/current-tx", Keyword("db/current-tx")}
)


def is_tempid(ref: Any) -> bool:
    """Whether ``ref`` is a negative int or a string that is no keyword."""
    if type(ref) is int:
        return ref < 0
    return isinstance(ref, str) and not isinstance(ref, Char) and ref[:1] != ":"


class Retry(Exception):
    """A tempid turned out to be an existing entity after it had got an id: run again."""

    def __init__(self, tempid: Any, eid: int) -> None:
        super().__init__(tempid, eid)
        self.tempid = tempid
        self.eid = eid


class Entities:
    """The entity ids of one transaction.

    ``upserted`` are the tempids that a run before this one found to be existing entities;
    ``kept`` the ids that it gave to the others.
    """

    def __init__(
        self, draft: Draft, upserted: dict[Any, int], kept: dict[Any, int], floor: int
    ) -> None:
        self.draft = draft
        self.view = View(draft)
        self.upserted = upserted
        self.ids: dict[Any, int] = {**kept, **upserted}
        # Ids above this one were given by this transaction: nothing can be stored of them.
        self.floor = floor
        self.tempids: dict[Any, int] = {}
        # Tempids so far seen only as values; one that never becomes an entity is no mistake.
        draft.max_eid = max([draft.max_eid, *(e for e in kept.values() if e < TX0)])

    def new(self) -> int:
        """Return a fresh entity id."""
        eid = self.draft.max_eid + 1
        if eid >= TX0:
            raise TransactionError(
                f"The database has used all {TX0} entity ids.", error=":entity-id/syntax"
            )
        self.draft.max_eid = eid
        return eid

    def is_new(self, eid: int) -> bool:
        """Whether ``eid`` did not exist before this transaction and is not in its datoms yet."""
        draft = self.draft
        if eid in draft.mem.by_e or eid >= TX0:
            return False
        # One look for the entity is cheaper than one for each of its attributes.
        return eid > self.floor or not draft.trees.has_entity(eid)

    def tempid(self, ref: Any) -> int:
        """Return the id of a tempid, a fresh one where it has none yet."""
        eid = self.ids.get(ref)
        if eid is None:
            eid = self.ids[ref] = self.new()
        self.tempids[ref] = eid
        return eid

    def assign(self, ref: Any, eid: int) -> int:
        """Make ``ref`` the tempid of the existing entity ``eid``.

        Raises Retry where it has another id already, and TransactionError ``:transact/upsert``
        where that was settled by an upsert before.
        """
        known = self.ids.get(ref)
        if known is not None and known != eid:
            if ref in self.upserted:
                raise TransactionError(
                    f"Conflicting upsert: tempid {shown(ref)} resolves both to {known} and {eid}.",
                    error=":transact/upsert",
                    tempid=ref,
                )
            raise Retry(ref, eid)
        self.ids[ref] = self.tempids[ref] = eid
        return eid

    def explicit(self, eid: int) -> int:
        """Return an entity id that the user gave, having checked and counted it."""
        draft = self.draft
        if eid >= TX0:
            if eid > max(draft.max_tx, draft.tx):
                raise TransactionError(
                    f"Entity id {shown(eid)} is beyond the highest one ({TX0 - 1}); ids "
                    f"from {TX0} to {EMAX} are transactions.",
                    error=":entity-id/syntax",
                    entity_id=eid,
                )
        elif eid > draft.max_eid:
            draft.max_eid = eid
        return eid

    def existing(self, ref: Any, what: str) -> int | None:
        """Return the entity an id, ident or lookup ref names; None where nothing is found.

        A tempid is refused: ``what`` names the form it was used in.
        """
        if ref in CURRENT_TX if isinstance(ref, (str, Keyword)) else False:
            return self.current_tx(ref)
        if is_tempid(ref):
            raise syntax_error(
                f"Can't use tempid {shown(ref)} in {what}. Tempids are allowed in :db/add and "
                "maps.",
                tempid=ref,
            )
        try:
            return self.view.entid(ref)
        except QueryError as error:
            raise TransactionError(
                str(error),
                error=error.data.get(":error"),
                entity_id=ref,
            ) from None

    def strict(self, ref: Any, what: str = "a lookup ref") -> int:
        """Return the entity that ``ref`` names; raise ``:entity-id/missing`` for none."""
        found = self.existing(ref, what)
        if found is None:
            raise TransactionError(
                f"Nothing found for entity id {shown(ref)}.",
                error=":entity-id/missing",
                entity_id=ref,
            )
        return self.explicit(found)

    def current_tx(self, ref: Any) -> int:
        """Return the id of the running transaction, named in one of its three ways."""
        self.tempids[ref] = self.draft.tx
        return self.draft.tx

    def entity(self, ref: Any) -> int:
        """Return the id of whatever may stand as the entity of a :db/add."""
        if type(ref) is int and ref > 0:
            return self.explicit(ref)
        if isinstance(ref, (str, Keyword)) and ref in CURRENT_TX:
            return self.current_tx(ref)
        if is_tempid(ref):
            return self.tempid(ref)
        if ref is None or isinstance(ref, bool) or ref == 0:
            raise TransactionError(
                f"Expected a number, string, keyword or lookup ref for :db/id, got {shown(ref)}.",
                error=":entity-id/syntax",
                entity_id=ref,
            )
        return self.strict(ref)

    # -- upsert --------------------------------------------------------------------------------

    def by_identity(self, pairs: Sequence[tuple[Attr, Any]], ref: Any) -> int | None:
        """Return the existing entity that unique identity values of a map name, or None.

        ``pairs`` hold canonical values. Raises ``:transact/upsert`` where they name several.
        """
        found: tuple[Attr, Any, int] | None = None
        for attr, value in pairs:
            entities = self.draft.lookup(attr.id, value)
            if not entities:
                continue
            eid = entities[0]
            if found is not None and found[2] != eid:
                raise TransactionError(
                    f"Conflicting upserts: {found[0].ident} {shown(found[1])} resolves to "
                    f"{found[2]}, but {attr.ident} {shown(value)} resolves to {eid}.",
                    error=":transact/upsert",
                    entity_id=ref,
                )
            found = (attr, value, eid)
        if found is None:
            return None
        attr, value, eid = found
        if type(ref) is int and ref > 0 and ref != eid:
            raise TransactionError(
                f"Conflicting upsert: {attr.ident} {shown(value)} resolves to {eid}, but entity "
                f"already has :db/id {ref}.",
                error=":transact/upsert",
                entity_id=ref,
            )
        return eid
