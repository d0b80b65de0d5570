"""Long work on arrays is shared with other cores where that is worth it, and with nobody else."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from datahike_async import cores
from datahike_async.cores import apart, in_pieces
from datahike_async.index.arrays import order_of, taken
from datahike_async.looks import PIECE, looking

COUNT = 20 * PIECE


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_HELPERS", 1)


def threads_of(count: int) -> tuple[set[int], list[tuple[int, int]]]:
    """Return which threads handled the pieces of some values, and the pieces.

    Whoever begins waits for another one, where there are to be two.
    """
    met = threading.Barrier(2)
    done: list[tuple[int, int]] = []
    who: set[int] = set()

    def work(start: int, stop: int) -> None:
        if threading.get_ident() not in who:
            who.add(threading.get_ident())
            with suppress(threading.BrokenBarrierError):
                met.wait(0.3)
        done.append((start, stop))

    in_pieces(count, work)
    return who, sorted(done)


def test_pieces_are_shared_by_two_threads_each_once() -> None:
    with apart():
        who, done = threads_of(COUNT)
    assert len(who) == 2
    assert done == [(i, i + PIECE) for i in range(0, COUNT, PIECE)]


@pytest.mark.parametrize("why", ["on the event loop", "on one core", "few numbers"])
def test_there_is_no_helper(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = COUNT
    if why == "on the event loop":
        who, _ = threads_of(count)
    else:
        if why == "on one core":
            monkeypatch.setattr(cores, "_HELPERS", 0)
        else:
            count = 15 * PIECE
        with apart():
            who, _ = threads_of(count)
    assert who == {threading.get_ident()}


@pytest.mark.parametrize("fails", ["here", "helper"])
def test_a_failure_of_either_ends_both_and_is_raised(fails: str) -> None:
    here, done = threading.get_ident(), []
    met = threading.Barrier(2)

    def work(start: int, stop: int) -> None:
        done.append(start)
        if len(done) <= 2:
            met.wait(10)
            if (threading.get_ident() == here) is (fails == "here"):
                raise ZeroDivisionError
        time.sleep(0.001)

    with apart(), pytest.raises(ZeroDivisionError):
        in_pieces(10_000 * PIECE, work)
    assert len(done) < 10_000


def test_a_look_that_raises_ends_the_work() -> None:
    looks = 0

    def look(count: int) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise TimeoutError

    token = looking.set(look)
    try:
        with apart(), pytest.raises(TimeoutError):
            in_pieces(10_000 * PIECE, lambda start, stop: None)
    finally:
        looking.reset(token)


def test_two_cores_give_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 10**12, COUNT)
    values[::7] = 5
    positions = rng.integers(0, COUNT, COUNT)
    with apart():
        order, found = order_of(values), taken(values, positions)
    assert np.array_equal(order, np.argsort(values, kind="stable"))
    assert np.array_equal(found, values[positions])


def test_work_within_work_is_not_shared_again() -> None:
    with apart():

        def work(start: int, stop: int) -> None:
            def inner(i: int, j: int) -> None:
                out[start + i : start + j] += 1

            in_pieces(stop - start, inner)

        out = np.zeros(COUNT, np.int8)
        in_pieces(COUNT, work)
    assert (out == 1).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    with apart():
        threads_of(COUNT)
        child = os.fork()
        if child == 0:
            who, _ = threads_of(COUNT)
            os._exit(0 if len(who) == 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_quota_of_a_group_bounds_the_cores(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n1:cpu,cpuacct:/c\n")
    there = cores.cores(tmp_path / "missing", tmp_path)
    assert there >= 1
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cores.cores(own, tmp_path) == 1
    (tmp_path / "a" / "cpu.max").write_text("max 100000\n")
    assert cores.cores(own, tmp_path) == there
    (tmp_path / "cpu" / "c").mkdir(parents=True)
    (tmp_path / "cpu" / "c" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.cores(own, tmp_path) == 1
    (tmp_path / "cpu" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.cores(own, tmp_path) == there
