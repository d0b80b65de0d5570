"""Merges against plain sets of datoms; and the comparison finds every fault that is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from datahike_async.merging import changes, names, plan, strategies
from datahike_async.transactor import group
from datahike_async.tx.transaction import Transaction
from datahike_async.values.schema import MERGE_ALSO
from tests.merging.long_run import part

Plant = Callable[..., None]


@pytest.mark.parametrize("number", [0, 1])
def test_merges_come_to_what_the_oracle_says(number: int) -> None:
    _, merges, wrong = part((number, 40), scenes=12)
    assert wrong is None
    assert merges > 20


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_many_merges_come_to_what_the_oracle_says(number: int) -> None:
    assert part((number, 5000))[2] is None


def names_are_not_kept(plant: Plant) -> None:
    write = plan.Plan._write_down

    def nameless(self: Any) -> None:
        write(self)
        self.items = [item for item in self.items if MERGE_ALSO not in item]

    plant(plan.Plan, "_write_down", nameless)


def names_are_not_looked_at(plant: Plant) -> None:
    plant(names, "survivors", lambda view, ids: {})
    plant(changes, "survivors", lambda view, ids: {})


def names_are_not_handed_on(plant: Plant) -> None:
    gather = changes.Changes.gather

    def own(self: Any) -> None:
        gather(self)
        # Those that become known by this merge, and none that theirs knew.
        self.also = {h: {x} for x, h in self.same.items() if h in self.also}

    plant(changes.Changes, "gather", own)


def new_entities_are_never_one(plant: Plant) -> None:
    plant(changes.Changes, "_is_twin", lambda self, x, attr: False)


def old_entities_become_one(plant: Plant) -> None:
    held = changes.Changes._held

    def young(self: Any, *args: Any) -> Any:
        found = held(self, *args)
        self._old_here = set()
        return found

    plant(changes.Changes, "_held", young)


def conflicts_are_ignored(plant: Plant) -> None:
    settle = plan.Plan._settle

    def ours(self: Any, conflict: Any, base: Any, ours: Any, theirs: Any) -> Any:
        found = settle(self, conflict, base, ours, theirs)
        return found or plan._Settled([] if theirs is None else [theirs.v], "theirs")

    plant(plan.Plan, "_settle", ours)


def values_that_both_changed_are_taken(plant: Plant) -> None:
    def take(self: Any, e: int, ident: Any, key: Any, here: Any) -> None:
        self._put(e, ident, here, [x.v for x in key.new.values()])

    plant(plan.Plan, "_one", take)


def entities_are_not_looked_at(plant: Plant) -> None:
    plant(plan.Plan, "_read_entities", lambda self: None)


def references_are_not_looked_at(plant: Plant) -> None:
    plant(plan.Plan, "_lost", lambda self, *args: [])
    plant(plan.Plan, "_still_referred", lambda self: [])


def references_keep_the_ids_of_theirs(plant: Plant) -> None:
    plant(changes, "renamed", lambda value, where, ids: value)


def composite_tuples_are_merged(plant: Plant) -> None:
    gather = changes.Changes.gather

    def with_tuples(self: Any) -> None:
        # As if they were attributes like any other: from theirs, and not of their parts.
        self._composites = set()
        gather(self)

    plant(changes.Changes, "gather", with_tuples)


def tuples_change_places_one_by_one(plant: Plant) -> None:
    begin = Transaction.__init__

    def early(self: Any, *args: Any, late: bool, **options: Any) -> None:
        begin(self, *args, late=False, **options)

    plant(Transaction, "__init__", early)


def the_greatest_is_the_least(plant: Plant) -> None:
    plant(strategies, "_MAX", None)


def both_is_what_theirs_has(plant: Plant) -> None:
    plant(plan, "BOTH", None)


def retractions_are_not_taken_over(plant: Plant) -> None:
    gather = changes.Changes.gather

    def kept(self: Any) -> None:
        gather(self)
        for ident, by_e in self.keys.items():
            for key in by_e.values():
                if str(ident) in (":tag", ":refs"):
                    key.gone = {}

    plant(changes.Changes, "gather", kept)


def a_merge_is_no_newer_than_what_it_merged(plant: Plant) -> None:
    plant(group, "tx_of_commit", lambda commit: 0)


# With a seed from which each is found soon.
FAULTS = [
    (names_are_not_kept, 18),
    (names_are_not_looked_at, 33),
    (names_are_not_handed_on, 34),
    (new_entities_are_never_one, 5),
    (old_entities_become_one, 6),
    (conflicts_are_ignored, 12),
    (values_that_both_changed_are_taken, 3),
    (entities_are_not_looked_at, 1),
    (references_are_not_looked_at, 23),
    (references_keep_the_ids_of_theirs, 5),
    (composite_tuples_are_merged, 0),
    (tuples_change_places_one_by_one, 12),
    (the_greatest_is_the_least, 3),
    (both_is_what_theirs_has, 1),
    (retractions_are_not_taken_over, 2),
    (a_merge_is_no_newer_than_what_it_merged, 0),
]


@pytest.mark.parametrize(("fault", "start"), FAULTS)
def test_a_planted_fault_is_found(fault: Any, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch.setattr)
    assert part((0, start), shrink=False, scenes=400)[2] is not None
