"""The built-in backends pass the public suite, so do sound stores, and broken ones fail it."""

import os
import re
import subprocess
import sys
import uuid
from collections import defaultdict
from pathlib import Path

import pytest

from datahike_async.konserve import register_backend
from datahike_async.konserve.testing import StoreCompliance
from datahike_async.konserve.testing.sound import Bare, Journalling, Specimens
from tests.konserve.planted import EXPECTED

PLANTED = Path(__file__).with_name("planted.py")


class TestMemory(StoreCompliance):
    @pytest.fixture
    def store_config(self):
        return {"backend": "memory", "id": str(uuid.uuid4())}


class TestFile(StoreCompliance):
    @pytest.fixture
    def store_config(self, tmp_path):
        return {"backend": "file", "id": str(uuid.uuid4()), "path": str(tmp_path / "store")}


class TestBare(StoreCompliance):
    """A store that promises nothing, and is seen to refuse."""

    matrix_name = ""

    @pytest.fixture
    def store_config(self):
        register_backend("bare", Specimens(Bare))
        return {"backend": "bare", "id": str(uuid.uuid4())}


class TestJournalling(StoreCompliance):
    """A positive control: registered as the broken stores are, and the base of some of them."""

    matrix_name = ""

    @pytest.fixture
    def store_config(self):
        register_backend("journalling", Specimens(Journalling))
        return {"backend": "journalling", "id": str(uuid.uuid4())}


@pytest.fixture(scope="module")
def verdicts():
    """What became of each law on each broken store and loop: the outcomes, by those three."""
    tests = [f"{PLANTED}::Test{kind}::{law}" for kind, law in EXPECTED]
    tests.append(f"{PLANTED}::TestUnbroken")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider"]
    # With CI set, pytest works out every difference in full: minutes, for values this large.
    quiet = {key: value for key, value in os.environ.items() if key != "CI"}
    done = subprocess.run(
        [*command, *tests], capture_output=True, text=True, check=False, env=quiet
    )
    found = defaultdict(set)
    line = re.compile(r"^(PASSED|FAILED|ERROR) \S+::Test(\w+)::(\w+)\[(asyncio|trio)", re.M)
    for outcome, kind, law, loop in line.findall(done.stdout):
        found[kind, law, loop].add(outcome)
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize(("kind", "law"), EXPECTED)
def test_the_suite_turns_red(verdicts, kind, law, loop):
    outcomes = verdicts[kind, law, loop]
    assert "FAILED" in outcomes, f"{kind} passed"
    assert "ERROR" not in outcomes


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_suite_stays_green_where_nothing_is_broken(verdicts, loop):
    laws = {name for name in dir(StoreCompliance) if name.startswith("test_")}
    assert {law for _, law in EXPECTED} <= laws
    for law in laws:
        assert verdicts["Unbroken", law, loop] == {"PASSED"}, law
