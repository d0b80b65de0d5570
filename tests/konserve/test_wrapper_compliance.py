"""Wrappers are stores themselves: each passes the public suite.

By default those that write to disks do so on one loop, and tiers between them on both.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from datahike_async.konserve.testing import StoreCompliance


def mostly(loop: str) -> Any:
    """Return a fixture of the loops: the other one is for the long run."""
    other = {"asyncio": "trio", "trio": "asyncio"}[loop]
    loops = [loop, pytest.param(other, marks=pytest.mark.slow)]

    @pytest.fixture(params=loops)
    def anyio_backend(self: Any, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    return anyio_backend


class Wrapped(StoreCompliance):
    many = 110
    """What lies behind has been held to more than a page by suites of its own."""


def memory() -> dict[str, Any]:
    return {"backend": "memory"}


def file(folder: Path) -> dict[str, Any]:
    return {"backend": "file", "path": str(folder / "file")}


def lmdb(folder: Path) -> dict[str, Any]:
    return {"backend": "lmdb", "path": str(folder / "lmdb")}


def tiered(front: dict[str, Any], back: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"backend": "tiered", "id": str(uuid.uuid4()), "frontend-config": front}
    return {**config, "backend-config": back, **{k.replace("_", "-"): v for k, v in more.items()}}


class TestTieredMemoryFile(Wrapped):
    matrix_name = "tiered (memory, file)"
    anyio_backend = mostly("trio")

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(memory(), file(tmp_path))


class TestTieredFileMemory(Wrapped):
    matrix_name = "tiered (file, memory)"
    anyio_backend = mostly("asyncio")

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(file(tmp_path), memory())


class TestTieredAround(Wrapped):
    matrix_name = "tiered (lmdb, memory), write-around"
    anyio_backend = mostly("trio")

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(lmdb(tmp_path), memory(), write_policy=":write-around")


class TestTieredBehind(Wrapped):
    matrix_name = "tiered (memory, file), write-behind"
    anyio_backend = mostly("asyncio")

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        return tiered(memory(), file(tmp_path), write_policy="write-behind")


class TestCaching(Wrapped):
    matrix_name = "caching (file)"
    anyio_backend = mostly("asyncio")

    @pytest.fixture
    def store_config(self, tmp_path: Path) -> dict[str, Any]:
        inner = file(tmp_path)
        return {
            "backend": "caching",
            "id": str(uuid.uuid4()),
            "config": inner,
            "max-bytes": 100_000,
        }


class TestRetrying(Wrapped):
    matrix_name = "retrying (memory)"

    @pytest.fixture
    def store_config(self) -> dict[str, Any]:
        return {"backend": "retrying", "id": str(uuid.uuid4()), "config": memory()}
