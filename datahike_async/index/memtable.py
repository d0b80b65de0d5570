"""The memtable: an append-only log of datoms that many snapshots read while one writer appends.

Why it exists: a transaction of five datoms must cost microseconds, and every ``db_after`` must be a
value. So transactions append here, and only now and then is the memtable merged into the
copy-on-write trees. A snapshot is a pair (memtable, n): it sees what the first ``n`` operations
say. Operations only append, and what they change in older rows (``dead``) is a number not below
``n`` for every earlier snapshot, so readers need no lock, on whatever thread they are.

One owner may append at the tip, and one writer at a time (:meth:`claim`); anyone else, and anyone
whose ``n`` is not the tip, forks first (:meth:`fork`).

Rows are of two kinds. *Own* rows were asserted here (``born`` is the operation that did it). *Base*
rows repeat a datom of the trees that was retracted here; ``born`` is -1. ``dead`` is the operation
that retracted the row, or ``ALIVE``; ``until`` is the transaction that did.

What lives here for long are integers, and next to no lists: the garbage collector looks into every
container that lives, and a list a row would make it stop the event loop for as long as a million
takes. So an index holds the rows of a key as one integer as long as they stand side by side, which
the rows of an entity or of a value nearly always do (``_span``), and else as a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.columns import I64, Column, Rows

__all__ = ["ALIVE", "SPAN", "STOP", "Memtable", "Rest", "rows_of"]

ALIVE: Final = 2**62


SPAN: Final = 32
STOP: Final = 2**SPAN - 1

# The rows under a key: `first << 32 | stop`, or a list.
Entry = int | list[int]
_Mask = npt.NDArray[np.bool_]
_Objects = npt.NDArray[np.object_]


def _enter(index: dict[Any, Entry], key: Any, row: int) -> None:
    """Add the newest row to those under ``key``."""
    found = index.get(key)
    if found is None:
        index[key] = row << SPAN | row + 1
    elif not isinstance(found, int):
        found.append(row)
    elif found & STOP == row:
        index[key] = found + 1
    else:
        index[key] = [*rows_of(found), row]


def _enter_spans(
    index: dict[int, Entry], keys: I64, rows: I64, starts: I64, stops: I64 | None = None
) -> None:
    """Add new rows from each of ``starts`` to its stop, or to the next, to those under its key."""
    if stops is None:
        stops = np.append(starts[1:], len(rows))
    named = keys[starts].tolist()
    first = rows[starts]
    last = first + (stops - starts)
    if index.keys().isdisjoint(named) and len(set(named)) == len(named):
        index.update(zip(named, (first << SPAN | last).tolist(), strict=True))
        return
    for key, start, stop in zip(named, first.tolist(), last.tolist(), strict=True):
        for row in range(start, stop):
            _enter(index, key, row)


def _leave(index: dict[Any, Entry], key: Any, row: int) -> None:
    """Take the newest row, if it is under ``key``, away again."""
    found = index.get(key)
    if found is None:
        return
    if not isinstance(found, int):
        if found and found[-1] == row:
            found.pop()
            if not found:
                del index[key]
    elif found & STOP == row + 1:
        if found >> SPAN == row:
            del index[key]
        else:
            index[key] = found - 1


def rows_of(found: Entry | None) -> Sequence[int]:
    """Return the rows that an entry of an index stands for."""
    if found is None:
        return ()
    return range(found >> SPAN, found & STOP) if isinstance(found, int) else found


class Memtable:
    """An append-only MVCC log with hash indexes. See the module for who may call what."""

    __slots__ = (
        "__weakref__",
        "_first",
        "_turn",
        "a",
        "born",
        "by_a",
        "by_ae",
        "by_av",
        "by_e",
        "dead",
        "e",
        "early",
        "key",
        "ops",
        "owner",
        "repeats",
        "t",
        "until",
        "v",
    )

    def __init__(self) -> None:
        self.e: list[int] = []
        self.a: list[int] = []
        self.v: list[Any] = []
        self.key: list[Any] = []
        self.t: list[int] = []
        self.born: list[int] = []
        self.dead: list[int] = []
        self.until: list[int] = []
        # operation k: the row it asserted, or ~row of the row it retracted
        self.ops: list[int] = []
        # By attribute, then entity: a dictionary that grows past a million stops everybody.
        self.by_ae: dict[int, dict[int, Entry]] = {}
        self.by_e: dict[int, Entry] = {}
        self.by_a: dict[int, list[int]] = {}
        self.by_av: dict[int, dict[Any, Entry]] = {}
        # Attributes that were given a datom of an earlier transaction than the one that said so.
        self.early: set[int] = set()
        # Retracted rows that say the same as an earlier one, to both of its transactions: what one
        # transaction asserts and retracts several times has one interval. And by what they say,
        # the rows that came first, as far as others may repeat them.
        self.repeats: set[int] = set()
        self._first: dict[tuple[int, int, Any, int, int], int] = {}
        # Only this object may append to the shared log; None: whoever stands at the tip.
        self.owner: object | None = None
        # Whoever pops it may append. Threads may share a memtable, and popping is atomic.
        self._turn = [None]

    def __len__(self) -> int:
        """Return the number of operations: the ``n`` of a snapshot at the tip."""
        return len(self.ops)

    # -- writing, at the tip ---------------------------------------------------------------

    def claim(self, n: int, owner: object | None) -> bool:
        """Take the right to append at ``n``, to be given back by :meth:`release`.

        False where ``owner`` may not, where ``n`` is not the tip, and while another one has it.
        """
        if self.owner is not owner or len(self.ops) != n:
            return False
        try:
            self._turn.pop()
        except IndexError:
            return False
        if len(self.ops) != n:
            # A whole transaction of another thread went by between the two lines.
            self._turn.append(None)
            return False
        return True

    def release(self) -> None:
        """Give back the right to append; the tip is what it is to stay."""
        self._turn.append(None)

    def assert_row(self, e: int, a: int, v: Any, key: Any, t: int, indexed: bool) -> int:
        """Append the assertion of a datom that is not live, and return its row."""
        row = len(self.e)
        self.born.append(len(self.ops))
        self.dead.append(ALIVE)
        self.until.append(0)
        self._add_row(row, e, a, v, key, t, indexed)
        self.ops.append(row)
        return row

    def retract_row(self, row: int, tx: int) -> None:
        """Append the retraction of a live row of this memtable."""
        self.until[row] = tx
        self.dead[row] = len(self.ops)
        self.ops.append(~row)
        if self.t[row] == tx or self.a[row] in self.early:
            self._note_end(row)

    def note_early(self, a: int) -> None:
        """Note that an attribute is given a datom of an earlier transaction than says so."""
        if a not in self.early:
            self.early.add(a)
            for row in self.by_a.get(a, ()):
                if self.dead[row] != ALIVE:
                    self._note_end(row)

    def _note_end(self, row: int) -> None:
        if self._first.setdefault(self._said(row), row) != row:
            self.repeats.add(row)

    def _said(self, row: int) -> tuple[int, int, Any, int, int]:
        return self.e[row], self.a[row], self.key[row], self.t[row], self.until[row]

    def retract_base(self, e: int, a: int, v: Any, key: Any, t: int, tx: int, indexed: bool) -> int:
        """Append the retraction of a datom that lives in the trees, and return its row."""
        row = len(self.e)
        self.born.append(-1)
        self.dead.append(len(self.ops))
        self.until.append(tx)
        self._add_row(row, e, a, v, key, t, indexed)
        self.ops.append(~row)
        if a in self.early:
            self._note_end(row)
        return row

    def _add_row(self, row: int, e: int, a: int, v: Any, key: Any, t: int, indexed: bool) -> None:
        self.e.append(e)
        self.a.append(a)
        self.v.append(v)
        self.key.append(key)
        self.t.append(t)
        # The common cases of `_enter` on the spot: this is what a write consists of.
        found = self.by_e.get(e)
        if found is None:
            self.by_e[e] = row << SPAN | row + 1
        elif isinstance(found, int) and found & STOP == row:
            self.by_e[e] = found + 1
        else:
            _enter(self.by_e, e, row)
        rows = self.by_a.get(a)
        if rows is None:
            self.by_a[a] = [row]
            entities = self.by_ae.setdefault(a, {})
        else:
            rows.append(row)
            entities = self.by_ae[a]
        if e in entities:
            _enter(entities, e, row)
        else:
            entities[e] = row << SPAN | row + 1
        if indexed:
            values = self.by_av.get(a)
            if values is None:
                values = self.by_av[a] = {}
            if key in values:
                _enter(values, key, row)
            else:
                values[key] = row << SPAN | row + 1

    def change_many(
        self,
        e: I64,
        a: npt.NDArray[np.int32],
        old: tuple[I64, _Objects, _Objects, I64],
        new: tuple[_Objects, _Objects],
        retracted: _Mask,
        asserted: _Mask,
        tx: int,
        attrs: Sequence[Any],
    ) -> None:
        """Append, for one fact after another, the retraction of its old value and its new value.

        ``old`` are row (-1: in the trees), value, key and t, ``new`` value and key. No two facts
        are of one datom, nor of one entity and attribute that has one value.
        """
        old_row, old_v, old_key, old_t = old
        # Fact i has operations 2i, which retracts, and 2i + 1, which asserts; and rows likewise.
        done = np.column_stack((retracted, asserted)).ravel()
        made = np.column_stack((retracted & (old_row < 0), asserted)).ravel()
        operation = np.cumsum(done) - 1 + len(self.ops)
        row = np.cumsum(made) - 1 + len(self.e)
        slots = np.flatnonzero(made)
        fact, asserts = slots >> 1, (slots & 1).astype(np.bool_)
        mine = np.flatnonzero(retracted & (old_row >= 0))
        for r, k in zip(old_row[mine].tolist(), operation[2 * mine].tolist(), strict=True):
            self.until[r] = tx
            self.dead[r] = k
            if self.t[r] == tx:
                self._note_end(r)
        self.born += np.where(asserts, operation[slots], -1).tolist()
        self.dead += np.where(asserts, ALIVE, operation[slots]).tolist()
        self.until += np.where(asserts, 0, tx).tolist()
        e, a = e[fact], a[fact]
        keys = np.where(asserts, new[1][fact], old_key[fact])
        self.e += e.tolist()
        self.a += a.tolist()
        self.v += np.where(asserts, new[0][fact], old_v[fact]).tolist()
        self.key += keys.tolist()
        self.t += np.where(asserts, tx, old_t[fact]).tolist()
        self._index_many(row[slots], fact, e, a, keys, attrs)
        ops = np.repeat(~old_row, 2)
        ops[slots] = np.where(asserts, row[slots], ~row[slots])
        self.ops += ops[done].tolist()

    def _index_many(
        self,
        rows: I64,
        fact: I64,
        e: I64,
        a: npt.NDArray[np.int32],
        keys: _Objects,
        attrs: Sequence[Any],
    ) -> None:
        """Enter new rows in the indexes; those of a fact stand side by side."""
        if not len(rows):
            return
        _enter_spans(self.by_e, e, rows, np.flatnonzero(np.diff(e, prepend=-1)))
        starts = np.flatnonzero(np.diff(fact, prepend=-1))
        of_start = a[starts]
        for b in np.unique(a).tolist():
            own = a == b
            self.by_a.setdefault(b, []).extend(rows[own].tolist())
            entities = self.by_ae.setdefault(b, {})
            first = starts[of_start == b]
            _enter_spans(entities, e, rows, first, np.append(starts, len(rows))[1:][of_start == b])
            if attrs[b].indexed:
                values = self.by_av.setdefault(b, {})
                for row, key in zip(rows[own].tolist(), keys[own].tolist(), strict=True):
                    if key in values:
                        _enter(values, key, row)
                    else:
                        values[key] = row << SPAN | row + 1

    def undo_to(self, n: int) -> None:
        """Take back every operation from ``n`` on, as if it had never been.

        Only for operations that no snapshot has seen.
        """
        while len(self.ops) > n:
            op = self.ops.pop()
            if op < 0 and self._first:
                self.repeats.discard(~op)
                if self._first.get(self._said(~op)) == ~op:
                    del self._first[self._said(~op)]
            if op >= 0:
                self._pop_row(op)
            elif self.born[~op] == -1:
                self._pop_row(~op)
            else:
                self.dead[~op] = ALIVE
                self.until[~op] = 0

    def _pop_row(self, row: int) -> None:
        assert row == len(self.e) - 1, "rows are undone in the reverse of their order"
        e, a, key = self.e.pop(), self.a.pop(), self.key.pop()
        self.v.pop()
        self.t.pop()
        self.born.pop()
        self.dead.pop()
        self.until.pop()
        _leave(self.by_ae[a], e, row)
        _leave(self.by_e, e, row)
        rows = self.by_a[a]
        rows.pop()
        if not rows:
            del self.by_a[a]
        values = self.by_av.get(a)
        if values is not None:
            _leave(values, key, row)

    def index_values(self, a: int) -> None:
        """Enter the rows of an attribute that has just become indexed."""
        values: dict[Any, Entry] = {}
        for row in self.by_a.get(a, ()):
            _enter(values, self.key[row], row)
        self.by_av[a] = values

    def fork(self, n: int) -> Memtable:
        """Return a memtable of the first ``n`` operations that shares nothing with this one."""
        return Rest(self, 0, rebase=False).until(n)

    def rest(self, n: int) -> Rest:
        """Return what makes a memtable of the operations from ``n`` on: trees hold the others."""
        return Rest(self, n, rebase=True)

    def of_fact(self, e: int, a: int) -> Sequence[int]:
        """Return the rows of an entity and an attribute."""
        entities = self.by_ae.get(a)
        return () if entities is None else rows_of(entities.get(e))

    def of_entity(self, e: int) -> Sequence[int]:
        """Return the rows of an entity."""
        return rows_of(self.by_e.get(e))

    def of_attribute(self, a: int) -> Sequence[int]:
        """Return the rows of an attribute."""
        return self.by_a.get(a, ())

    def of_value(self, a: int, key: Any) -> Sequence[int]:
        """Return the rows of a value of an attribute that is indexed."""
        values = self.by_av.get(a)
        return () if values is None else rows_of(values.get(key))

    # -- reading, at (n, m): n operations, m rows -------------------------------------------
    # Rows from m on are looked at by nobody but the writer: it may be taking them back.

    def live(self, rows: Iterable[int], n: int, m: int) -> list[int]:
        """Return those of ``rows`` that are own rows and live at ``n``."""
        born, dead = self.born, self.dead
        return [r for r in rows if r < m and born[r] >= 0 and dead[r] >= n]

    def removed(self, rows: Iterable[int], m: int) -> list[int]:
        """Return those of ``rows`` that say: this datom of the trees is retracted."""
        born = self.born
        return [r for r in rows if r < m and born[r] == -1]

    def ended(self, rows: Iterable[int], n: int, m: int) -> list[int]:
        """Return those of ``rows`` that were retracted before ``n``: intervals of history."""
        dead, repeats = self.dead, self.repeats
        out = [r for r in rows if r < m and dead[r] < n]
        return [r for r in out if r not in repeats] if repeats else out

    def rows(self, positions: Sequence[int], *, intervals: bool = False) -> Rows:
        """Return rows as columns, in the order given; with ``intervals`` they have ``until``."""
        count = len(positions)
        e, a, v, t, until = self.e, self.a, self.v, self.t, self.until
        return Rows(
            np.fromiter((e[r] for r in positions), np.int64, count),
            np.fromiter((a[r] for r in positions), np.int32, count),
            Column.of([v[r] for r in positions]),
            np.fromiter((t[r] for r in positions), np.int64, count),
            np.fromiter((until[r] for r in positions), np.int64, count) if intervals else None,
        )


class Rest:
    """A memtable of operations of another one, made while more of them come.

    What is durable stays as it is, so a worker thread may go on with it beside the writer.
    """

    def __init__(self, mem: Memtable, start: int, *, rebase: bool) -> None:
        self.mem: Final = mem
        self.stop = start
        """The operation of ``mem`` up to which they are in."""
        self._rebase = rebase
        self._made = Memtable()
        self._moved: dict[int, int] = {}

    def until(self, n: int) -> Memtable:
        """Take in the operations up to ``n``, and return the memtable."""
        mem, out, moved = self.mem, self._made, self._moved
        # Copies, made in one step: the writer goes on.
        for a in mem.early.copy():
            out.note_early(a)
        for op in mem.ops[self.stop : n]:
            row = op if op >= 0 else ~op
            e, a, v, key, t = mem.e[row], mem.a[row], mem.v[row], mem.key[row], mem.t[row]
            indexed = a in mem.by_av
            if op >= 0:
                moved[row] = out.assert_row(e, a, v, key, t, indexed)
            elif row in moved:
                out.retract_row(moved[row], mem.until[row])
            else:
                assert self._rebase or mem.born[row] == -1
                out.retract_base(e, a, v, key, t, mem.until[row], indexed)
        out.early = {a for a in mem.early.copy() if a in out.by_a}
        self.stop = n
        return out
