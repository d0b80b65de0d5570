"""The how-to on writing a backend, done word for word: its commands run, its code is real."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

import datahike_async as d
from datahike_async.konserve import UnknownBackend, create_store
from tests.examples.tutorials import ROOT, Followed, Tutorial, environment

EXAMPLE = ROOT / "examples" / "backend"
TUTORIAL = Tutorial(EXAMPLE, ROOT / "docs" / "how-to" / "write-a-backend.md")
MODULE = "sqlite_backend_example.py"
CONFIG = {"store": {"backend": "sqlite-example", "path": "db.sqlite"}}


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Iterator[Followed]:
    with TUTORIAL.followed(tmp_path_factory.mktemp("checkout")) as done:
        yield done


def test_the_commands_lead_to_a_backend_that_passes_the_suite(followed):
    passed = re.search(r"(\d+) passed, \d+ deselected in", followed.printed)
    assert passed is not None, followed.printed
    assert int(passed[1]) > 60
    assert not re.search(r"failed|skipped|error", followed.printed.splitlines()[-1])


@pytest.mark.slow
def test_it_passes_the_suite_on_the_other_loop(followed):
    done = followed.forks.run("pytest:console_main", "-q", "my-backend", "-k", "trio")
    assert done.returncode == 0, done.stdout


def test_the_module_is_short():
    assert len((EXAMPLE / MODULE).read_text().splitlines()) < 160


def test_it_is_not_importable_without_being_installed():
    command = [sys.executable, "-c", "import sqlite_backend_example"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'sqlite_backend_example'" in done.stderr


def test_it_is_found_by_its_entry_point(followed):
    program = """
        from importlib.metadata import distribution, entry_points

        (point,) = entry_points(group="datahike_async.backends", name="sqlite-example")
        assert point.dist.name == "datahike-async-sqlite-example", point.dist
        assert ".venv" in point.load().create.__code__.co_filename
    """
    done = followed.run(textwrap.dedent(program))
    assert done.returncode == 0, done.stdout


def test_all_code_of_the_how_to_is_real(followed):
    TUTORIAL.check_code(followed, runs=2)
    assert len(TUTORIAL.blocks("python")) > 12


@pytest.mark.parametrize(
    ("right", "wrong", "test"),
    [
        (
            "k.require_revision(",
            "print(",
            "test_a_conditional_write_happens_only_over_what_was_expected",
        ),
        ("BEGIN IMMEDIATE", "SELECT 1", "test_nothing_is_written_after_a_condition_that_failed"),
        ("otherwise=k.OutcomeUnknown", "", "test_a_failed_commit"),
        (", surely=True", "", "test_a_close_that_is_cancelled"),
        ("db.execute(SEED)", "pass", "test_no_revision_comes_twice"),
    ],
)
def test_its_tests_turn_red(followed, tmp_path, right, wrong, test):
    """Green they were when the commands ran."""
    text = (EXAMPLE / MODULE).read_text()
    assert text.count(right) == 1
    (tmp_path / MODULE).write_text(text.replace(right, wrong))
    arguments = ("-q", "-x", "my-backend", "-k", test)
    done = followed.forks.run("pytest:console_main", *arguments, folders=[tmp_path])
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
    assert "SyntaxError" not in done.stdout


WRITER = f"""
import sys
import anyio
import datahike_async as d

async def main():
    async with d.connect({CONFIG!r}) as conn:
        for i in range(50):
            await conn.transact([{{":writer": int(sys.argv[1]), ":i": i}}])

anyio.run(main)
"""
CREATE = f"""
import anyio
import datahike_async as d

async def main():
    await d.create_database({CONFIG!r}, schema_flexibility="read")
    async with d.connect({CONFIG!r}) as conn:
        await conn.transact([{{":name": "Ada"}}])

anyio.run(main)
"""
QUERY = f"""
import anyio
import datahike_async as d

async def main():
    async with d.connect({CONFIG!r}) as conn:
        db = conn.db()
        assert await db.q("[:find ?n . :where [_ :name ?n]]") == "Ada"
        rows = await db.q("[:find ?w ?i (count ?e) :where [?e :writer ?w] [?e :i ?i]]")
        assert sorted(rows) == [(w, i, 1) for w in range(2) for i in range(50)]
    await d.delete_database({CONFIG!r})
    assert not await d.database_exists({CONFIG!r})

anyio.run(main, backend="trio")
"""


def test_a_database_is_shared_by_processes_and_outlives_them(followed):
    done = followed.run(CREATE)
    assert done.returncode == 0, done.stdout
    python = str(followed.folder / ".venv" / "bin" / "python")
    folder, seen = followed.folder.parent, environment()
    writers = [
        subprocess.Popen([python, "-c", WRITER, str(n)], cwd=folder, env=seen) for n in range(2)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    done = followed.run(QUERY)
    assert done.returncode == 0, done.stdout


def test_an_unknown_key_is_named(followed):
    program = f"""
import anyio
import datahike_async as d

async def main():
    try:
        await d.create_database(store={{**{CONFIG["store"]!r}, "pth": "x"}})
    except d.ConfigError as error:
        print(error)

anyio.run(main)
"""
    done = followed.run(program)
    assert "Unknown key 'pth'" in done.stdout
    assert "did you mean 'path'?" in done.stdout


@pytest.mark.anyio
async def test_a_missing_package_is_missed_by_name():
    with pytest.raises(UnknownBackend, match=r"'sqlite-example'.* an installed package"):
        await create_store(CONFIG["store"])
    with pytest.raises(d.ConfigError, match=r"'sqlite-example'.* an installed package"):
        await d.create_database(CONFIG)
