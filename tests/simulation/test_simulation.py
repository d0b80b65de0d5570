"""Seeds of the simulation that are run each time, and faults that it finds.

Many more: ``python -m tests.simulation.long_run`` and ``python -m tests.simulation.faults``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import UUID

import pytest

from tests.indexes import INDEXES
from tests.simulation.actors import Actor
from tests.simulation.faults import FAULTS, found
from tests.simulation.loops import BACKENDS
from tests.simulation.model import Branch, Commit, Intent, Model, added, without
from tests.simulation.run import simulate
from tests.simulation.world import Rates, World

SEEDS = 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_goes_wrong(backend: str) -> None:
    for seed in range(SEEDS):
        done = simulate(seed, backend)
        assert done.wrong is None, "\n".join([*done.trace[-30:], done.wrong])
        assert done.operations >= 200


def test_nothing_goes_wrong_on_the_other_index() -> None:
    for seed in range(2):
        done = simulate(seed, BACKENDS[seed % 2], "hitchhiker-tree")
        assert done.wrong is None, "\n".join([*done.trace[-30:], done.wrong])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("start", [1000, 2000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_goes_wrong_with_many_seeds(backend: str, start: int, index: str) -> None:
    for seed in range(start, start + 100):
        done = simulate(seed, backend, index)
        assert done.wrong is None, f"{seed}: {done.wrong}"


TRACES = """
import sys
from tests.simulation.run import simulate
for backend, seed in (("asyncio", 0), ("trio", 1)):
    for before in map(int, sys.argv[1:]):
        simulate(before, backend)
    print(*simulate(seed, backend).trace, sep="\\n")
"""


def test_a_seed_gives_one_trace_in_all_processes() -> None:
    """However strings are hashed, and whatever was simulated before."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", TRACES, *before],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hashes, before in (("1", ()), ("2", ("3",)))
    ]
    one, other = (process.communicate()[0].splitlines() for process in begun)
    assert len(one) > 1000
    assert one == other


def test_what_is_read_while_a_change_may_still_land_says_nothing_of_the_branch() -> None:
    world, model = World(0, "asyncio", "keys", Rates()), Model()
    actor = Actor(world, model, world.process(), history=False)
    before = model.add(Commit(UUID(int=1), (), frozenset(), 1))
    under_way = True
    model.branches["a"] = Branch(doubt=lambda: under_way)
    _, line, tip = actor.at("a")
    under_way = False
    model.moved("a", line, tip, before.id)
    assert model.branches["a"].tip is None
    _, line, tip = actor.at("a")
    model.moved("a", line, tip, before.id)
    assert model.branches["a"].tip == before.id


def test_what_a_purge_may_have_taken_is_asked_of_nobody() -> None:
    model, facts = Model(), frozenset[tuple[int, str, int]]()
    one, two = (model.add(Commit(UUID(int=n), (), facts, n)) for n in (1, 2))
    two.parents = (one.id,)
    model.branches["db"] = Branch(two.id)
    assert model.must() == {one.id, two.id}
    purge = model.intents[1] = Intent(1, "remove", "db", purges=True)
    assert model.must() == set()
    purge.times, purge.tx = 1, 3
    assert model.must() == set()
    purge.tx = 2
    assert model.must() == {one.id, two.id}


def test_a_revert_leaves_an_entity_that_has_the_key_of_what_it_takes_away() -> None:
    here = added(frozenset(), 6, "v", 1)
    revert = Intent(1, "revert", "db", lambda facts: facts - here, others=frozenset({6}))
    again = added(added(frozenset(), 6, "m", 5), 7, "v", 2)
    assert revert.fits(again, again)
    assert revert.fits(here, frozenset())
    assert not revert.fits(again, without(again, 7))


QUICK = ("leaves_the_registry_out", "ignores_tags", "drops_the_journal")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in sorted(FAULTS)],
)
def test_a_fault_is_found(fault: str) -> None:
    assert found(fault, "asyncio", range(2000)) is not None


def test_seeds_differ() -> None:
    assert simulate(3, "asyncio").trace != simulate(4, "asyncio").trace
