"""The suite on every broken store; ``test_compliance`` runs it and expects the failures."""

import uuid

import pytest

from datahike_async.konserve import register_backend
from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.errors import OutcomeUnknown
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing import StoreCompliance
from datahike_async.konserve.testing.negative import BROKEN
from datahike_async.konserve.testing.sound import Specimens


class OfKind(StoreCompliance):
    @pytest.fixture
    def store_config(self):
        register_backend("planted", Specimens(self.kind))
        return {"backend": "planted", "id": str(uuid.uuid4())}


for name, planted in BROKEN.items():
    globals()[f"Test{name}"] = type(f"Test{name}", (OfKind,), {"kind": planted.kind})


class TestRetriesBlindly(OfKind):
    """No flaw of a backend: what the layer above must not do."""

    kind = MemoryBlobStore

    @pytest.fixture(autouse=True)
    def retries(self, monkeypatch):
        for operation in ("update", "append"):
            once = getattr(Store, operation)

            async def twice(self, *args, once=once, **options):
                try:
                    return await once(self, *args, **options)
                except OutcomeUnknown:
                    return await once(self, *args, **options)

            monkeypatch.setattr(Store, operation, twice)
