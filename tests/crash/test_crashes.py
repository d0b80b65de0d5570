"""Kills, power cuts and damage lose nothing in silence; the same loops find planted faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import Forks

KILL_FAULTS = (
    "no-log-sync",
    "no-file-sync",
    "no-folder-sync",
    "head-before-nodes",
    "acknowledge-first",
)
WITNESS_FAULTS = ("shows-unsynced", "names-unsettled")
DAMAGE_FAULTS = ("ends-at-damage", "no-marks", "no-checksum-of-heads")


@pytest.fixture(scope="module")
def programs() -> Iterator[Forks]:
    """The programs of this folder, imported in a process without threads, for they may fork."""
    forks = Forks(
        ["kill_loop", "kill_versions", "witness", "damage"], folders=[Path(__file__).parent]
    )
    yield forks
    forks.close()


def finds_nothing(programs: Forks, program: str, *arguments: str) -> None:
    done = programs.run(f"{program}:main", *arguments)
    assert done.returncode == 0, done.stdout


def finds(programs: Forks, fault: str, program: str, *arguments: str) -> None:
    done = programs.run(f"{program}:main", *arguments, "--fault", fault)
    assert done.returncode == 1, f"{fault} went unnoticed:\n{done.stdout}"


def test_twenty_kills_lose_nothing(programs: Forks) -> None:
    finds_nothing(programs, "kill_loop", "--kills", "20", "--seed", "1")


@pytest.mark.parametrize("backend", ["file", pytest.param("lmdb", marks=pytest.mark.slow)])
def test_kills_amid_branches_merges_collections_and_purges_lose_nothing(
    programs: Forks, backend: str
) -> None:
    finds_nothing(
        programs,
        "kill_versions",
        "--kills",
        "6",
        "--round",
        "3",
        "--seed",
        "1",
        "--backend",
        backend,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["no-log-sync", "head-before-nodes"])
def test_a_fault_planted_amid_branches_and_merges_is_found(programs: Forks, fault: str) -> None:
    finds(programs, fault, "kill_versions", "--kills", "200", "--seed", "2")


def test_what_a_second_process_saw_of_a_killed_writer_stays(programs: Forks) -> None:
    finds_nothing(programs, "witness", "--rounds", "10", "--seed", "1")


def test_whatever_is_damaged_all_is_shown_or_an_error_and_mending_brings_all_back(
    programs: Forks,
) -> None:
    finds_nothing(programs, "damage", "--harms", "60", "--seed", "1")


@pytest.mark.parametrize("fault", KILL_FAULTS)
def test_a_fault_planted_in_a_writer_is_found(programs: Forks, fault: str) -> None:
    finds(programs, fault, "kill_loop", "--kills", "200", "--seed", "2")


@pytest.mark.parametrize("fault", WITNESS_FAULTS)
def test_a_fault_planted_in_a_witness_is_found(programs: Forks, fault: str) -> None:
    finds(programs, fault, "witness", "--rounds", "100", "--seed", "3")


@pytest.mark.parametrize("fault", DAMAGE_FAULTS)
def test_a_reader_that_believes_too_much_is_found(programs: Forks, fault: str) -> None:
    finds(programs, fault, "damage", "--harms", "400", "--seed", "5")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "loop",
    [("kill_loop", "--kills", "1000"), ("witness", "--rounds", "500"),
     ("damage", "--harms", "3000"), ("kill_versions", "--kills", "300"),
     ("kill_versions", "--kills", "300", "--backend", "lmdb")],
    ids=["kills", "witness", "damage", "versions", "versions-lmdb"],
)  # fmt: skip
def test_at_length_nothing_is_lost(programs: Forks, loop: tuple[str, ...]) -> None:
    finds_nothing(programs, *loop)
