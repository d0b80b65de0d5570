"""Views: a snapshot as it is, as it was, what is new since, or with its whole history.

A view is what queries, pull and datom access read. The plain view adds nothing to the snapshot;
a :class:`PastView` combines three settings that stack: live at ``as_of`` (inclusive), asserted
after ``since`` (exclusive), and ``history`` (every assertion and retraction).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NoReturn

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, TransactionError, shown
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import EMPTY_I64, I64, Rows
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.runs import distinct, position_of, sorted_rows
from datahike_async.snapshot.columns import FOREVER, Window, windowed, within
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.values.order import sort_key
from datahike_async.values.schema import IDENT, TX_INSTANT, Schema
from datahike_async.values.spelling import did_you_mean
from datahike_async.values.types import distinct_values

__all__ = ["PastView", "TimePoint", "View"]

TimePoint = int | datetime

_READS: Final = (
    "attr",
    "values",
    "entity",
    "of_entities",
    "attr_range",
    "slice",
    "count_attr",
    "count_slice",
    "attr_ids",
)
"""What a view reads by, bound to each of them."""


class View:
    """The plain view: the snapshot as it is."""

    __slots__ = (
        "__weakref__",
        "attr",
        "attr_ids",
        "attr_range",
        "count_attr",
        "count_slice",
        "entity",
        "of_entities",
        "slice",
        "snapshot",
        "values",
    )

    history = False
    past = False

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        # Bound once: the hot paths go to the snapshot without another call.
        self.attr = snapshot.attr
        self.values = snapshot.values
        self.entity = snapshot.entity
        self.of_entities = snapshot.of_entities
        self.attr_range = snapshot.attr_range
        self.slice = snapshot.slice
        self.count_attr = snapshot.count_attr
        self.count_slice = snapshot.count_slice
        self.attr_ids = snapshot.attr_ids

    def _bind(self) -> None:
        """Have what reads the snapshot in the plain view read through this one."""
        for name in _READS:
            setattr(self, name, getattr(self, f"_{name}"))

    @property
    def looks_back(self) -> bool:
        """Whether what was retracted may be seen."""
        return False

    @property
    def is_filtered(self) -> bool:
        """Whether somebody is asked what may be seen."""
        return False

    @property
    def schema(self) -> Schema:
        """The schema of the snapshot (also of views of the past)."""
        return self.snapshot.schema

    @property
    def max_tx(self) -> int:
        """The newest transaction of the snapshot."""
        return self.snapshot.max_tx

    @property
    def settings(self) -> tuple[Any, ...]:
        """What tells this view from another of the same snapshot."""
        return ()

    def lookup(self, a: int, v: Any) -> list[int]:
        """Return the entities with value ``v`` of attribute ``a``, ascending."""
        return self.snapshot.lookup(a, v)

    def cached(self, a: int) -> Rows | None:
        """Return all of an attribute if it has been put together already."""
        snapshot = self.snapshot
        found = snapshot._attrs.get(a)
        # Where no newer datom is in the memtable, the trees' columns are all there is.
        if found is None and a not in snapshot.mem.by_a:
            return snapshot.trees.cached(a)
        return found

    def rows_of(self, e: int, a: int) -> Rows:
        """Return the datoms of (e, a)."""
        return Rows.concat(self.slice(Order.EAVT, (e, a), (e, a)))

    def as_of(self, point: TimePoint) -> View:
        """Return the view of what was live at ``point``, a transaction or an instant."""
        return PastView(self.snapshot, as_of=(point,))

    def since(self, point: TimePoint) -> View:
        """Return the view of what was asserted after ``point`` and is live."""
        return PastView(self.snapshot, since=(point,))

    def with_history(self) -> View:
        """Return the view of every assertion and retraction."""
        return PastView(self.snapshot, history=True)

    # -- entity identifiers --------------------------------------------------------------------

    def entid(self, ref: Any) -> int | None:
        """Return the entity id that ``ref`` names: an id, an ident, or a lookup ref.

        None where nothing is found. Raises QueryError ``:lookup-ref/syntax``,
        ``:lookup-ref/unique`` or ``:entity-id/syntax`` where it is none of these.
        """
        if type(ref) is int:
            return ref if -EMAX <= ref <= EMAX else _no_entity(ref)
        if isinstance(ref, Keyword):
            return self._ident(ref)
        if isinstance(ref, str) and len(ref) > 1 and ref[0] == ":":
            return self._ident(Keyword(ref))
        if isinstance(ref, (list, tuple)):
            return self._lookup_ref(ref)
        if isinstance(ref, np.integer):
            return self.entid(int(ref))
        raise QueryError(
            f"{shown(ref)} names no entity; expected an entity id, an ident such as :color/red, "
            "or a lookup ref such as [:person/email value].",
            error=":entity-id/syntax",
            entity_id=ref,
        )

    def entid_strict(self, ref: Any) -> int:
        """Return the entity id that ``ref`` names; raise ``:entity-id/missing`` for none."""
        found = self.entid(ref)
        if found is None:
            raise QueryError(
                f"Nothing found for entity id {shown(ref)}.",
                error=":entity-id/missing",
                entity_id=ref,
            )
        return found

    def _ident(self, ident: Keyword) -> int | None:
        found = self.schema.idents.get(ident)
        if found is None or not self.past:
            return found
        return found if self.values(found, self.schema.by_key[IDENT].id) else None

    def _lookup_ref(self, ref: Sequence[Any]) -> int | None:
        if len(ref) != 2:
            raise QueryError(
                f"Lookup ref {shown(ref)} should have two elements: a unique attribute and a "
                "value.",
                error=":lookup-ref/syntax",
                entity_id=ref,
            )
        key, value = ref
        attr = self.schema.by_key.get(key) if isinstance(key, (str, Keyword)) else None
        if attr is None or attr.unique is None:
            raise QueryError(
                f"Lookup ref {shown(ref)} needs an attribute that is marked :db/unique; "
                f"{shown(key)} " + ("is not." if attr is not None else _unknown(self.schema, key)),
                error=":lookup-ref/unique",
                entity_id=ref,
            )
        if value is None:
            return None
        if attr.is_ref and type(value) is not int:
            value = self.entid(value)
            if value is None:
                return None
        try:
            value = attr.coerce(value, attr.ident)
        except TransactionError as error:
            raise QueryError(
                f"Lookup ref {shown(ref)} can name nothing. {error}",
                error=":lookup-ref/syntax",
                entity_id=ref,
            ) from error
        found = self.lookup(attr.id, value)
        return found[0] if found else None


def _unknown(schema: Schema, key: Any) -> str:
    if not isinstance(key, (str, Keyword)):
        return "is no attribute."
    name = key if isinstance(key, str) and key.startswith(":") else repr(Keyword(key or "?"))
    hint = f" Did you mean {name}?" if name in schema.by_key else ""
    hint = hint or did_you_mean(schema, name, lambda attr: attr.unique)
    return f"is not in the schema.{hint}"


def _no_entity(eid: int) -> NoReturn:
    raise QueryError(
        f"{shown(eid)} is beyond the highest entity id, {EMAX}.",
        error=":entity-id/syntax",
        entity_id=eid,
    )


class PastView(View):
    """A view of the past. Points in time stack: the earliest ``as_of``, the latest ``since``."""

    __slots__ = ("_as_of", "_bounds", "_columns", "_since", "history")

    past = True

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        history: bool = False,
        as_of: tuple[TimePoint, ...] = (),
        since: tuple[TimePoint, ...] = (),
    ) -> None:
        self.snapshot = snapshot
        self.history = history
        self._as_of = as_of
        self._since = since
        self._bounds: tuple[int, int] | None = None
        self._columns: dict[int, Rows] = {}
        self._bind()

    @property
    def settings(self) -> tuple[Any, ...]:
        """What tells this view from another of the same snapshot."""
        return (self.history, self._as_of, self._since)

    def as_of(self, point: TimePoint) -> PastView:
        """Return this view cut off after ``point``."""
        return self._with(as_of=(*self._as_of, point))

    def since(self, point: TimePoint) -> PastView:
        """Return this view without what was asserted up to ``point``."""
        return self._with(since=(*self._since, point))

    def with_history(self) -> PastView:
        """Return this view with every assertion and retraction in its window."""
        return self._with(history=True)

    def _with(self, **changed: Any) -> PastView:
        settings = {"history": self.history, "as_of": self._as_of, "since": self._since}
        return PastView(self.snapshot, **{**settings, **changed})

    @property
    def looks_back(self) -> bool:
        """Whether what was retracted may be seen."""
        return self.history or bool(self._as_of)

    def bounds(self) -> tuple[int, int]:
        """Return (lo, hi): a transaction t is seen when lo < t <= hi."""
        if self._bounds is None:
            hi = min((self._tx_at(p) for p in self._as_of), default=FOREVER)
            lo = max((self._tx_at(p) for p in self._since), default=-1)
            self._bounds = (max(lo, -1), hi)
        return self._bounds

    def _tx_at(self, point: TimePoint) -> int:
        """Return the newest transaction that, like all before it, is at or before ``point``.

        Instants that were imported need not ascend: a transaction of long ago that came after
        one of today is no part of what was known long ago.
        """
        if not isinstance(point, datetime):
            return point
        instant = self.schema.by_key[TX_INSTANT].id
        later = self.snapshot.first_later(instant, point)
        newest = self.snapshot.max_tx if later is None else later - 1
        known = self.snapshot.count_slice(Order.AEVT, (instant,), (instant, newest))
        return newest if known else 0

    def _select(self, order: Order, lower: Bound, upper: Bound) -> Rows:
        lo, hi = self.bounds()
        snapshot = self.snapshot
        present = Rows.concat(snapshot.slice(order, lower, upper))
        window = Window(lo, hi)
        parts = [within(present, window)]
        if self.history or hi != FOREVER:
            for run in snapshot.intervals(order, lower, upper):
                assert run.until is not None
                asserted = Rows(run.e, run.a, run.v, run.t)
                if self.history:
                    ended = Rows(run.e, run.a, run.v, run.until, added=np.zeros(len(run), np.bool_))
                    parts += [within(asserted, window), within(ended, window)]
                else:
                    live = (run.t <= hi) & (run.until > hi) & (run.t > lo)
                    parts.append(asserted.take(live))
        past = any(p is not None and len(p) for p in parts[1:])
        found = [p for p in parts if p is not None and len(p)]
        out = Rows.concat(found)
        if len(found) > 1:
            out = sorted_rows(out, order)
        if past:
            out = distinct(out, facts=not self.history)
        if self.history and out.added is None:
            out = Rows(out.e, out.a, out.v, out.t, added=np.ones(len(out), np.bool_))
        return out

    def _slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        whole = self._select(order, lower, upper)
        if not len(whole) or order is Order.EAVT:
            return [whole] if len(whole) else []
        edges = [0, *(np.flatnonzero(np.diff(whole.a)) + 1).tolist(), len(whole)]
        return [whole.slice(i, j) for i, j in pairwise(edges)]

    def _attr(self, a: int) -> Rows:
        found = self._columns.get(a)
        if found is None:
            found = self._columns[a] = self._column(a)
        return found

    def _column(self, a: int) -> Rows:
        window = self._window(a)
        if window is None:
            return self._select(Order.AEVT, (a,), (a,))
        s = self.snapshot
        return s.trees.seen(a, window, s.mem, s.n, s.m, s.max_tx)

    def _window(self, a: int) -> Window | None:
        """Return the window; None where later transactions may change what it shows."""
        if self.schema.attrs[a].no_history or a in self.snapshot.mem.early:
            return None
        return Window(*self.bounds(), self.history)

    def cached(self, a: int) -> Rows | None:
        """Return all of an attribute if it has been put together already."""
        found = self._columns.get(a)
        known = self._bounds is not None or all(map(_is_tx, (*self._as_of, *self._since)))
        if found is None and known:
            window, s = self._window(a), self.snapshot
            if window is not None:
                found = s.trees.seen_already(a, window, s.mem, s.n, s.max_tx)
        return found

    def _attr_range(self, a: int, lower: Any = None, upper: Any = None) -> Rows:
        lo: Bound = (a,) if lower is None else (a, lower)
        hi: Bound = (a,) if upper is None else (a, upper)
        return self._select(Order.AVET, lo, hi)

    def _values(self, e: int, a: int) -> list[Any]:
        lo, hi = self.bounds()
        out = [v for _, v, t in self.snapshot.facts(e, a) if lo < t <= hi]
        if self.history:
            for v, t, until in self.snapshot.ended(e, a):
                out += [v] * ((lo < t <= hi) + (lo < until <= hi))
        elif hi != FOREVER:
            ended = self.snapshot.ended(e, a)
            out += [v for v, t, until in ended if lo < t <= hi < until]
        if len(out) < 2:
            return out
        # A value may have come and gone several times.
        return sorted(distinct_values(out), key=sort_key)

    def _entity(self, e: int) -> Rows:
        return self._select(Order.EAVT, (e,), (e,))

    def _of_entities(self, a: int, entities: I64) -> Rows:
        snapshot = self.snapshot
        window = Window(*self.bounds(), self.history)
        present = snapshot.of_entities(a, entities)
        looks_back = self.history or window.hi != FOREVER
        ended = snapshot.intervals_of(a, entities) if looks_back else []
        return windowed(present, ended, window)

    def lookup(self, a: int, v: Any) -> list[int]:
        """Return the entities with value ``v`` of attribute ``a``, ascending."""
        if self.schema.attrs[a].indexed:
            rows = self._select(Order.AVET, (a, v), (a, v))
            entities: I64 = rows.e
        else:
            rows = self._attr(a)
            entities = rows.e[position_of(rows, v)] if len(rows) else EMPTY_I64
        return uniques(entities).tolist()  # type: ignore[no-any-return]

    def _count_attr(self, a: int) -> int:
        """Return how many datoms of an attribute are seen, or a bound that costs no reading."""
        found = self._columns.get(a)
        if found is not None:
            return len(found)
        count = self.snapshot.count_attr(a)
        if self.history:
            return count + 2 * self.snapshot.rough_past(a)
        return count if self.bounds()[1] == FOREVER else count + self.snapshot.rough_past(a)

    def _count_slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> int:
        return len(self._select(order, lower, upper))

    def _attr_ids(self) -> list[int]:
        # Of some of them the window may show nothing: that is seen when they are read.
        return [a.id for a in self.schema.attrs if self._count_attr(a.id)]


def _is_tx(point: TimePoint) -> bool:
    return not isinstance(point, datetime)
