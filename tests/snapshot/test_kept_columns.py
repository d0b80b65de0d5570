"""Columns of whole attributes are made of those before, and are what a plain model says."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import datahike_async as d
from datahike_async.index import dictionary, objects, runs, splice
from datahike_async.index.arrays import Narrow, repeated
from datahike_async.index.columns import Column, Rows
from datahike_async.index.dictionary import Dictionary
from datahike_async.snapshot import columns as kept_columns
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.ids import EMAX, TX0
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.snapshot.views import View
from datahike_async.values.order import sort_key
from datahike_async.values.schema import TX_INSTANT

SCHEMA: dict[str, dict[str, Any]] = {
    ":one": {},
    ":n": {":db/index": True},
    ":tag": {":db/cardinality": ":db.cardinality/many"},
    ":gone": {":db/noHistory": True},
    ":any": {":db/cardinality": ":db.cardinality/many"},
}
LEAF = {":branching-factor": 8}


@dataclass(frozen=True)
class State:
    """A snapshot, and what a plain model says of it: live facts, and intervals that have ended."""

    snapshot: Snapshot
    live: dict[tuple[int, str, Any], int]
    ended: tuple[tuple[int, str, Any, int, int], ...] = ()
    before: State | None = None


def fresh(**options: Any) -> Snapshot:
    return d.empty_db(SCHEMA, keep_history=True, index_config=LEAF, **options).snapshot


def value_of(rng: random.Random, key: str) -> Any:
    if key == ":n":
        return rng.randrange(6)
    if key == ":any" and rng.random() < 0.4:
        return rng.choice([rng.randrange(2, 6), 1.5, True])
    return f"v{rng.randrange(12)}"


def written(rng: random.Random, state: State, entities: int) -> State:
    """Return a state after a transaction of some additions and retractions."""
    base = state.snapshot
    draft = Draft(base, base.max_tx + 1, base.mem.owner)
    live, ended = dict(state.live), list(state.ended)
    # As every transaction of a database with history does.
    draft.add_new(draft.tx, base.schema.by_key[TX_INSTANT], datetime.fromtimestamp(draft.tx, UTC))

    def end(fact: tuple[int, str, Any]) -> None:
        t = live.pop(fact)
        if ":db/noHistory" not in SCHEMA[fact[1]]:
            ended.append((*fact, t, draft.tx))

    for _ in range(rng.choice([0, 1, 1, 2, 5, 12])):
        e, key = rng.randrange(1, entities), rng.choice([*SCHEMA])
        attr = base.schema.by_key[key]
        mine = [fact for fact in live if fact[:2] == (e, key)]
        if mine and rng.random() < 0.4:
            fact = rng.choice(mine)
            assert draft.retract(e, attr, fact[2])
            end(fact)
            continue
        v = value_of(rng, key)
        t = rng.randrange(draft.tx - 3, draft.tx + 1) if rng.random() < 0.03 else None
        added = draft.add(e, attr, v, t)
        same = [fact for fact in mine if (type(fact[2]), fact[2]) == (type(v), v)]
        assert added is not bool(same)
        if added:
            if not attr.many:
                for fact in mine:
                    end(fact)
            live[e, key, v] = draft.tx if t is None else t
    draft.max_eid, draft.max_tx = entities, draft.tx
    return State(draft.commit(), live, tuple(ended), state)


def flushed(state: State, later: State) -> State:
    """Return the later of two states of one memtable over trees that hold the earlier one."""
    at, s = state.snapshot, later.snapshot
    trees = at.trees.absorb(at.mem, at.n, at.m, at.schema, at.max_eid, at.max_tx)
    mem = s.mem if len(s.mem) == s.n else s.mem.fork(s.n)
    mem = mem.rest(at.n).until(len(mem))
    over = Snapshot(s.schema, trees, mem, len(mem), len(mem.e), s.max_eid, s.max_tx, s.state)
    return replace(later, snapshot=over)


def seen(state: State, key: str, lo: int, hi: int, history: bool) -> list[tuple[Any, ...]]:
    """Return (e, v, t, added) of what a window shows, in order."""
    live = [(e, v, t) for (e, a, v), t in state.live.items() if a == key]
    ended = [(e, v, t, until) for e, a, v, t, until in state.ended if a == key]
    out = [(e, v, t, True) for e, v, t in live if lo < t <= hi]
    if history:
        out += [(e, v, t, True) for e, v, t, _ in ended if lo < t <= hi]
        out += [(e, v, until, False) for e, v, _, until in ended if lo < until <= hi]
    else:
        out += [(e, v, t, True) for e, v, t, until in ended if lo < t <= hi < until]
    # Each datom once, though intervals of a fact may meet in one transaction.
    once = {(e, sort_key(v), t, added): (e, v, t, added) for e, v, t, added in out}
    return [once[key] for key in sorted(once)]


def shown(rows: Rows) -> list[tuple[Any, ...]]:
    added = [True] * len(rows) if rows.added is None else rows.added.tolist()
    return list(zip(rows.e.tolist(), rows.v.tolist(), rows.t.tolist(), added, strict=True))


def check(rng: random.Random, state: State) -> None:
    """Scan an attribute of a state, in a window of some kind, and compare it with the model."""
    snapshot = state.snapshot
    key = rng.choice([*SCHEMA])
    a = snapshot.schema.by_key[key].id
    kind = rng.choice(["present", "as-of", "since", "both", "history", "history-both"])
    low, high = sorted(rng.choices(range(TX0 - 1, snapshot.max_tx + 2), k=2))
    view: View = View(snapshot)
    lo, hi = -1, kept_columns.FOREVER
    if kind in ("as-of", "both", "history-both"):
        view, hi = view.as_of(high), high
    if kind in ("since", "both", "history-both"):
        view, lo = view.since(low), low
    if kind.startswith("history"):
        view = view.with_history()
    expected = seen(state, key, lo, hi, kind.startswith("history"))
    some = sorted(rng.sample(range(1, 50), rng.randrange(12)))
    found = view.of_entities(a, np.array(some, np.int64))
    assert shown(found) == [row for row in expected if row[0] in some], (kind, key)
    rows = view.attr(a)
    assert shown(rows) == expected, (kind, key)
    assert set(rows.a.tolist()) <= {a}
    assert View(snapshot).count_attr(a) == sum(fact[1] == key for fact in state.live)


@pytest.mark.parametrize("seed", range(16))
def test_scans_of_every_window_agree_with_a_model(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    if seed % 3:
        # Small columns are spliced, too, and dictionaries extended by many.
        monkeypatch.setattr(splice, "SMALL", 2)
        monkeypatch.setattr(splice, "_COPIED", 1)
        monkeypatch.setattr(dictionary, "_FEWER", 1)
    entities = rng.choice([4, 12, 40])
    states = [State(fresh(), {})]
    if seed % 4 == 1:
        states[0].snapshot.trees.columns.limit = 2000
    tip = states[0]
    for _ in range(60):
        step = rng.random()
        if step < 0.55:
            tip = written(rng, tip, entities)
        elif step < 0.63:
            tip = flushed(tip, tip)
        elif step < 0.7:
            at = tip
            while at.before and at.before.snapshot.mem is tip.snapshot.mem and rng.random() < 0.7:
                at = at.before
            tip = flushed(at, tip)
        elif step < 0.78:
            tip = rng.choice(states)
        elif step < 0.8:
            states.append(written(rng, rng.choice(states), entities))
        states.append(tip)
        for state in (tip, tip, rng.choice(states)):
            check(rng, state)
    for state in states:
        check(rng, state)


# -- what it costs ---------------------------------------------------------------------------------

MANY = 40_000


def loaded() -> Snapshot:
    """Return a state whose trees hold two values of each of many entities."""
    facts = [(e, key, f"{key}{e}") for e in range(1, MANY + 1) for key in (":one", ":gone")]
    return fresh().build(facts)


def put(base: Snapshot, key: str, facts: dict[int, Any], *, added: bool = True) -> Snapshot:
    draft = Draft(base, base.max_tx + 1, base.mem.owner)
    draft.add_new(draft.tx, base.schema.by_key[TX_INSTANT], datetime.fromtimestamp(draft.tx, UTC))
    for e, v in facts.items():
        change = draft.add if added else draft.retract
        assert change(e, base.schema.by_key[key], v)
    draft.max_eid, draft.max_tx = max(draft.max_eid, *facts), draft.tx
    return draft.commit()


class Counts:
    """How many rows are sorted and hashed, and how often leaves are put together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sorted = self.hashed = self.whole = 0
        order, enter, whole = runs.sort_positions, dictionary._added, Trees._whole

        def sort_positions(rows: Rows, *args: Any) -> Any:
            self.sorted += len(rows)
            return order(rows, *args)

        def added(values: Any, index: Any, other: Any) -> Any:
            self.hashed += len(other)
            return enter(values, index, other)

        def counted(trees: Trees, a: int) -> Rows:
            self.whole += 1
            return whole(trees, a)

        monkeypatch.setattr(runs, "sort_positions", sort_positions)
        monkeypatch.setattr(dictionary, "_added", added)
        monkeypatch.setattr(Trees, "_whole", counted)


