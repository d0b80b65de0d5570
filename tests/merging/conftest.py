"""Branches and stores to merge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from tests.merging.two import SCHEMA, START, Two


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    out: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        out["path"] = str(tmp_path / "db")
    return out


@pytest.fixture
async def two(anyio_backend: str) -> AsyncIterator[Two]:
    config = {"store": {"backend": "memory", "id": uuid4()}}
    async with d.connect(config, create=True) as ours:
        await ours.transact(SCHEMA)
        await ours.transact(START)
        await d.branch(ours, ":db", ":theirs")
        async with d.connect(ours.config, branch=":theirs") as theirs:
            yield Two(ours, theirs)
