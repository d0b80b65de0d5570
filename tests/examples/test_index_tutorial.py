"""The how-to on writing an index, done word for word: its commands run, its code is real."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

import datahike_async as d
from tests.examples.tutorials import ROOT, Followed, Tutorial

EXAMPLE = ROOT / "examples" / "index"
TUTORIAL = Tutorial(EXAMPLE, ROOT / "docs" / "how-to" / "write-an-index.md")
MODULE = "block_index_example.py"


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Iterator[Followed]:
    with TUTORIAL.followed(tmp_path_factory.mktemp("checkout")) as done:
        yield done


def test_the_commands_lead_to_an_index_that_passes_the_suite(followed):
    passed = re.search(r"(\d+) passed in", followed.printed)
    assert passed is not None, followed.printed
    assert int(passed[1]) > 100
    assert not re.search(r"failed|skipped|error", followed.printed.splitlines()[-1])


def test_it_is_not_importable_without_being_installed():
    command = [sys.executable, "-c", "import block_index_example"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'block_index_example'" in done.stderr


def test_all_code_of_the_how_to_is_real(followed):
    TUTORIAL.check_code(followed, runs=1)


def test_a_database_with_it_is_written_read_verified_and_collected(followed, tmp_path):
    program = f"""
    import anyio
    import datahike_async as d

    config = {{
        "store": {{"backend": "file", "path": {str(tmp_path / "db")!r}}},
        "index": ":example/blocks",
        "index-config": {{"block-size": 16}},
    }}

    async def main():
        async with d.connect(config, create=True, schema_flexibility="read") as conn:
            made = []
            for n in range(40):
                facts = [{{":n": n, ":name": f"{{i}}"}} for i in range(50)]
                made.append((await conn.transact(facts)).tx)
            await conn.transact([[":db.purge/attribute", 2, ":name"]])
        async with d.connect(config) as conn:
            db = conn.db()
            kinds = {{type(levels.base).__name__ for levels in db.snapshot.trees.indexes()}}
            assert kinds == {{"BlockIndex"}}
            assert await db.q("[:find (count ?e) . :where [?e :name ?n]]") == 1999
            then = db.as_of(made[5])
            assert await then.q("[:find (count ?e) . :where [?e :n _]]") == 300
            await d.gc_storage(conn, retain={{"commits": 1}})
            report = await d.verify(conn, deep=True)
            assert report.ok, report

    anyio.run(main)
    """
    done = followed.run(textwrap.dedent(program))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "test"),
    [
        (
            "raise NodeMiss(self.source, missing)",
            "raise NodeMiss(self.source, missing[:1])",
            "level",
        ),
        ("count = 5 if self.temporal else 3", "count = 5 if self.temporal else 4", "whatever_its"),
        ("rows.backwards() if reverse else rows", "rows", "both_ways"),
    ],
)
def test_its_tests_turn_red(followed, tmp_path, right, wrong, test):
    """Green they were when the commands ran."""
    text = (EXAMPLE / MODULE).read_text()
    assert text.count(right) == 1
    (tmp_path / MODULE).write_text(text.replace(right, wrong))
    arguments = ("-q", "-x", "my-index", "-k", test)
    done = followed.forks.run("pytest:console_main", *arguments, folders=[tmp_path])
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
    assert "SyntaxError" not in done.stdout


@pytest.mark.anyio
async def test_a_missing_package_is_missed_by_name():
    with pytest.raises(d.ConfigError, match=r":example/blocks") as caught:
        await d.create_database(store={"backend": "memory"}, index=":example/blocks")
    assert caught.value.error == ":unknown-index-type"