def test_a_scan_after_writes_handles_what_is_new_and_shares_what_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = loaded()
    a = before.schema.by_key[":one"].id
    old = View(before).attr(a)
    ranks = old.v.ranks()
    text, longest = old.v.dictionary.is_text, old.v.dictionary.longest
    assert (text, longest) == (True, len(f":one{MANY}"))
    counts = Counts(monkeypatch)

    changed = put(before, ":one", {7: "changed"})
    rows = View(changed).attr(a)
    assert rows.e is old.e
    assert rows.v.dictionary.listed is old.v.dictionary.listed
    assert (rows.v.value(6), old.v.value(6)) == ("changed", ":one7")
    gone = put(changed, ":one", {9: ":one9"}, added=False)
    assert View(gone).attr(a).e.tolist() == [e for e in range(1, MANY + 1) if e != 9]
    more = put(gone, ":one", {MANY + e: f"more{e}" for e in range(1, 51)})
    rows = View(more).attr(a)
    assert rows.e.tolist() == [e for e in range(1, MANY + 51) if e != 9]
    assert rows.v.tolist()[-1] == "more50"
    values = rows.v.tolist()
    assert sorted(range(len(values)), key=rows.v.ranks().tolist().__getitem__) == sorted(
        range(len(values)), key=values.__getitem__
    )
    # Twice 1 + 1 + 50: those that are new and those that were there.
    assert counts.whole == 0
    assert counts.sorted <= 110
    assert counts.hashed <= 52
    assert (old.v.tolist()[8], old.v.ranks().tolist()) == (":one9", ranks.tolist())
    assert View(before).attr(a) is old


