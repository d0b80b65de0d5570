"""Which entity is meant: tempids, lookup refs, idents, upserts. Part of a running transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from datahike_async.edn.types import Char, Keyword
from datahike_async.errors import QueryError, TransactionError, shown
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.ids import BLOCKS, EMAX, MAIN, TX0, UsedUp
from datahike_async.snapshot.views import View
from datahike_async.tx.forms import syntax_error
from datahike_async.values.schema import Attr

__all__ = ["CURRENT_TX", "Bindings", "Entities", "Retry", "is_tempid"]

CURRENT_TX: Final = frozenset(
    {"datomic.tx", "datahike.tx", ":db/current-tx", Keyword("db/current-tx")}
)


def is_tempid(ref: Any) -> bool:
    """Whether ``ref`` is a negative int or a string that is no keyword."""
    if type(ref) is int:
        return ref < 0
    return isinstance(ref, str) and not isinstance(ref, Char) and ref[:1] != ":"


class Retry(Exception):
    """Tempids turned out to be existing entities after they had got an id: run again."""


_MOST_GUESSES: Final = 6


class Bindings:
    """What earlier runs of a transaction found out about its tempids.

    A tempid may turn out to be an existing entity after it has got an id. The transaction has to be
    run again then, and as it would take one run for each such tempid, a run goes on when the first
    one is found, past items that fail, to find the others as well. The first is ``sure``. What is
    found after it is ``guessed``, since it was found in a state that is not going to be: the next
    run has to find it too, or it is dropped. Where guessing leads nowhere, each run finds one.

    ``given`` are the fresh ids that were handed out, which their tempids keep.
    """

    def __init__(self) -> None:
        self.given: dict[Any, int] = {}
        self.sure: dict[Any, int] = {}
        self.guessed: dict[Any, int] = {}
        self.runs = 0

    @property
    def guessing(self) -> bool:
        """Whether a run goes on past the first tempid that it finds late."""
        return self.runs < _MOST_GUESSES

    def learn(self, entities: Entities) -> None:
        """Take over what a run found."""
        self.given = entities.given
        self.runs += 1
        if entities.astray:
            self.runs = _MOST_GUESSES
        if self.runs == _MOST_GUESSES:
            self.sure, self.guessed = {}, {}
            return
        for ref in entities.open:
            del self.guessed[ref]
        self.sure.update(entities.sure)
        self.guessed.update(entities.guessed)


class Entities:
    """The entity ids of one run of a transaction.

    ``sure`` and ``guessed`` are what this run finds late, ``open`` the guesses of runs before it
    that it has not confirmed yet. A guess is not confirmed by what follows from itself: what open
    guesses assert is noted, and who is found by it rests on them. ``foreign``: ids of the blocks of
    other branches may be stated, as a merge does. ``own`` is the block that the transaction began
    with, of which ids may be stated though another one was taken since. ``made`` counts new ids.
    """

    def __init__(
        self, draft: Draft, bindings: Bindings, *, foreign: bool = False, own: range = MAIN
    ) -> None:
        self.draft = draft
        self.upserted: dict[Any, int] = {}
        self.open: set[Any] = set()
        self.guessing = bindings.guessing
        self.astray = False
        self.given: dict[Any, int] = {}
        self.sure: dict[Any, int] = {}
        self.guessed: dict[Any, int] = {}
        # Fresh ids of tempids that are existing entities -> those.
        self.void: dict[int, int] = {}
        # Entity -> tempids that are guessed to be it; (attribute, value) -> those of whoever said
        # so; guess -> what is confirmed with it: (tempid, the guesses that this rests on).
        self._believed: dict[int, list[Any]] = {}
        self._said: dict[tuple[int, Any], set[Any]] = {}
        self._waiting: dict[Any, list[tuple[Any, set[Any]]]] = {}
        # Tempid -> (tempid, attribute) whose unique identity it is.
        self.claims: dict[Any, list[tuple[Any, Attr]]] = {}
        self.ids: dict[Any, int] = {}
        # Those of them that are in use were given by this transaction: nothing is stored of them.
        self.fresh = range(draft.max_eid + 1, draft.trees.ids.stop)
        self.made = 0
        self._foreign = foreign
        self._own = own
        self.tempids: dict[Any, int] = {}
        if bindings.runs:
            self._go_on(bindings)

    def _go_on(self, bindings: Bindings) -> None:
        self.upserted = {**bindings.sure, **bindings.guessed}
        self.open = set(bindings.guessed)
        for ref, eid in bindings.guessed.items():
            self._believed.setdefault(eid, []).append(ref)
        self.given = dict(bindings.given)
        self.void = {self.given[r]: e for r, e in self.upserted.items() if r in self.given}
        self.ids = {**self.given, **self.upserted}
        self.made = len(self.given)
        draft = self.draft
        draft.max_eid = max(draft.max_eid, max(self.given.values(), default=0))

    @property
    def doubtful(self) -> bool:
        """Whether the state rests on what is not known for certain: errors may mean nothing."""
        return bool(self.sure or self.open or self.guessed)

    def settle(self, failed: Exception | None) -> None:
        """End a run, in which an item may have ``failed``, which is raised.

        Raises Retry where tempids were found late, where guesses were not confirmed, and where the
        failure may be owed to guesses about tempids that are found through one another.
        """
        if self.doubtful:
            # A guess that does not come true, where tempids are found through one another: what
            # was found with it hangs on the order.
            self.astray |= self.guessing and bool(self.open and self.claims)
            raise Retry
        if failed is not None:
            self.astray = self.guessing and bool(self.claims)
            raise Retry if self.astray else failed

    def new(self) -> int:
        """Return a fresh entity id."""
        eid = self.draft.max_eid + 1
        self.made += 1
        if eid >= self.fresh.stop:
            # All that were given before, too, or a large transaction would take one after another.
            raise UsedUp(self.made)
        self.draft.max_eid = eid
        return eid

    def is_new(self, eid: int) -> bool:
        """Whether ``eid`` did not exist before this transaction and is not in its datoms yet.

        False, too, where that cannot be said as cheaply as what there is of it.
        """
        draft = self.draft
        if eid in draft.mem.by_e or eid >= TX0:
            return False
        if eid in self.fresh:
            return True
        # One look for the entity is cheaper than one for each of its attributes, unless these were
        # read beforehand.
        return draft.known is None and not draft.trees.has_entity(eid)

    def tempid(self, ref: Any) -> int:
        """Return the id of a tempid, a fresh one where it has none yet."""
        eid = self.ids.get(ref)
        if eid is None:
            eid = self.ids[ref] = self.given[ref] = self.new()
        self.tempids[ref] = eid
        return eid

    def asserted(self, eid: int, attr: Attr, value: Any) -> None:
        """Note on which guesses it rests that ``eid`` now has a value that names it."""
        rests = self._guessed_as(eid)
        if attr.is_ref:
            rests |= self._guessed_as(value)
        if rests:
            self._said[attr.id, value] = rests

    def rests_on(self, attr: Attr, value: Any) -> set[Any]:
        """Return the open guesses without which this value might not name whom it names now."""
        rests = self.open.intersection(self._said.get((attr.id, value), ()))
        if attr.is_ref:
            rests |= self._guessed_as(value)
        return rests

    def _guessed_as(self, eid: int) -> set[Any]:
        """Return the tempids of open guesses that are guessed to be an entity."""
        return self.open.intersection(self._believed.get(eid, ()))

    def assign(self, ref: Any, eid: int, attr: Attr | None = None, value: Any = None) -> int:
        """Make ``ref`` the tempid of the existing entity ``eid``, which has this identity.

        Raises Retry where it has another id already and no more is to be found in this run, and
        TransactionError ``:transact/upsert`` where that was settled by an upsert before.
        """
        eid = self.void.get(eid, eid)
        known = self.ids.get(ref)
        if known is not None and known != eid:
            if ref in self.upserted:
                raise TransactionError(
                    f"Conflicting upsert: tempid {shown(ref)} resolves both to {known} and {eid}.",
                    error=":transact/upsert",
                    tempid=ref,
                )
            self._late(ref, eid)
        if ref in self.open:
            self._confirm(ref, self.rests_on(attr, value) if attr is not None else set())
        self.ids[ref] = self.tempids[ref] = eid
        return eid

    def _confirm(self, ref: Any, rests: set[Any]) -> None:
        """Take a guess for confirmed as soon as the others on which that ``rests`` are."""
        if rests:
            for other in rests:
                self._waiting.setdefault(other, []).append((ref, rests))
            return
        confirmed = [ref]
        while confirmed:
            ref = confirmed.pop()
            self.open.discard(ref)
            for other, rests in self._waiting.pop(ref, ()):
                rests.discard(ref)
                if not rests and other in self.open:
                    confirmed.append(other)

    def claim(self, ref: Any, attr: Attr, value: Any) -> None:
        """Note that ``ref`` is whoever has the tempid ``value`` under a unique identity."""
        self.claims.setdefault(value, []).append((ref, attr))

    def _late(self, ref: Any, eid: int) -> None:
        found = [(ref, eid)]
        while found:
            ref, eid = found.pop()
            if ref in self.upserted or self.ids[ref] == eid:
                continue
            if self.doubtful and self.claims and eid in self.fresh:
                # New entities that are found through one another: the order decides who is who.
                self.astray = self.guessing
                raise Retry
            (self.guessed if self.doubtful else self.sure)[ref] = eid
            self.upserted[ref] = eid
            if not self.guessing:
                raise Retry
            self.void[self.ids[ref]] = eid
            self.ids[ref] = eid
            for other, attr in self.claims.pop(ref, ()):
                holders = self.draft.lookup(attr.id, eid)
                if holders:
                    found.append((other, self.void.get(holders[0], holders[0])))

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
        elif eid in self.fresh:
            draft.max_eid = max(draft.max_eid, eid)
        elif eid >= BLOCKS.start and not (self._foreign or self._is_there(eid)):
            raise TransactionError(
                f"Entity id {shown(eid)} belongs to another branch, if to any: those from "
                f"{BLOCKS.start} on are given to what is new on branches. Choose one below, or use "
                "a tempid.",
                error=":entity-id/syntax",
                entity_id=eid,
            )
        return eid

    def _is_there(self, eid: int) -> bool:
        draft = self.draft
        if eid in draft.trees.ids or eid in self._own:
            return True
        return eid in draft.mem.by_e or draft.trees.has_entity(eid)

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
            return View(self.draft).entid(ref)
        except QueryError as error:
            raise TransactionError(
                str(error),
                error=error.data.get(":error"),
                entity_id=ref,
            ) from None

    def strict(self, ref: Any, what: str = "a lookup ref") -> int:
        """Return the entity that ``ref`` names, counted; raise ``:entity-id/missing`` for none."""
        return self.explicit(self.found(ref, what))

    def found(self, ref: Any, what: str) -> int:
        """Return the entity that ``ref`` names; raise ``:entity-id/missing`` for none."""
        found = self.existing(ref, what)
        if found is None:
            raise TransactionError(
                f"Nothing found for entity id {shown(ref)}.",
                error=":entity-id/missing",
                entity_id=ref,
            )
        return found

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

    def by_identity(
        self, pairs: Sequence[tuple[Attr, Any]], ref: Any
    ) -> tuple[Attr, Any, int] | None:
        """Return the identity of a map that names an existing entity, and that; None for none.

        ``pairs`` hold canonical values; of several, one that rests on no guess is returned. Raises
        ``:transact/upsert`` where they name several entities.
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
            if found is None or (self.open and self.rests_on(found[0], found[1])):
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
        return found
