"""The public index suite on the indexes that are built in, and on broken ones that it must find."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from datahike_async.index.hitchhiker_tree.factory import HitchhikerTreeFactory
from datahike_async.index.persistent_set import tree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.testing import IndexCompliance, index_machine
from datahike_async.index.testing.negative import BROKEN


@pytest.fixture(autouse=True)
def small_branches(monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 4)


class TestPersistentSet(IndexCompliance):
    factory = PersistentSetFactory()
    config: ClassVar = {"branching-factor": 8}


@pytest.mark.slow
class TestPersistentSetForLong(TestPersistentSet):
    examples = 20


# Of each the law that is made for it; the others, which find it too, where there is time.
class TestHitchhikerTree(IndexCompliance):
    factory = HitchhikerTreeFactory()
    config: ClassVar = {"index-b-factor": 4, "index-data-node-size": 8, "index-log-size": 24}


@pytest.mark.slow
class TestHitchhikerTreeForLong(TestHitchhikerTree):
    examples = 20


EXPECTED = [
    pytest.param(kind, law, marks=[pytest.mark.slow] if i else [])
    for kind, planted in BROKEN.items()
    for i, law in enumerate(planted.found_by)
]


def ways(law):
    """Return the arguments that a law is called with, one set after another."""
    marks = [mark for mark in getattr(law, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        return [{}]
    ((names, values),) = (mark.args for mark in marks)
    if isinstance(names, str):
        return [{names: value} for value in values]
    return [dict(zip(names, each, strict=True)) for each in values]


@pytest.mark.parametrize(("kind", "law"), EXPECTED)
def test_broken_indexes_are_found(kind, law):
    class Broken(IndexCompliance):
        factory = BROKEN[kind].factory
        config = TestPersistentSet.config

    def is_found(arguments):
        try:
            getattr(Broken(), law)(**arguments)
        except Exception:
            return True
        return False

    assert any(map(is_found, ways(getattr(Broken, law)))), f"{law} is green on {kind}"


@pytest.mark.parametrize(
    "kind",
    ["ChangesInPlace", "LeavesTheUpperBoundOut", "LosesTheLast", "ReversesNoRows", "FindsOneEach"],
)
def test_the_machine_finds_broken_indexes(kind):
    factory = BROKEN[kind].factory
    machine = index_machine(factory, factory.check_config(TestPersistentSet.config))
    chosen = settings(
        max_examples=60,
        stateful_step_count=15,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    with pytest.raises(Exception):  # noqa: B017
        run_state_machine_as_test(machine, settings=chosen)
