"""Draft: the running state of one transaction, written straight into the memtable's tip.

A draft reads like a snapshot that sees every operation so far. ``commit`` makes it a Snapshot;
``abort`` takes its operations back, so that a failed transaction leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from datahike_async.index.columns import Rows
from datahike_async.index.memtable import ALIVE, Memtable
from datahike_async.snapshot.known import Known
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.values.schema import Attr, Schema
from datahike_async.values.types import typed_key

__all__ = ["Draft"]


class Draft(Snapshot):
    """A snapshot in the making. ``tx`` is the id of the transaction that writes it.

    Ids and the schema may be set as the transaction goes. Reads see what was written so far.
    """

    __slots__ = ("_absorbed", "_owner", "base", "known", "mark", "shared", "tx")

    def __init__(self, base: Snapshot, tx: int, owner: object | None = None) -> None:
        mem = base.mem
        # While this draft runs, everybody else forks: a transaction function may await, or
        # speculate on the value it was given, and both stand at this very tip; so may a thread.
        if not mem.claim(base.n, owner):
            mem = mem.fork(base.n)
            mem.owner = owner
            mem.claim(base.n, owner)
        self._owner = owner
        super().__init__(base.schema, base.trees, mem, ALIVE, ALIVE, base.max_eid, base.max_tx)
        self.base = base
        self.mark = len(mem)
        self.tx = tx
        # A database value of the unfinished state was handed out: its rows may not be taken back.
        self.shared = False
        # What the trees hold of what this transaction asks for, where that was read beforehand.
        self.known: Known | None = None
        # The trees with the memtable in them, where a large transaction had to look into both.
        self._absorbed: Trees | None = None

    # -- reading -------------------------------------------------------------------------------

    def _tree_facts(self, e: int, a: int, *, alone: bool = False) -> list[tuple[int, Any, int]]:
        if self.known is not None:
            found = self.known.of_fact(e, a)
            if found is not None:
                return found
        return super()._tree_facts(e, a, alone=alone)

    def _tree_fact(self, e: int, a: int, v: Any, key: Any) -> tuple[int, Any, int] | None:
        if self.known is not None:
            found = self.known.of_datom(e, a, key)
            if found is not None:
                return found[0] if found else None
        return super()._tree_fact(e, a, v, key)

    def _tree_holders(self, a: int, v: Any, key: Any, *, alone: bool) -> list[int]:
        if self.known is not None:
            found = self.known.of_value(a, key)
            if found is not None:
                return found
        return super()._tree_holders(a, v, key, alone=alone)

    def attributes_of(self, e: int) -> list[int]:
        """Return the attributes of which an entity has values, or had, ascending."""
        found = None if self.known is None else self.known.attributes_of(e)
        if found is None:
            return list(dict.fromkeys(self.entity(e).a.tolist()))
        mem = self.mem
        rows = mem.of_entity(e)
        return sorted({*found, *(mem.a[r] for r in rows)}) if rows else found

    def attr(self, a: int) -> Rows:
        """Return all current datoms of an attribute; never cached, since it changes."""
        mem = self.mem
        return self.trees.present(a, mem, len(mem), len(mem.e), keep=False)

    def count_attr(self, a: int) -> int:
        """Count the current datoms of an attribute."""
        self._attrs.clear()
        return super().count_attr(a)

    # -- writing -------------------------------------------------------------------------------

    def find(self, e: int, a: int, v: Any) -> tuple[int, Any, int] | None:
        """Return the (row, value, t) of a current datom, or None."""
        return self.fact(e, a, v, typed_key(v))

    def add(self, e: int, attr: Attr, v: Any, t: int | None = None) -> bool:
        """Assert a canonical value; a value of cardinality one replaces the one before.

        Returns False where the datom is there already (it keeps its transaction). Uniqueness is
        the caller's to check.
        """
        key = typed_key(v)
        a = attr.id
        if attr.many:
            if self.fact(e, a, v, key) is not None:
                return False
        else:
            for fact in self.facts(e, a):
                if typed_key(fact[1]) == key:
                    return False
                self._retract(e, attr, fact)
        if t is not None and t < self.tx:
            self.mem.note_early(a)
        self.mem.assert_row(e, a, v, key, self.tx if t is None else t, attr.indexed)
        return True

    def add_new(self, e: int, attr: Attr, v: Any) -> None:
        """Assert a datom of which the caller knows that (e, a) has no value, or not this one."""
        self.mem.assert_row(e, attr.id, v, typed_key(v), self.tx, attr.indexed)

    def redo(self, e: int, attr: Attr, v: Any, t: int, added: bool) -> None:
        """Do again what ``logged`` says was done, without a look at the trees."""
        mem, key = self.mem, typed_key(v)
        if added:
            if t < self.tx:
                mem.note_early(attr.id)
            mem.assert_row(e, attr.id, v, key, t, attr.indexed)
            return
        for row in mem.live(mem.of_fact(e, attr.id), len(mem), len(mem.e)):
            if mem.key[row] == key:
                mem.retract_row(row, self.tx)
                return
        mem.retract_base(e, attr.id, v, key, t, self.tx, attr.indexed)

    def retract(self, e: int, attr: Attr, v: Any) -> bool:
        """Retract a datom; returns False where it is not there."""
        fact = self.find(e, attr.id, v)
        if fact is None:
            return False
        self._retract(e, attr, fact)
        return True

    def _retract(self, e: int, attr: Attr, fact: tuple[int, Any, int]) -> None:
        row, v, t = fact
        if row >= 0:
            self.mem.retract_row(row, self.tx)
        else:
            self.mem.retract_base(e, attr.id, v, typed_key(v), t, self.tx, attr.indexed)

    def retract_all(self, e: int, attr: Attr) -> int:
        """Retract every value of (e, a) and return how many there were."""
        facts = self.facts(e, attr.id)
        for fact in facts:
            self._retract(e, attr, fact)
        return len(facts)

    def set_schema(self, schema: Schema) -> None:
        """Take over a changed schema; attributes that became indexed are entered in AVET."""
        old = self.schema
        self.schema = schema
        for before, after in zip(old.attrs, schema.attrs, strict=False):
            if after.indexed and not before.indexed:
                self.trees = self.trees.backfill(after.id)
                self.mem.index_values(after.id)

    # -- the end -------------------------------------------------------------------------------

    def frozen(self) -> Snapshot:
        """Return the state so far as a value (for a transaction function)."""
        self.shared = True
        return self._snapshot()

    def _snapshot(self) -> Snapshot:
        mem = self.mem
        return Snapshot(
            self.schema, self.trees, mem, len(mem), len(mem.e), self.max_eid, self.max_tx
        )

    def commit(self) -> Snapshot:
        """Return the finished state."""
        after = self._snapshot()
        self.mem.release()
        return after

    def abort(self) -> Snapshot:
        """Take everything back and return the state to go on from (equal to the base)."""
        if not self.shared:
            self.mem.undo_to(self.mark)
            self.mem.release()
            return self.base
        self.mem.release()
        mem: Memtable = self.mem.fork(self.mark)
        mem.owner = self._owner
        base = self.base
        return Snapshot(
            base.schema, base.trees, mem, len(mem), len(mem.e), base.max_eid, base.max_tx
        )

    def ready(self, attributes: Iterable[int]) -> Trees:
        """Return trees that hold all that there is of attributes, for :meth:`merge_bulk` too."""
        mem = self.mem
        if not mem.by_a.keys().isdisjoint(attributes):
            ids = (self.max_eid, self.max_tx)
            self._absorbed = self.trees.absorb(mem, len(mem), len(mem.e), self.schema, *ids)
        return self._absorbed or self.trees

    def merge_bulk(
        self, adds: Mapping[int, Rows], removes: Mapping[int, Rows], max_eid: int
    ) -> Trees:
        """Return trees with many facts merged in of attributes that were made ready.

        The memtable is absorbed on the way. Nothing of the draft changes: give the trees to
        ``commit_bulk``.
        """
        schema, mem, tx = self.schema, self.mem, self.tx
        adds, removes = dict(adds), dict(removes)
        ended = {
            a: Rows(rows.e, rows.a, rows.v, rows.t, np.full(len(rows), tx, np.int64))
            for a, rows in removes.items()
            if self.keep_history and not schema.attrs[a].no_history
        }
        trees = self.trees
        if self._absorbed is not None:
            # With what was said of the transaction since.
            trees = trees.absorb(mem, len(mem), len(mem.e), schema, self.max_eid, self.max_tx)
        else:
            more = trees.changes(mem, len(mem), len(mem.e), schema)
            for runs, own in zip((adds, removes, ended), more, strict=True):
                runs.update(own)
        return trees.merge(adds, removes, ended, schema, max_eid, tx, early=mem.early)

    def commit_bulk(self, trees: Trees) -> Snapshot:
        """Return the finished state over the trees that :meth:`merge_bulk` made."""
        self.mem.release()
        mem = Memtable()
        mem.owner = self._owner
        return Snapshot(self.schema, trees, mem, 0, 0, self.max_eid, self.max_tx)
