"""Public tools for authors of indexes: a suite that says whether an index does what is asked.

Subclass :class:`IndexCompliance` in a test module and give it your factory. The laws lie in
``laws``, by theme; ``model`` is the sorted list that an index is held to, ``cold`` a store of nodes
that forgets, ``machine`` a hypothesis machine that does anything in any order, and ``negative``
indexes that break one law each: the suite must turn red on them. Needs pytest and hypothesis.
Knows the protocol and the registry, and no index but the one that ``negative`` breaks.
"""

import pytest

# Laws are tests, and pytest explains the failed assertions of modules it knows of.
pytest.register_assert_rewrite("datahike_async.index.testing.laws")

from datahike_async.index.testing.cold import Cold  # noqa: E402
from datahike_async.index.testing.compliance import IndexCompliance  # noqa: E402
from datahike_async.index.testing.machine import index_machine  # noqa: E402
from datahike_async.index.testing.model import Fact, Model, facts_of, runs_of  # noqa: E402

__all__ = ["Cold", "Fact", "IndexCompliance", "Model", "facts_of", "index_machine", "runs_of"]
