"""Store configurations for tests that run on every backend."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.servers.programs import S3Server
from tests.servers.s3 import config_on

LOCAL = ["memory", "file", "lmdb"]
REMOTE = ["s3-moto", "s3-ministack"]
TIERED = ["tiered-memory-s3", "tiered-file-s3"]

LOOPS = {
    "s3-moto": "asyncio",
    "s3-ministack": "trio",
    "tiered-memory-s3": "asyncio",
    "tiered-file-s3": "trio",
}
"""From which loop a store on a server is asked by default; the long run asks it from both."""


def on_loops(names: Sequence[str]) -> list[Any]:
    """Return parameters for ``anyio_backend`` and for a store by its name."""
    return [
        pytest.param(
            loop,
            name,
            id=f"{loop}-{name}",
            marks=[pytest.mark.slow] if LOOPS.get(name, loop) != loop else [],
        )
        for loop in ("asyncio", "trio")
        for name in names
    ]


Servers = Callable[[str], S3Server]


def store_on(name: str, folder: Path, servers: Servers) -> dict[str, Any]:
    """Return the configuration of a store that does not exist yet, on a backend by its name here.

    ``folder`` is for what lies in files; ``servers`` starts a server by name.
    """
    id_ = str(uuid.uuid4())
    if name == "memory":
        return {"backend": "memory", "id": id_}
    if name in ("file", "lmdb"):
        return {"backend": name, "id": id_, "path": str(folder / f"{name}-{id_}")}
    if name.startswith("s3-"):
        return {**config_on(servers(name.removeprefix("s3-"))), "id": id_}
    if name.startswith("tiered-"):
        front = store_on(name.split("-")[1], folder, servers)
        back = store_on("s3-moto", folder, servers)
        return {
            "backend": "tiered",
            "id": id_,
            "frontend-config": {**front, "id": id_},
            "backend-config": {**back, "id": id_},
        }
    raise AssertionError(f"no store is called {name}")


def on(config: dict[str, Any], branch: str) -> dict[str, Any]:
    """Return what to connect to a branch with of the database that a configuration is of."""
    return {"store": config["store"], "branch": branch}
