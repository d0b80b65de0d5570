"""Seeds of the simulation that are run each time, and faults that it finds.

Many more: ``python -m tests.simulation.long_run`` and ``python -m tests.simulation.faults``.
"""

from __future__ import annotations

import pytest

from tests.simulation.faults import FAULTS, found
from tests.simulation.loops import BACKENDS
from tests.simulation.run import simulate

SEEDS = 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_goes_wrong(backend: str) -> None:
    for seed in range(SEEDS):
        done = simulate(seed, backend)
        assert done.wrong is None, "\n".join([*done.trace[-30:], done.wrong])
        assert done.operations >= 200


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", [1000, 2000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_goes_wrong_with_many_seeds(backend: str, start: int) -> None:
    for seed in range(start, start + 100):
        done = simulate(seed, backend)
        assert done.wrong is None, f"{seed}: {done.wrong}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_repeats_itself(backend: str) -> None:
    first, again = simulate(5, backend), simulate(5, backend)
    assert first.trace == again.trace
    assert len(first.trace) > 500


QUICK = ("leaves_the_registry_out", "ignores_tags", "drops_the_journal")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in sorted(FAULTS)],
)
def test_a_fault_is_found(fault: str) -> None:
    assert found(fault, "asyncio", range(2000)) is not None


def test_seeds_differ() -> None:
    assert simulate(3, "asyncio").trace != simulate(4, "asyncio").trace
