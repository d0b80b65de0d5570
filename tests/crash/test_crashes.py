"""Kills, power cuts and damage lose nothing in silence; the same loops find planted faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILL_FAULTS = (
    "no-log-sync",
    "no-file-sync",
    "no-folder-sync",
    "head-before-nodes",
    "acknowledge-first",
)
WITNESS_FAULTS = ("shows-unsynced", "names-unsettled")
DAMAGE_FAULTS = ("ends-at-damage", "no-marks", "no-checksum-of-heads")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this folder in a process without threads, for it may fork."""
    command = [sys.executable, str(Path(__file__).with_name(program)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)


def finds_nothing(program: str, *arguments: str) -> None:
    done = run(program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def finds(fault: str, program: str, *arguments: str) -> None:
    done = run(program, *arguments, "--fault", fault)
    assert done.returncode == 1, f"{fault} went unnoticed:\n{done.stdout}{done.stderr}"


def test_forty_kills_lose_nothing() -> None:
    finds_nothing("kill_loop.py", "--kills", "40", "--seed", "1")


def test_what_a_second_process_saw_of_a_killed_writer_stays() -> None:
    finds_nothing("witness.py", "--rounds", "10", "--seed", "1")


def test_whatever_is_damaged_all_is_shown_or_an_error_and_mending_brings_all_back() -> None:
    finds_nothing("damage.py", "--harms", "60", "--seed", "1")


@pytest.mark.parametrize("fault", KILL_FAULTS)
def test_a_fault_planted_in_a_writer_is_found(fault: str) -> None:
    finds(fault, "kill_loop.py", "--kills", "200", "--seed", "2")


@pytest.mark.parametrize("fault", WITNESS_FAULTS)
def test_a_fault_planted_in_a_witness_is_found(fault: str) -> None:
    finds(fault, "witness.py", "--rounds", "100", "--seed", "3")


@pytest.mark.parametrize("fault", DAMAGE_FAULTS)
def test_a_reader_that_believes_too_much_is_found(fault: str) -> None:
    finds(fault, "damage.py", "--harms", "400", "--seed", "5")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "loop",
    [("kill_loop.py", "--kills", "1000"), ("witness.py", "--rounds", "500"),
     ("damage.py", "--harms", "3000")],
    ids=["kills", "witness", "damage"],
)  # fmt: skip
def test_at_length_nothing_is_lost(loop: tuple[str, ...]) -> None:
    finds_nothing(*loop)
