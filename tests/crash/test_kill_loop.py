"""Kills and power cuts lose nothing; the same loop finds every fault that is planted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOOP = Path(__file__).with_name("kill_loop.py")
FAULTS = (
    "no-log-sync",
    "no-file-sync",
    "no-folder-sync",
    "head-before-nodes",
    "acknowledge-first",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: it forks, and must have no threads when it does.
    command = [sys.executable, str(LOOP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)


def test_forty_kills_lose_nothing() -> None:
    done = run("--kills", "40", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    done = run("--kills", "200", "--seed", "2", "--fault", fault)
    assert done.returncode == 1, f"{fault} went unnoticed:\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_lose_nothing() -> None:
    done = run("--kills", "1000")
    assert done.returncode == 0, done.stdout + done.stderr
