"""What the tests of LMDB share: both event loops, and a store that does not exist yet."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def config(tmp_path):
    return {"backend": "lmdb", "id": uuid.uuid4(), "path": str(tmp_path / "s"), "map-size": 1 << 20}
