"""A database many times as large as its memory, in a process that is held to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import big


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells of peaks")
def test_thirty_million_datoms_stay_within_a_gigabyte() -> None:
    found = big.measured(30, 512)
    # Answers after merging and collecting are compared in the process itself.
    assert found["datoms"] == 30_000_000
    peaks = {step["step"]: step["peak"] for step in found["steps"]}
    assert max(peaks.values()) <= 1024, peaks
