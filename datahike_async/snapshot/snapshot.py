"""Snapshot: one immutable state of a database, read by attribute id and canonical value.

A snapshot is trees plus the first ``n`` operations of a memtable. Reading takes no lock and never
waits; where a tree node is not resident, ``NodeMiss`` says which (see ``index.source``). Knows
nothing of transactions, queries or storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError, shown
from datahike_async.index.arrays import order_of
from datahike_async.index.columns import I64, INT, Column, Rows, micros
from datahike_async.index.memtable import Memtable, rows_of
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.runs import merged, position_of, sorted_rows, without
from datahike_async.snapshot.ids import EMAX, TX0
from datahike_async.snapshot.trees import Trees
from datahike_async.values.order import sort_key
from datahike_async.values.schema import VALID_FROM, VALID_TO, Schema
from datahike_async.values.types import typed_key
from datahike_async.values.windows import check_window

__all__ = ["Snapshot"]


class Snapshot:
    """One state of a database.

    ``max_eid`` and ``max_tx`` are the highest ids in use, of entities in the block of the branch.
    """

    __slots__ = (
        "__weakref__",
        "_attrs",
        "m",
        "max_eid",
        "max_tx",
        "mem",
        "n",
        "schema",
        "state",
        "trees",
    )

    def __init__(
        self,
        schema: Schema,
        trees: Trees,
        mem: Memtable,
        n: int,
        m: int,
        max_eid: int,
        max_tx: int,
        state: object | None = None,
    ) -> None:
        # Two snapshots with one token are the same state, however it lies in trees and memtable.
        self.state = state or object()
        self.schema = schema
        self.trees = trees
        self.mem = mem
        self.n = n
        self.m = m
        self.max_eid = max_eid
        self.max_tx = max_tx
        self._attrs: dict[int, Rows] = {}

    @classmethod
    def over(cls, base: Snapshot, trees: Trees) -> Snapshot:
        """Return the state of ``base`` over ``trees``, which hold all of its memtable."""
        mem = Memtable()
        mem.owner = base.mem.owner
        return Snapshot(base.schema, trees, mem, 0, 0, base.max_eid, base.max_tx, base.state)

    def in_block(self, ids: range) -> Snapshot:
        """Return the same state, where new entities get their ids of another block."""
        trees, top = self.trees.over(ids), ids.start - 1
        return Snapshot(self.schema, trees, self.mem, self.n, self.m, top, self.max_tx, self.state)

    def highest(self, ids: range) -> int:
        """Return the highest of some ids that an entity has or had, else the one before them all.

        Raises NodeMiss.
        """
        top = ids.start - 1
        for indexes in (self.trees.current, self.trees.temporal):
            if indexes is not None:
                first, last = (ids.start,), (ids.stop - 1,)
                for rows in indexes[Order.EAVT].chunks(first, last, reverse=True):
                    top = max(top, int(rows.e.max(initial=top)))
                    break
        e = np.array(self.mem.e[: self.m], np.int64)
        return max(top, int(e[(e > top) & (e < ids.stop)].max(initial=top)))

    @property
    def keep_history(self) -> bool:
        """Whether retracted datoms are kept."""
        return self.trees.keep_history

    # -- the row path: one entity, one value -------------------------------------------------

    def facts(self, e: int, a: int) -> list[tuple[int, Any, int]]:
        """Return the current (row, value, t) of (e, a); row is -1 where it lies in the trees."""
        mem = self.mem
        # Looked at on the spot: nearly all that is read is in the trees alone.
        entities = mem.by_ae.get(a)
        entry = None if entities is None else entities.get(e)
        if entry is None:
            return self._tree_facts(e, a, alone=True) if self.trees.may_have(e) else []
        rows = rows_of(entry)
        n, m, born, dead = self.n, self.m, mem.born, mem.dead
        own = [(r, mem.v[r], mem.t[r]) for r in rows if r < m and born[r] >= 0 and dead[r] >= n]
        if not self.trees.may_have(e):
            return own
        base = self._tree_facts(e, a)
        if base:
            gone = {mem.key[r] for r in rows if r < m and born[r] == -1}
            if gone:
                base = [fact for fact in base if typed_key(fact[1]) not in gone]
        return base + own if base else own

    def _tree_facts(self, e: int, a: int, *, alone: bool = False) -> list[tuple[int, Any, int]]:
        """Return what the trees have of (e, a); ``alone`` says that the memtable has nothing of it.

        Then there is one fact at most where the schema says so. Else there may have been several,
        of which the memtable takes some away.
        """
        out, eavt, bound = [], self.trees.current[Order.EAVT], (e, a)
        one = alone and not self.schema.attrs[a].many
        for rows in eavt.single(bound) if one else eavt.slice(bound, bound):
            out += [(-1, v, t) for v, t in zip(rows.v.tolist(), rows.t.tolist(), strict=True)]
        return out

    def fact(self, e: int, a: int, v: Any, key: Any) -> tuple[int, Any, int] | None:
        """Return the current (row, value, t) of one datom, or None; ``key`` is v's typed key."""
        mem = self.mem
        rows = mem.of_fact(e, a)
        gone = False
        if rows:
            m = self.m
            # By the schema: a transaction that failed may have left half an index behind.
            if len(rows) > 1 and self.schema.attrs[a].indexed and a in mem.by_av:
                # Whichever is shorter: what the entity has, or who has the value.
                others = mem.of_value(a, key)
                if len(others) < len(rows):
                    rows = [r for r in others if r < m and mem.e[r] == e]
            n, born, dead, keys = self.n, mem.born, mem.dead, mem.key
            for r in rows:
                if r < m and keys[r] == key:
                    if born[r] < 0:
                        gone = True
                    elif dead[r] >= n:
                        return (r, mem.v[r], mem.t[r])
        if gone or not self.trees.may_have(e):
            return None
        return self._tree_fact(e, a, v, key)

    def _tree_fact(self, e: int, a: int, v: Any, key: Any) -> tuple[int, Any, int] | None:
        for run in self.trees.current[Order.EAVT].slice((e, a, v), (e, a, v)):
            return (-1, run.v.value(0), run.tx(0))
        return None

    def values(self, e: int, a: int) -> list[Any]:
        """Return the current values of (e, a) in order."""
        facts = self.facts(e, a)
        if len(facts) < 2:
            return [facts[0][1]] if facts else []
        return sorted((fact[1] for fact in facts), key=sort_key)

    def lookup(self, a: int, v: Any) -> list[int]:
        """Return the entities that now have value ``v`` of attribute ``a``, ascending."""
        if not self.schema.attrs[a].indexed:
            rows = self.attr(a)
            return rows.e[position_of(rows, v)].tolist()  # type: ignore[no-any-return]
        mem = self.mem
        key = typed_key(v)
        values = mem.by_av.get(a)
        said = values is not None and key in values
        found = self._tree_holders(a, v, key, alone=not said)
        if not said:
            return found
        holders = mem.of_value(a, key)
        n, m = self.n, self.m
        if found:
            gone = {mem.e[r] for r in mem.removed(holders, m)}
            found = [e for e in found if e not in gone]
        own = [mem.e[r] for r in mem.live(holders, n, m)]
        return sorted(found + own) if found else sorted(own)

    def _tree_holders(self, a: int, v: Any, key: Any, *, alone: bool) -> list[int]:
        """Return who has a value in the trees; ``alone`` as in :meth:`_tree_facts`."""
        avet, bound = self.trees.current[Order.AVET], (a, v)
        one = alone and self.schema.attrs[a].unique is not None
        runs = avet.single(bound) if one else avet.slice(bound, bound)
        return [e for run in runs for e in run.e.tolist()]

    # -- the column path -----------------------------------------------------------------------

    def attr(self, a: int) -> Rows:
        """Return all current datoms of an attribute in AEVT order, cached."""
        found = self._attrs.get(a)
        if found is not None:
            return found
        found = self._attrs[a] = self.trees.present(a, self.mem, self.n, self.m)
        return found

    def _overlay(self, base: Rows, rows: Sequence[int], order: Order) -> Rows:
        mem = self.mem
        gone = mem.removed(rows, self.m)
        if gone:
            base = without(base, [(mem.e[r], mem.a[r], mem.key[r]) for r in gone])
        own = mem.live(rows, self.n, self.m)
        return merged(base, mem.rows(own), order) if own else base

    def attr_range(self, a: int, lower: Any = None, upper: Any = None) -> Rows:
        """Return datoms of an indexed attribute with lower <= v <= upper, in AVET order."""
        lo: Bound = (a,) if lower is None else (a, lower)
        hi: Bound = (a,) if upper is None else (a, upper)
        base = Rows.concat(self.trees.current[Order.AVET].slice(lo, hi))
        rows = self._rows_between(self.mem.of_attribute(a), lower, upper)
        return self._overlay(base, rows, Order.AVET) if rows else base

    def _rows_between(self, rows: Sequence[int], lower: Any, upper: Any) -> Sequence[int]:
        if not rows or (lower is None and upper is None):
            return rows
        lo = None if lower is None else sort_key(lower)
        hi = None if upper is None else sort_key(upper)
        out = []
        for r in rows:
            key = sort_key(self.mem.v[r])
            if (lo is None or key >= lo) and (hi is None or key <= hi):
                out.append(r)
        return out

    def entity(self, e: int) -> Rows:
        """Return all current datoms of an entity in EAVT order."""
        runs = self.trees.current[Order.EAVT].slice((e,), (e,)) if self.trees.may_have(e) else []
        base = runs[0] if len(runs) == 1 else Rows.concat(runs)
        mem = self.mem
        return self._overlay(base, mem.of_entity(e), Order.EAVT) if e in mem.by_e else base

    def of_entities(self, a: int, entities: I64) -> Rows:
        """Return the current datoms of an attribute that entities have, ordered by entity.

        ``entities`` ascend, and none comes twice.
        """
        base = self.trees.of_entities(a, entities)
        newer = self.mem.by_ae.get(a)
        if not newer:
            return base
        changed = [e for e in entities.tolist() if e in newer]
        rows = [r for e in changed for r in self.mem.of_fact(e, a)]
        return self._overlay(base, rows, Order.AEVT) if rows else base

    def all_of_entities(self, entities: I64) -> Rows:
        """Return all current datoms of entities, which ascend, and none of which comes twice."""
        eavt = self.trees.current[Order.EAVT]
        base = eavt.lookup_many([Column(INT, entities)])[0] if len(entities) else Rows.concat([])
        newer = self.mem.by_e
        rows = [r for e in entities.tolist() if e in newer for r in self.mem.of_entity(e)]
        return self._overlay(base, rows, Order.EAVT) if rows else base

    def of_values(self, a: int, values: Column) -> Rows:
        """Return the current datoms of an indexed attribute that have one of several values.

        None of ``values`` comes twice. All are looked up in one pass.
        """
        values = values.take(order_of(values.ranks()))
        attribute = Column(INT, np.full(len(values), a, np.int64))
        base = self.trees.current[Order.AVET].lookup_many([attribute, values])[0]
        newer = self.mem.by_av.get(a)
        if not newer:
            return base
        keys = [key for key in map(typed_key, values.tolist()) if key in newer]
        rows = [r for key in keys for r in self.mem.of_value(a, key)]
        return self._overlay(base, rows, Order.AVET) if rows else base

    def slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the current datoms between two bounds as runs, in order.

        In AEVT and AVET every run has one attribute.
        """
        base = self.trees.current[order].slice(lower, upper)
        return self._overlay_runs(base, order, self._in_bounds(order, lower, upper))

    def _overlay_runs(self, base: list[Rows], order: Order, rows: list[int]) -> list[Rows]:
        if not rows:
            return base
        if order is Order.EAVT:
            return [self._overlay(Rows.concat(base), rows, order)]
        by_a: dict[int, tuple[list[Rows], list[int]]] = {}
        for run in base:
            by_a.setdefault(int(run.a[0]), ([], []))[0].append(run)
        for r in rows:
            by_a.setdefault(self.mem.a[r], ([], []))[1].append(r)
        out = []
        for a in sorted(by_a):
            runs, own = by_a[a]
            run = Rows.concat(runs)
            if own:
                run = self._overlay(run, own, order)
            if len(run):
                out.append(run)
        return out

    def _in_bounds(self, order: Order, lower: Bound, upper: Bound) -> list[int]:
        mem, m = self.mem, self.m
        attrs = self.schema.attrs
        rows = self._candidates(order, lower, upper)
        lo, hi = _bound_key(order, lower), _bound_key(order, upper)
        out = []
        for r in rows:
            if r >= m or (order is Order.AVET and not attrs[mem.a[r]].indexed):
                continue
            if lo or hi:
                key = _row_key(order, mem.e[r], mem.a[r], mem.v[r])
                if (lo and key[: len(lo)] < lo) or (hi and key[: len(hi)] > hi):
                    continue
            out.append(r)
        return out

    def _candidates(self, order: Order, lower: Bound, upper: Bound) -> Sequence[int]:
        """Return rows of the memtable among which are all between two bounds."""
        mem = self.mem
        if not lower or not upper or lower[0] != upper[0]:
            return range(min(self.m, len(mem.e)))
        first = lower[0]
        pair = len(lower) > 1 and len(upper) > 1 and lower[1] == upper[1]
        if order is Order.AVET:
            if pair and first in mem.by_av and type(lower[1]) is type(upper[1]):
                return mem.of_value(first, typed_key(lower[1]))
            return mem.of_attribute(first)
        if pair:
            e, a = lower[:2] if order is Order.EAVT else (lower[1], first)
            return mem.of_fact(e, a)
        return mem.of_entity(first) if order is Order.EAVT else mem.of_attribute(first)

    def intervals(self, order: Order, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the retracted datoms between two bounds, with ``until``, as runs.

        Raises ArgumentError where the database keeps no history.
        """
        runs = list(self.trees.past()[order].slice(lower, upper))
        mem, attrs = self.mem, self.schema.attrs
        rows = mem.ended(self._in_bounds(order, lower, upper), self.n, self.m)
        rows = [r for r in rows if not attrs[mem.a[r]].no_history]
        if not rows:
            return runs
        whole = sorted_rows(Rows.concat([*runs, mem.rows(rows, intervals=True)]), order)
        if order is Order.EAVT:
            return [whole]
        edges = [0, *(np.flatnonzero(np.diff(whole.a)) + 1).tolist(), len(whole)]
        return [whole.slice(i, j) for i, j in pairwise(edges)]

    def intervals_of(self, a: int, entities: I64) -> list[Rows]:
        """Return the retracted datoms of an attribute that entities have, with ``until``, as runs.

        ``entities`` ascend, and none comes twice. Raises ArgumentError without history.
        """
        runs = [self.trees.past_of_entities(a, entities)] if len(entities) else []
        mem = self.mem
        newer = mem.by_ae.get(a)
        if newer and not self.schema.attrs[a].no_history:
            named = [r for e in entities.tolist() if e in newer for r in mem.of_fact(e, a)]
            rows = mem.ended(named, self.n, self.m)
            if rows:
                runs.append(mem.rows(rows, intervals=True))
        return [run for run in runs if len(run)]

    def first_later(self, a: int, point: datetime) -> int | None:
        """Return the first transaction that is later than ``point``, by the instants ``a``."""
        mem, n, m = self.mem, self.n, self.m
        rows = mem.of_attribute(a)
        if mem.removed(rows, m):
            # Somebody changed what an earlier one says.
            later = self.attr_range(a, point, None)
            found = later.e[later.v.data > micros(point)] if len(later) else later.e
            return int(found.min()) if len(found) else None
        first = self.trees.first_later(a, point)
        e, v = mem.e, mem.v
        for r in rows:
            if r < m and (first is None or e[r] < first) and v[r] > point and mem.dead[r] >= n:
                first = e[r]
        return first

    def ended(self, e: int, a: int) -> list[tuple[Any, int, int]]:
        """Return the (value, t, until) of the retracted datoms of (e, a).

        Raises ArgumentError where the database keeps no history.
        """
        out: list[tuple[Any, int, int]] = []
        temporal = self.trees.past()[Order.EAVT]
        if self.trees.may_have(e):
            for run in temporal.slice((e, a), (e, a)):
                assert run.until is not None
                out += zip(run.v.tolist(), run.t.tolist(), run.until.tolist(), strict=True)
        mem = self.mem
        rows = mem.of_fact(e, a)
        if rows and not self.schema.attrs[a].no_history:
            out += [(mem.v[r], mem.t[r], mem.until[r]) for r in mem.ended(rows, self.n, self.m)]
        return out

    # -- counting ------------------------------------------------------------------------------

    def count(self) -> int:
        """Return the number of current datoms."""
        mem = self.mem
        rows = list(range(min(self.m, len(mem.e))))
        own = len(mem.live(rows, self.n, self.m))
        return len(self.trees) + own - len(mem.removed(rows, self.m))

    def count_slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> int:
        """Count current datoms between two bounds without reading what lies between."""
        rows = self._in_bounds(order, lower, upper)
        mem = self.mem
        own = len(mem.live(rows, self.n, self.m)) - len(mem.removed(rows, self.m))
        return self.trees.current[order].count_slice(lower, upper) + own

    def count_attr(self, a: int) -> int:
        """Count the current datoms of an attribute."""
        cached = self._attrs.get(a)
        if cached is not None:
            return len(cached)
        rows = self.mem.of_attribute(a)
        own = len(self.mem.live(rows, self.n, self.m)) - len(self.mem.removed(rows, self.m))
        return self.trees.count_attr(a) + own

    def rough_count(self, a: int) -> int:
        """Return about how many current datoms an attribute has, reading nothing: for planning.

        Not fewer than there are, unless nodes that would tell are not resident.
        """
        return self.trees.rough_count(a) + len(self.mem.of_attribute(a))

    def rough_past(self, a: int) -> int:
        """Return about how many retracted datoms an attribute has, never less."""
        return self.trees.count_past(a) + len(self.mem.of_attribute(a))

    def cached(self, a: int) -> Rows | None:
        """Return columns of an attribute that are at hand, though the newest datoms may lack."""
        return self._attrs.get(a) or self.trees.nearly(a)

    def attr_ids(self) -> list[int]:
        """Return the ids of the attributes that have current datoms."""
        return [a.id for a in self.schema.attrs if self.count_attr(a.id)]

    def build(self, datoms: Iterable[Any]) -> Snapshot:
        """Return a state with ``datoms`` merged in: (e, attribute, value[, tx[, True]]), unordered.

        For an empty state: what is here already is not looked at. Of several values of one
        (e, a) of cardinality one the last counts. Raises TransactionError for what is no datom.
        """
        schema = self.schema
        facts: dict[Any, tuple[int, int, Any, int]] = {}
        for datom in datoms:
            try:
                e, key, v, *rest = datom
                attr = schema.by_key.get(key)
            except (TypeError, ValueError):
                _checked(datom)
                raise
            t = TX0
            if rest or attr is None or type(e) is not int or not 0 <= e <= EMAX:
                t = _checked(datom)
            if attr is None:
                if schema.flexibility == "write":
                    raise _bad_datom(datom, f"attribute {key} is not in the schema")
                schema, attr = schema.with_attr(Keyword(key))
            v = attr.coerce(v, attr.ident)
            if attr.is_ref and not 0 <= v <= EMAX:
                raise _bad_datom(datom, f"{v} is no entity id")
            identity = (e, attr.id, typed_key(v)) if attr.many else (e, attr.id)
            facts[identity] = (e, attr.id, v, t)
        by_a: dict[int, list[tuple[int, int, Any, int]]] = {}
        for fact in facts.values():
            by_a.setdefault(fact[1], []).append(fact)
        runs = {
            a: Rows(
                np.array([f[0] for f in group], np.int64),
                np.full(len(group), a, np.int32),
                Column.of([f[2] for f in group]),
                np.array([f[3] for f in group], np.int64),
            )
            for a, group in by_a.items()
        }
        ends = {f[0]: f[2] for f in by_a.get(schema.by_key[VALID_TO].id, ())}
        for e, _, since, _ in by_a.get(schema.by_key[VALID_FROM].id, ()):
            if e in ends:
                check_window(e, since, ends[e])
        max_eid = max(
            (f[0] for f in facts.values() if f[0] in self.trees.ids), default=self.max_eid
        )
        max_tx = max((f[3] for f in facts.values()), default=self.max_tx)
        trees = self.trees.merge(runs, {}, {}, schema, max_eid, max_tx)
        return Snapshot(schema, trees, Memtable(), 0, 0, max_eid, max_tx)


