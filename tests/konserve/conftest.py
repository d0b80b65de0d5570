"""A file store of blobs, for the tests that look at what lies in its folder."""

from __future__ import annotations

import uuid

import pytest

from datahike_async.konserve.backends.file import FileBackend


@pytest.fixture
def config(tmp_path):
    return {"id": uuid.uuid4(), "path": str(tmp_path / "s")}


@pytest.fixture
async def blobs(config):
    store = await FileBackend().create(config)
    yield store
    await store.close()
