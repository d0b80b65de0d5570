"""The protocol of writers, branches and collections, explored whole; planted faults are found."""

from __future__ import annotations

import pytest

from tests.collection.model import FAULTS, explore, first, steps

SIZES = {
    "one writer": first(flushes=1, writers=1),
    "one writer that flushes twice": first(flushes=2, writers=1),
    "two collections": first(flushes=2, collections=2, writers=1),
    "two writers": first(flushes=1, writers=2),
}


@pytest.mark.parametrize("size", SIZES)
def test_whatever_a_head_names_is_there_in_every_order(size: str) -> None:
    count, way = explore(SIZES[size])
    assert way is None
    assert count > 500


@pytest.mark.slow
def test_two_writers_and_two_collections() -> None:
    count, way = explore(first(flushes=1, collections=2, writers=2))
    assert way is None
    assert count > 100_000


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    faults = frozenset({FAULTS[fault]})
    _, way = explore(SIZES["one writer"], faults)
    assert way is not None
    # The way that is told leads there.
    states = {SIZES["one writer"]}
    for name in way:
        assert not any(state.wrong for state in states)
        states = {after for state in states for what, after in steps(state, faults) if what == name}
    assert any(state.wrong for state in states)


def test_everybody_gets_to_the_end_in_some_order() -> None:
    """Nobody waits for what never comes: the model looks at what happens, not at nothing."""
    seen = {SIZES["one writer"]}
    waiting = [*seen]
    done = {"written": False, "collected": False, "listed": False}
    while waiting:
        state = waiting.pop()
        done["written"] |= any(not writer.left for writer in state.writers)
        done["collected"] |= not state.collector.left and not state.nodes >= {1, 2}
        done["listed"] |= state.listed
        for _, after in steps(state):
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    assert all(done.values()), done
