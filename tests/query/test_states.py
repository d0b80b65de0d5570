"""In every state of merging all views say what the log says; faults in the levels show."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import anyio
import numpy as np
import pytest

from datahike_async.index.levels import merging, signed
from datahike_async.index.levels import run as runs
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.merging import Merging
from datahike_async.index.levels.nodes import SETS
from datahike_async.index.levels.run import Run
from datahike_async.values.types import typed_key
from tests.indexes import INDEXES
from tests.query.generator import NAMED
from tests.query.states import (
    ALL,
    DUE,
    JOIN,
    PAIR,
    PLACES,
    PURGE,
    RUN,
    STEPS,
    WAIT,
    Plan,
    grown,
    states_of,
)
from tests.query.test_oracle import VIEWS, seen

# What is there comes and goes, and comes back: in some orders within one run, in most in several.
HISTORY: list[list[Any]] = [
    [*NAMED, [":db/add", 1, ":long", 1], [":db/add", 2, ":long", 2], [":db/add", 1, ":many", "a"]],
    [[":db/add", 1, ":long", 2], [":db/add", 1, ":many", "b"], [":db/add", 3, ":ref", 1]],
    [[":db/retract", 1, ":many", "a"], [":db/retract", 2, ":long", 2], [":db/add", 4, ":any", 1.0]],
    [[":db/add", 1, ":long", 1], [":db/add", 1, ":many", "a"], [":db/add", 3, ":ref", 2]],
    [[":db/add", 2, ":long", 2], [":db/retract", 1, ":many", "a"], [":db/add", 4, ":any", True]],
    [[":db/add", 1, ":text", "ab"], [":db/retract", 1, ":long", 1], [":db/add", 4, ":refs", 3]],
    [[":db/add", 1, ":long", 1], [":db/add", 1, ":many", "a"], [":db/retract", 4, ":any", True]],
]
INDEXED = {":index", ":long", ":text", ":ref", ":refs", ":id", ":db/ident", ":db/txInstant"}


def plans(lengths: Iterable[int], *, every: bool = False) -> Iterator[Plan]:
    """Yield a plan for each order of steps; on each index in every place, or somewhere."""
    ways = list(product(sorted(set(PLACES)), INDEXES, (False, True)))
    chance = random.Random(1)
    for length in lengths:
        for steps in product(STEPS, repeat=length):
            for place, index, anew in ways if every else [chance.choice(ways)]:
                yield Plan(place, index, 0, [(step, anew) for step in steps])


def said(datoms: Iterable[Any]) -> Counter[Any]:
    return Counter((e, str(a), typed_key(v), tx, added) for e, a, v, tx, added in datoms)


async def differs(plan: Plan, met: Counter[str]) -> str | None:
    """Return what a view says otherwise than the log, or None."""
    async with grown(HISTORY, plan) as state:
        met.update(await states_of(state, plan.index))
        for view in VIEWS:
            db, log = seen(state, view)
            expected = said(log)
            for order in ("eavt", "aevt"):
                if said(await db.datoms(order)) != expected:
                    return f"{plan}: {view}, {order}"
            ordered = Counter({x: n for x, n in expected.items() if x[1] in INDEXED})
            if said(await db.datoms("avet")) != ordered:
                return f"{plan}: {view}, avet"
            # One entity and one value at a time: most runs are ruled out.
            for e in range(1, 6):
                own = Counter({x: n for x, n in expected.items() if x[0] == e})
                if said(await db.datoms("eavt", e)) != own:
                    return f"{plan}: {view}, entity {e}"
                own = Counter(
                    {x: n for x, n in expected.items() if x[1:3] == (":long", typed_key(e))}
                )
                if said(await db.datoms("avet", ":long", e)) != own:
                    return f"{plan}: {view}, value {e}"
    return None


def first_difference(
    wanted: Iterable[Plan], backend: str = "asyncio", met: Counter[str] | None = None
) -> str | None:
    met = Counter() if met is None else met

    async def look() -> str | None:
        for plan in wanted:
            found = await differs(plan, met)
            if found is not None:
                return found
        return None

    return anyio.run(look, backend=backend)


MET = {
    *("now: no run over a base", "now: one run over a base", "now: several runs over a base"),
    *("now: one run over an empty base", "now: several runs over an empty base"),
    *("past: one run over a base", "past: several runs over an empty base"),
    *("now: added in a run and removed in a later one", "now: a run that was never stored"),
    *("something was purged", "nothing resident"),
}


def test_all_views_say_what_the_log_says() -> None:
    met: Counter[str] = Counter()
    assert first_difference(plans([2]), met=met) is None
    found = {name.partition(",")[0] for name in met}
    assert {f"{index}: {name}" for index, name in product(INDEXES, MET)} <= found


def test_all_views_say_what_the_log_says_on_trio() -> None:
    assert first_difference(plans([1]), "trio") is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_views_say_what_the_log_says_in_every_state(backend: str) -> None:
    assert first_difference(plans([1, 2, 3], every=True), backend) is None


# -- planted faults ----------------------------------------------------------------------------


def filters_rule_out_what_is_there(plant: Callable[..., None]) -> None:
    touched = Levels._touched

    def fewer(self: Levels, lower: Any, upper: Any, base: Any = None) -> Any:
        found = touched(self, lower, upper, base)
        return found if found is self.runs else found[1:]

    plant(Levels, "_touched", fewer)


def filters_of_merged_runs_know_half(plant: Callable[..., None]) -> None:
    hashes_of = merging.hashes_of
    plant(merging, "hashes_of", lambda rows, order: hashes_of(rows, order)[: len(rows) // 2])


def slices_leave_out_the_oldest_run(plant: Callable[..., None]) -> None:
    slice_ = Levels.slice

    def newer(self: Levels, lower: Any = (), upper: Any = ()) -> Any:
        return slice_(Levels(self.base, self.runs[1:], self.leaf), lower, upper)

    plant(Levels, "slice", newer)


def what_is_removed_is_so_whatever_its_transaction(plant: Callable[..., None]) -> None:
    plant(signed, "_numbers", lambda rows: [rows.a, rows.e, *_until(rows)])


def _until(rows: Any) -> list[Any]:
    return [] if rows.until is None else [rows.until]


def runs_that_are_merged_forget_what_they_removed(plant: Callable[..., None]) -> None:
    made = Merging._run

    def forgetful(self: Any) -> Any:
        levels = self._levels
        nothing = SETS.empty(levels.order, levels.temporal, {"branching-factor": levels.leaf})
        self._removes = nothing
        return made(self)

    plant(Merging, "_run", forgetful)


def merging_into_the_base_adds_alone(plant: Callable[..., None]) -> None:
    net = merging.net
    plant(merging, "net", lambda adds, removes, order: (net(adds, removes, order)[0], []))


def purges_leave_what_runs_say(plant: Callable[..., None]) -> None:
    plant(Run, "without", lambda self, rows: self)


def what_comes_and_goes_in_one_run_stays(plant: Callable[..., None]) -> None:
    plant(runs, "_found", lambda held, rows: np.zeros(len(rows), np.bool_))


FAULTS = [
    filters_rule_out_what_is_there,
    filters_of_merged_runs_know_half,
    slices_leave_out_the_oldest_run,
    what_is_removed_is_so_whatever_its_transaction,
    runs_that_are_merged_forget_what_they_removed,
    merging_into_the_base_adds_alone,
    purges_leave_what_runs_say,
    what_comes_and_goes_in_one_run_stays,
]


TELLING = [
    Plan(place, "persistent-set", 0, [(first, False), (later, False)])
    for place, first, later in (
        *(("memory", DUE, RUN), ("disk", RUN, RUN), ("disk", RUN, JOIN), ("disk", ALL, PAIR)),
        *(("disk", WAIT, PAIR), ("disk", RUN, DUE), ("disk", RUN, PURGE)),
    )
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch.setattr)
    try:
        found = first_difference(TELLING)
    except (AssertionError, LookupError) as error:
        found = repr(error)
    assert found is not None


def test_without_a_fault_nothing_is_found() -> None:
    assert first_difference(TELLING) is None
