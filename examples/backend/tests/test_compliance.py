"""The suite of the library: whether this backend keeps the promises that its capabilities make."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from datahike_async.konserve.testing import StoreCompliance


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class TestSqlite(StoreCompliance):
    @pytest.fixture
    def store_config(self, tmp_path):
        return {"backend": "sqlite-example", "path": str(tmp_path / "store.sqlite")}


def test_it_is_found_by_its_entry_point():
    (point,) = entry_points(group="datahike_async.backends", name="sqlite-example")
    assert point.load().__name__ == "SqliteBackend"