def _checked(datom: Any) -> int:
    """Check a datom and return its transaction; raise TransactionError saying what is wrong."""
    try:
        e, key, _, *rest = datom
    except (TypeError, ValueError):
        raise _bad_datom(datom, "it has not the three components (e, attribute, value)") from None
    if len(rest) > 2:
        raise _bad_datom(datom, "it has more than (e, attribute, value, transaction, added)")
    if type(e) is not int or not 0 <= e <= EMAX:
        raise _bad_datom(datom, f"its entity is no int from 0 to {EMAX}")
    if not isinstance(key, (Keyword, str)) or key in ("", ":"):
        raise _bad_datom(datom, "its attribute is no keyword such as :person/name")
    t = rest[0] if rest and rest[0] is not None else TX0
    # Datoms made by hand have 0 for "no transaction".
    if type(t) is not int or not (t == 0 or TX0 <= t <= EMAX):
        raise _bad_datom(datom, f"its transaction is no int from {TX0} to {EMAX}")
    if len(rest) > 1 and rest[1] is not True:
        raise _bad_datom(datom, "it is no assertion, and a database is built of those")
    return t or TX0


def _bad_datom(datom: Any, why: str) -> TransactionError:
    return TransactionError(
        f"Bad datom {shown(datom)}: {why}.", error=":transact/syntax", datom=datom
    )


def _bound_key(order: Order, bound: Bound) -> tuple[Any, ...]:
    at = 2 if order is not Order.AVET else 1
    return tuple(sort_key(x) if i == at else x for i, x in enumerate(bound))


def _row_key(order: Order, e: int, a: int, v: Any) -> tuple[Any, ...]:
    key = sort_key(v)
    if order is Order.EAVT:
        return (e, a, key)
    return (a, e, key) if order is Order.AEVT else (a, key, e)
