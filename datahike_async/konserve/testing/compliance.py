"""The compliance suite: what every backend must do, as a class to subclass.

::

    import pytest
    from datahike_async.konserve.testing import StoreCompliance

    class TestMyBackend(StoreCompliance):
        @pytest.fixture
        def store_config(self, tmp_path):
            return {"backend": "mine", "id": str(uuid.uuid4()), "path": str(tmp_path / "store")}

Needs pytest and the anyio plugin; give the module an ``anyio_backend`` fixture to choose loops. The
laws are in :mod:`datahike_async.konserve.testing.laws`, by theme. What a store does not promise is
checked to be refused (see :mod:`~datahike_async.konserve.testing.promises`); nothing is skipped.
"""

from __future__ import annotations

import pytest

from datahike_async.konserve.testing.laws.binary import BinaryLaws
from datahike_async.konserve.testing.laws.cancellation import CancellationLaws
from datahike_async.konserve.testing.laws.concurrency import ConcurrencyLaws
from datahike_async.konserve.testing.laws.failure import FailureLaws
from datahike_async.konserve.testing.laws.journals import JournalLaws
from datahike_async.konserve.testing.laws.lifecycle import LifecycleLaws
from datahike_async.konserve.testing.laws.many_keys import ManyKeysLaws
from datahike_async.konserve.testing.laws.revisions import RevisionLaws
from datahike_async.konserve.testing.laws.sweeping import SweepLaws
from datahike_async.konserve.testing.laws.turns import TurnLaws
from datahike_async.konserve.testing.laws.values import ValueLaws

__all__ = ["StoreCompliance"]


@pytest.mark.anyio
class StoreCompliance(
    LifecycleLaws,
    ValueLaws,
    BinaryLaws,
    RevisionLaws,
    ManyKeysLaws,
    SweepLaws,
    JournalLaws,
    ConcurrencyLaws,
    TurnLaws,
    CancellationLaws,
    FailureLaws,
):
    """All laws of a store. Subclass it and override ``store_config``; see the module.

    ``matrix_name`` is the store's name in the support matrix, by default that of its backend; with
    "" it is left out.
    """
