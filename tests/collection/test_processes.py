"""A collection beside writers and readers in other processes; faults that the loop finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collection.processes import FAULTS
from tests.forks import Forks

PROGRAM = "tests.collection.processes"


@pytest.fixture(scope="module")
def programs() -> Iterator[Forks]:
    forks = Forks([PROGRAM], folders=[Path(__file__).parents[2]])
    yield forks
    forks.close()


@pytest.mark.parametrize("backend", ["file", pytest.param("lmdb", marks=pytest.mark.slow)])
def test_a_run_goes_well(programs: Forks, backend: str) -> None:
    done = programs.run(f"{PROGRAM}:main", "--runs", "1", "--seed", "1", "--backend", backend)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["file", "lmdb"])
def test_many_runs_go_well(programs: Forks, backend: str) -> None:
    done = programs.run(f"{PROGRAM}:main", "--runs", "50", "--backend", backend)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_is_found(programs: Forks, fault: str) -> None:
    done = programs.run(f"{PROGRAM}:main", "--runs", "40", "--seed", "1", "--fault", fault)
    assert done.returncode == 1, f"{fault} went unnoticed:\n{done.stdout}"
