"""The S3 backend passes the public suite on every server that honours conditions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datahike_async_s3.store import S3BlobStore

from datahike_async.konserve.testing import StoreCompliance
from tests.servers.programs import S3Server


class TestS3(StoreCompliance):
    many = 110
    """More than two pages: each key is a request. The long run lists as many as elsewhere."""

    @pytest.fixture(params=["moto", pytest.param("ministack", marks=pytest.mark.slow)])
    def server(self, request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> Any:
        # The second server takes as long again, as does the other loop; other tests run on both.
        return servers(request.param)

    @pytest.fixture
    def store_config(
        self, store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, Any]:
        ask = S3BlobStore._ask

        async def asked(self: S3BlobStore, operation: str, *names: str, **parameters: Any) -> Any:
            if operation == "list_objects_v2":
                parameters["MaxKeys"] = 50
            return await ask(self, operation, *names, **parameters)

        monkeypatch.setattr(S3BlobStore, "_ask", asked)
        return store_config


def tiered(front: dict[str, Any], back: dict[str, Any]) -> dict[str, Any]:
    parts = {"frontend-config": front, "backend-config": back}
    return {"backend": "tiered", "id": back["id"], **parts}


@pytest.mark.slow
class TestMemoryBeforeS3(StoreCompliance):
    matrix_name = "tiered (memory, s3)"

    @pytest.fixture
    def store_config(self, store_config: dict[str, Any]) -> dict[str, Any]:
        return tiered({"backend": "memory"}, store_config)


@pytest.mark.slow
class TestFileBeforeS3(StoreCompliance):
    matrix_name = "tiered (file, s3)"

    @pytest.fixture
    def store_config(self, store_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
        return tiered({"backend": "file", "path": str(tmp_path / "front")}, store_config)
