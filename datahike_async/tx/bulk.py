"""Large transactions carried out in columns and merged into the trees, past the memtable.

What one item after another would do is found out for all of them at once: who has each unique
value, by sorted values in one pass over AVET; what there is of entities that exist, in one over
EAVT. What depends on the order of items, and what is an error, is left to the ordinary path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import order_of, uniques
from datahike_async.index.columns import CODED, EMPTY_I64, I64, INT, OBJECT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.runs import sort_positions
from datahike_async.snapshot.ids import TX0, UsedUp
from datahike_async.snapshot.trees import Trees
from datahike_async.tx.table import Facts, Stated
from datahike_async.values.order import sort_key
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_keys

__all__ = ["LEAST", "Bulk", "Run", "carry_out", "pays"]

LEAST: Final = 1024
"""Items below which the ordinary path is as fast."""

_LEAF: Final = 512
_SPREAD: Final = 8
# Kinds whose data are equal where their values are.
_EXACT: Final = frozenset({INT, CODED})
_NONE: Final = -1


class Run(NamedTuple):
    """Facts of one attribute that were asserted or taken back; where in the items each was."""

    rows: Rows
    items: I64
    place: int
    added: bool


class Bulk:
    """What a transaction did, in columns."""

    def __init__(self, runs: list[Run], tempids: dict[Any, int], max_eid: int) -> None:
        self.runs = runs
        self.tempids = tempids
        self.max_eid = max_eid
        self._order: tuple[I64, I64] | None = None

    def __len__(self) -> int:
        return sum(len(run.rows) for run in self.runs)

    def operation(self, i: int) -> tuple[int, int, Any, bool]:
        """Return entity, attribute, value and whether it was added of one of them, by items."""
        if self._order is None:
            runs = self.runs
            items = np.concatenate([run.items for run in runs])
            counts = [len(run.rows) for run in runs]
            places = np.repeat([2 * run.place + run.added for run in runs], counts)
            which = np.repeat(np.arange(len(runs)), counts)
            within = np.concatenate([np.arange(count) for count in counts])
            order = np.lexsort((places, items))
            self._order = which[order], within[order]
        which, within = self._order
        run, j = self.runs[which[i]], int(within[i])
        rows = run.rows
        return int(rows.e[j]), int(rows.a[j]), rows.v.value(j), run.added

    def blocks(self, size: int) -> Iterator[tuple[Rows, bool]]:
        """Go through all in columns, as the log keeps them, at most ``size`` at once."""
        for run in sorted(self.runs, key=lambda run: run.added):
            for start in range(0, len(run.rows), size):
                yield run.rows.slice(start, min(start + size, len(run.rows))), run.added

    def by_attribute(self, added: bool) -> dict[int, Rows]:
        """Return what was added, or taken back, by attribute."""
        found: dict[int, list[Rows]] = {}
        for run in self.runs:
            if run.added is added and len(run.rows):
                found.setdefault(int(run.rows.a[0]), []).append(run.rows)
        return {a: Rows.concat(runs) for a, runs in found.items()}


def carry_out(trees: Trees, stated: Stated, max_eid: int, tx: int, *, often: bool) -> Bulk | None:
    """Return what the transaction ``tx`` does to ``trees``; None where items have to be one by one.

    Values and entities that lie all over an index rewrite a leaf each. Where that is much beside
    what is new, and there may be more such transactions soon (``often``), the memtable gathers them
    for a flush: None, too. Raises NodeMiss for what has to be read.
    """
    try:
        return _Load(trees, stated, max_eid, tx, often=often).bulk()
    except _OneByOne:
        return None


def pays(trees: Trees, stated: Stated, waiting: int) -> bool:
    """Whether merging into the trees at once rewrites little beside what is new.

    ``waiting`` rows of a memtable would have to be merged first. Raises NodeMiss.
    """
    most = _SPREAD * stated.size
    return waiting <= most and _touched(trees, stated, EMPTY_I64) <= most


def _touched(trees: Trees, stated: Stated, old: I64) -> int:
    """Return about how many rows lie in leaves between which values, and entities, go."""
    touched = 0
    for facts in stated.facts:
        if facts.attr.indexed:
            there = trees.count_attr(facts.attr.id)
            if there and (facts.by is not None or not _follows(trees, facts)):
                touched += min(there, _LEAF * len(facts.rows))
    if len(old):
        leaves = len(uniques(old >> 6)) + len(stated.facts) * len(uniques(old >> 9))
        touched += min(2 * len(trees), _LEAF * leaves)
    return touched


def _follows(trees: Trees, facts: Facts) -> bool:
    """Whether values come after all that an index has of their attribute."""
    a = facts.attr.id
    last = next(trees.current[Order.AVET].chunks((a,), (a,), reverse=True), None)
    if last is None:
        return True
    values = facts.values
    if values.kind == OBJECT:
        return False
    least = values.value(int(np.argmin(values.ranks())))
    return sort_key(least) > sort_key(last.v.value(0))


class _OneByOne(Exception):
    """What an item does depends on those before it, or is an error."""


class _Load:
    def __init__(self, trees: Trees, stated: Stated, max_eid: int, tx: int, *, often: bool) -> None:
        self._trees = trees
        self._stated = stated
        self._floor = max_eid
        self._tx = tx
        self._runs: list[Run] = []
        # Of each attribute whose unique values are stated: these, and the row of each.
        self._keys: dict[int, list[tuple[Column, I64]]] = {}

        # Rows that may be written again.
        self._most: float = _SPREAD * stated.size if often else np.inf

    def bulk(self) -> Bulk:
        stated = self._stated
        eids = self._eids()
        known = eids[eids >= 0]
        if len(uniques(known)) != len(known):
            raise _OneByOne
        fresh = np.flatnonzero(eids < 0)
        eids[fresh] = np.arange(self._floor + 1, self._floor + 1 + len(fresh))
        stop = self._trees.ids.stop
        if self._floor + len(fresh) >= stop:
            raise UsedUp(len(fresh))
        # Of this block: what lies above is not in use yet, but for what is stated here.
        top = max(self._floor, int(eids[eids < stop].max(initial=0)))
        old = (eids <= self._floor) | (eids >= stop)
        old[fresh] = False
        self._eids_of_rows = eids
        if _touched(self._trees, stated, eids[old]) > self._most:
            raise _OneByOne
        for facts in stated.facts:
            self._change(facts, eids[facts.rows], old[facts.rows])
        tempids = {ref: int(eids[row]) for row, ref in stated.tempids.items()}
        return Bulk(self._runs, tempids, top)

    # -- who is who ----------------------------------------------------------------------------

    def _eids(self) -> I64:
        """Return the entity of each row, -1 for a new one."""
        stated = self._stated
        eids = stated.eids.copy()
        for rows, attr, values in stated.ids:
            found = self._holders(attr, values)
            if (found < 0).any():
                raise _OneByOne
            eids[rows] = found
        owned = []
        for facts in stated.facts:
            attr = facts.attr
            if attr.unique is None:
                continue
            found = self._holders(attr, facts.values)
            self._keys.setdefault(attr.id, []).append((facts.values, facts.rows))
            owned.append((facts.rows, found))
            if attr.unique == "identity":
                own = eids[facts.rows]
                eids[facts.rows] = np.where(own < 0, found, own)
        for kept in self._keys.values():
            _check_distinct([values for values, _ in kept])
        for rows, found in owned:
            # A unique value that somebody else has is an error, for the ordinary path to tell.
            if ((found >= 0) & (found != eids[rows])).any():
                raise _OneByOne
        if (eids >= TX0).any():
            raise _OneByOne
        return eids

    def _holders(self, attr: Attr, values: Column) -> I64:
        """Return who has each of unique values, -1 for nobody."""
        out = np.full(len(values), _NONE, np.int64)
        if not self._trees.count_attr(attr.id):
            return out
        order = order_of(values.ranks())
        attribute = Column(INT, np.full(len(values), attr.id, np.int64))
        rows, stops = self._trees.current[Order.AVET].lookup_many([attribute, values.take(order)])
        counts = np.diff(stops, prepend=0)
        if (counts > 1).any():
            raise _OneByOne
        there = counts > 0
        out[order[there]] = rows.e
        return out

    def _entities(self, facts: Facts) -> Column:
        """Return the entities that values of a unique attribute stand for."""
        assert facts.by is not None
        ranks = facts.values.ranks()
        order = order_of(ranks)
        ordered = ranks[order]
        # Of equal values one is looked up.
        new = np.append(True, ordered[1:] != ordered[:-1])
        found = self._holders(facts.by, facts.values.take(order[new]))
        out = np.empty(len(order), np.int64)
        out[order] = found[np.cumsum(new) - 1]
        if (out < 0).any():
            self._stated_here(facts, out)
        if (out >= TX0).any():
            raise _OneByOne
        return Column(INT, out)

    def _stated_here(self, facts: Facts, out: I64) -> None:
        """Enter entities whose values are stated by rows before those that refer to them."""
        assert facts.by is not None
        index: dict[Any, int] = {}
        for values, rows in self._keys.get(facts.by.id, ()):
            index.update(zip(typed_keys(values.tolist()), rows.tolist(), strict=True))
        at = np.flatnonzero(out < 0)
        wanted = map(index.get, typed_keys(facts.values.take(at).tolist()))
        found = np.array([_NONE if row is None else row for row in wanted], np.int64)
        if ((found < 0) | (found >= facts.rows[at])).any():
            raise _OneByOne
        out[at] = self._eids_of_rows[found]

    # -- what changes --------------------------------------------------------------------------

    def _change(self, facts: Facts, e: I64, old: npt.NDArray[np.bool_]) -> None:
        """Note what a transaction asserts of an attribute, and what it takes back for that."""
        attr, items, values = facts.attr, facts.rows, facts.values
        if facts.by is not None:
            values = self._entities(facts)
        if attr.many:
            self._check_sets(e, values)
        keep: Any = None
        if old.any():
            at = np.flatnonzero(old)
            if attr.many:
                same = self._held(attr, e, values, at)
            else:
                same = self._replaced(facts, e, values, at)
            keep = np.ones(len(e), np.bool_)
            keep[at[same]] = False
        if keep is not None and not keep.all():
            e, items, values = e[keep], items[keep], values.take(keep)
        if len(e):
            self._note(attr, e, values, np.full(len(e), self._tx, np.int64), items, facts.place)

    def _note(
        self, attr: Attr, e: I64, v: Column, t: I64, items: I64, place: int, *, added: bool = True
    ) -> None:
        rows = Rows(e, np.full(len(e), attr.id, np.int32), v, t)
        self._runs.append(Run(rows, items, place, added))

    def _check_sets(self, e: I64, values: Column) -> None:
        """Raise where a value of an attribute with many comes twice for one entity."""
        if values.kind in _EXACT:
            order = np.lexsort((values.data, e))
            same = (np.diff(e[order]) == 0) & (np.diff(values.data[order]) == 0)
            twice = bool(same.any())
        else:
            pairs = set(zip(e.tolist(), typed_keys(values.tolist()), strict=True))
            twice = len(pairs) != len(e)
        if twice:
            raise _OneByOne

    def _held(self, attr: Attr, e: I64, values: Column, at: I64) -> npt.NDArray[np.bool_]:
        """Return which facts of an attribute with many values are there."""
        asked = Rows(e[at], np.full(len(at), attr.id, np.int32), values.take(at), EMPTY_I64)
        order = sort_positions(Rows(asked.e, asked.a, asked.v, asked.e), Order.EAVT)
        _, stops = self._trees.current[Order.EAVT].lookup_many(
            [
                Column(INT, asked.e[order]),
                Column(INT, asked.a.astype(np.int64)),
                asked.v.take(order),
            ]
        )
        out = np.empty(len(at), np.bool_)
        out[order] = np.diff(stops, prepend=0) > 0
        return out

    def _replaced(self, facts: Facts, e: I64, values: Column, at: I64) -> npt.NDArray[np.bool_]:
        """Note what gives way to another value; return which facts are there as they are."""
        attr = facts.attr
        order = np.argsort(e[at], kind="stable")
        own = at[order]
        attribute = Column(INT, np.full(len(own), attr.id, np.int64))
        rows, stops = self._trees.current[Order.EAVT].lookup_many([Column(INT, e[own]), attribute])
        counts = np.diff(stops, prepend=0)
        if (counts > 1).any():
            raise _OneByOne
        there = np.flatnonzero(counts)
        before = typed_keys(rows.v.tolist())
        after = typed_keys(values.take(own[there]).tolist())
        same = np.fromiter(map(_equal, before, after), np.bool_, len(there))
        out = np.zeros(len(at), np.bool_)
        out[order[there[same]]] = True
        if not same.all():
            if attr.unique is not None:
                # Whoever names the value before it would name nobody now.
                raise _OneByOne
            gone = rows.take(~same)
            items = facts.rows[own[there[~same]]]
            v = Column.of(gone.v.tolist())
            self._note(attr, gone.e, v, gone.t, items, facts.place, added=False)
        return out


def _equal(x: Any, y: Any) -> bool:
    return bool(x == y)


def _check_distinct(columns: Sequence[Column]) -> None:
    """Raise where a unique value is stated twice."""
    for column in columns:
        if column.kind in _EXACT:
            data = column.data
            twice = len(uniques(data)) != len(data)
        else:
            keys = typed_keys(column.tolist())
            twice = len(set(keys)) != len(keys)
        if twice:
            raise _OneByOne
    if len(columns) > 1:
        every = [key for column in columns for key in typed_keys(column.tolist())]
        if len(set(every)) != len(every):
            raise _OneByOne
