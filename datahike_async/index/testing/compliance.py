"""The suite: what every index must do, as a class to subclass.

::

    from datahike_async.index.registry import index_factory
    from datahike_async.index.testing import IndexCompliance

    class TestMyIndex(IndexCompliance):
        factory = index_factory(":datahike.index/persistent-set")  # yours
        config = {"branching-factor": 8}

Give it a configuration with nodes so small that 900 facts lie in three levels or more, or in many
nodes of one level. The laws are in :mod:`datahike_async.index.testing.laws`, by theme. Needs pytest
and hypothesis; nothing awaits.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from datahike_async.index.testing.laws.changing import ChangingLaws
from datahike_async.index.testing.laws.missing import MissingLaws
from datahike_async.index.testing.laws.reading import ReadingLaws
from datahike_async.index.testing.laws.storing import StoringLaws
from datahike_async.index.testing.machine import index_machine

__all__ = ["IndexCompliance"]


class IndexCompliance(ReadingLaws, ChangingLaws, StoringLaws, MissingLaws):
    """All laws of an index. Subclass it and set ``factory`` and ``config``; see the module."""

    def test_anything_in_any_order(self) -> None:
        """Let the machine do what it likes, and say the shortest way to what is wrong."""
        chosen = settings(
            max_examples=self.examples,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        machine = index_machine(self.factory, self.checked())
        run_state_machine_as_test(machine, settings=chosen)
