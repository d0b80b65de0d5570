"""Public tools for authors of backends: a suite that says whether a backend keeps its promises.

Subclass :class:`StoreCompliance` in a test module, give it a ``store_config`` fixture, and run
pytest with the anyio plugin; what a backend does not declare is checked to be refused, nothing is
skipped. ``faults`` wraps a store so that calls fail, ``sound`` holds small stores that keep what
they promise, ``negative`` stores that break one promise each: the suite must turn red on them. The
pytest plugin ``plugin`` prints the support matrix at the end of a run.
"""

import pytest

# Laws are tests, and pytest explains the failed assertions of modules it knows of.
pytest.register_assert_rewrite("datahike_async.konserve.testing.laws")

from datahike_async.konserve.testing.compliance import StoreCompliance  # noqa: E402
from datahike_async.konserve.testing.faults import (  # noqa: E402
    Fault,
    FaultPlan,
    FaultyBlobStore,
    every_fault,
)

__all__ = ["Fault", "FaultPlan", "FaultyBlobStore", "StoreCompliance", "every_fault"]
