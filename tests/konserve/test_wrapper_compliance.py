"""Wrappers are stores themselves: each passes the public suite."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from datahike_async.konserve.testing import StoreCompliance


def memory() -> dict[str, Any]:
    return {"backend": "memory"}


def file(folder: Path) -> dict[str, Any]:
    return {"backend": "file", "path": str(folder / "file")}


def lmdb(folder: Path) -> dict[str, Any]:
    return {"backend": "lmdb", "path": str(folder / "lmdb")}


def tiered(front: dict[str, Any], back: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"backend": "tiered", "id": str(uuid.uuid4()), "frontend-config": front}
    return {**config, "backend-config": back, **{k.replace("_", "-"): v for k, v in more.items()}}


class TestTieredMemoryFile(StoreCompliance):
    matrix_name = "tiered (memory, file)"

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(memory(), file(tmp_path))


class TestTieredFileMemory(StoreCompliance):
    matrix_name = "tiered (file, memory)"

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(file(tmp_path), memory())


class TestTieredAround(StoreCompliance):
    matrix_name = "tiered (lmdb, memory), write-around"

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(lmdb(tmp_path), memory(), write_policy=":write-around")


class TestTieredBehind(StoreCompliance):
    matrix_name = "tiered (memory, file), write-behind"

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(memory(), file(tmp_path), write_policy="write-behind")


class TestCaching(StoreCompliance):
    matrix_name = "caching (file)"

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        inner = file(tmp_path)
        return {
            "backend": "caching",
            "id": str(uuid.uuid4()),
            "config": inner,
            "max-bytes": 100_000,
        }


class TestRetrying(StoreCompliance):
    matrix_name = "retrying (memory)"

    @pytest.fixture
    def store_config(self) -> dict[str, Any]:
        return {"backend": "retrying", "id": str(uuid.uuid4()), "config": memory()}
