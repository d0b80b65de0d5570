"""The S3 backend passes the public suite on every server that honours conditions."""

from __future__ import annotations

from typing import Any

import pytest

from datahike_async.konserve.testing import StoreCompliance


class TestS3(StoreCompliance):
    @pytest.fixture
    def store_config(self, store_config: dict[str, Any]) -> dict[str, Any]:
        return store_config