def test_a_flush_leaves_columns_that_are_brought_up_to_date(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = loaded()
    a, other = before.schema.by_key[":one"].id, before.schema.by_key[":gone"].id
    old, untouched = View(before).attr(a), View(before).attr(other)
    after = put(put(before, ":one", {7: "changed", 8: "too"}), ":one", {9: ":one9"}, added=False)
    counts = Counts(monkeypatch)
    over = flushed(State(after, {}), State(after, {})).snapshot
    counts.sorted = 0
    rows = View(over).attr(a)
    assert View(over).attr(other) is untouched
    assert counts.whole == 0
    assert counts.sorted <= 10
    assert rows.v.tolist()[5:9] == [":one6", "changed", "too", ":one10"]
    assert len(old) == MANY
    assert rows.v.dictionary.listed is old.v.dictionary.listed


def test_a_window_of_the_past_is_put_together_once_for_all_views_and_later_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = loaded()
    a = before.schema.by_key[":one"].id
    then = before.max_tx
    state = put(before, ":one", {7: "changed"})
    windows: list[Any] = []
    made = kept_columns._changed

    def counted(*args: Any) -> Rows:
        windows.append(args[2])
        return made(*args)

    monkeypatch.setattr(kept_columns, "_changed", counted)
    first = View(state).as_of(then).attr(a)
    recent = View(state).as_of(state.max_tx).attr(a)
    assert first.v.value(6) == ":one7"
    assert recent.v.value(6) == "changed"
    counts = Counts(monkeypatch)
    windows.clear()
    for _ in range(3):
        recent_tx = before.max_tx + 1
        state = put(state, ":one", {11: f"at{state.max_tx}"})
        assert View(state).as_of(then).cached(a) is first
        assert View(state).as_of(then).attr(a) is first
        assert View(state).as_of(recent_tx).attr(a) is recent
        state = flushed(State(state, {}), State(state, {})).snapshot
        assert View(state).as_of(then).attr(a) is first
        assert View(state).as_of(recent_tx).attr(a) is recent
    assert counts.whole == 0
    assert windows == []
    assert View(state).attr(a).v.value(10) == f"at{state.max_tx - 1}"


def test_a_datom_of_a_transaction_that_is_over_is_seen_in_windows_that_were_kept() -> None:
    state = put(loaded(), ":one", {7: "changed"})
    attr, then = state.schema.by_key[":one"], state.max_tx
    state = put(state, ":one", {8: "later"})
    before = View(state).as_of(then).attr(attr.id)
    state = flushed(State(state, {}), State(state, {})).snapshot
    assert View(state).as_of(then).attr(attr.id) is before
    draft = Draft(state, state.max_tx + 1, state.mem.owner)
    draft.add(MANY + 1, attr, "early", then)
    draft.max_eid, draft.max_tx = MANY + 1, draft.tx
    state = draft.commit()
    for _ in range(2):
        rows = View(state).as_of(then).attr(attr.id)
        assert (len(before), len(rows)) == (MANY, MANY + 1)
        state = flushed(State(state, {}), State(state, {})).snapshot
    # From then on it is kept again.
    assert View(state).as_of(then).attr(attr.id) is View(state).as_of(then).attr(attr.id)


def test_columns_that_are_kept_are_bounded_and_counted_once() -> None:
    state = loaded()
    a = state.schema.by_key[":one"].id
    kept = state.trees.columns
    View(state).attr(a)
    one = kept.nbytes
    for _ in range(5):
        state = put(state, ":one", {7: f"at{state.max_tx}"})
        View(state).attr(a)
    # The codes and transactions of one more: the rest is shared.
    assert kept.nbytes < 1.2 * one
    kept.limit = 2 * one
    for i in range(40):
        state = put(state, ":one", {e: f"{i} {e}" for e in range(1, 100)})
        assert View(state).as_of(state.max_tx - 1).attr(a).e.tolist()[0] == 1
        assert kept.nbytes <= 2 * one
    # What looks back gives way first.
    assert kept.at_hand(a, kept_columns.PRESENT) is not None


def test_a_draft_keeps_no_column() -> None:
    state = loaded()
    attr = state.schema.by_key[":one"]
    View(state).attr(attr.id)
    draft = Draft(state, state.max_tx + 1, state.mem.owner)
    draft.add(7, attr, "draft")
    assert draft.attr(attr.id).v.value(6) == "draft"
    same = draft.abort()
    again = Draft(same, state.max_tx + 1, state.mem.owner)
    again.add(7, attr, "again")
    assert View(again.commit()).attr(attr.id).v.value(6) == "again"


def test_transactions_that_are_held_narrow_are_spliced_at_any_distance() -> None:
    t = np.full(MANY, TX0, np.int64)
    rows = Rows(
        np.arange(MANY), repeated(np.zeros(1, np.int32), MANY), Column.of([0] * MANY), Narrow.of(t)
    )
    for times in ([TX0 + 255], [TX0 + 256], [TX0 + 70_000], [5], [5, EMAX]):
        at = np.array([3, 9][: len(times)])
        new = Rows(at - 1, np.zeros(len(at), np.int32), Column.of([1] * len(at)), np.array(times))
        rows = splice.spliced(rows, at, at, new)
        t = np.insert(np.delete(t, at), at - np.arange(len(at)), times)
        assert isinstance(rows.times, Narrow)
        assert rows.t.tolist() == t.tolist()
        assert rows.tx(3) == t[3]


def test_a_dictionary_is_an_array_though_its_pool_grows_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"k{i}" for i in range(400)]
    found, _ = Dictionary.encode(texts)
    more, _ = Dictionary.encode(["new"])
    types_of = objects.types_of

    def meanwhile(values: Any) -> Any:
        made = types_of(values)
        found.extended([more])  # as another thread may
        return made

    monkeypatch.setattr(objects, "types_of", meanwhile)
    assert found.array.tolist() == texts
