"""Public tools for authors of backends: a suite that says whether a backend keeps its promises.

Subclass :class:`StoreCompliance` in a test module, give it a ``store_config`` fixture, and run
pytest with the anyio plugin; what a backend does not declare is checked to be refused, nothing is
skipped. ``faults`` wraps a store so that calls fail, ``negative`` holds stores that break one
promise each: the suite must turn red on them.
"""

from datahike_async.konserve.testing.compliance import StoreCompliance
from datahike_async.konserve.testing.faults import Fault, FaultyBlobStore

__all__ = ["Fault", "FaultyBlobStore", "StoreCompliance"]
