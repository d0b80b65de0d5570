"""The support matrix says what was declared, what of it was shown, and how many tests ran."""

import subprocess
import sys

from datahike_async.konserve.testing.matrix import Matrix, Row, support_matrix
from tests.konserve import planted

DECLARED = {
    "durable": True,
    "conditional": "machine",
    "atomic_multi": False,
    "ranged_reads": True,
    "journal": True,
    "remote": False,
}


def properties(*more, loop="asyncio", name="file"):
    return [
        ("konserve.store", (name, loop)),
        ("konserve.capabilities", DECLARED),
        *(("konserve.promise", promise) for promise in more),
    ]


def cells(text, backend):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{backend}`")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_row_tells_kept_refused_broken_and_unproven_apart():
    matrix = Matrix()
    matrix.add(properties(("durable", "kept"), ("atomic multi-key", "refused")), True)
    matrix.add(properties(("compare-and-set", "kept"), loop="trio"), True)
    matrix.add(properties(("compare-and-set", "kept"), loop="trio"), False)
    matrix.add([("other", 1)], False)
    matrix.add(properties(name=""), False)
    (row,) = matrix.rows()
    text = support_matrix([row])
    assert text.splitlines()[0].count("|") == text.splitlines()[2].count("|") == 10
    assert cells(text, "file") == [
        "yes",
        "machine (**broken**)",
        "no",
        "yes (*unproven*)",
        "yes (*unproven*)",
        "no",
        "1 passed",
        "1 passed, **1 failed**",
    ]


def test_a_store_of_which_nothing_ran_is_unproven_throughout():
    assert cells(support_matrix([Row("new")]), "new")[:2] == ["no (*unproven*)"] * 2
    assert cells(support_matrix([Row("new")]), "new")[-2:] == ["not run"] * 2


def test_a_run_of_the_suite_ends_with_its_matrix(tmp_path):
    path = planted.__file__
    tests = [
        f"{path}::TestHasNoLocks::test_of_sixteen_who_create_one_wins",
        f"{path}::TestHasNoLocks::test_no_update_is_lost_within_one_handle",
    ]
    module = "datahike_async.konserve.testing.matrix"
    written = tmp_path / "matrix.md"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            module,
            "-p",
            "no:cacheprovider",
            f"--support-matrix={written}",
            *tests,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert written.read_text() in done.stdout
    found = cells(written.read_text(), "planted")
    # A bare store refuses, whatever its locks do.
    assert found[:2] == ["no (*unproven*)", "no"]
    assert found[-2:] == ["2 passed, **1 failed**"] * 2
