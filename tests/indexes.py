"""The built-in indexes, for tests that run over them, with nodes and buffers that few rows fill."""

from __future__ import annotations

from typing import Any

TREE = {
    "index": ":datahike.index/hitchhiker-tree",
    "index_config": {"index-b-factor": 4, "index-data-node-size": 8, "index-log-size": 12},
}
SET = {"index": ":datahike.index/persistent-set", "index_config": {"branching-factor": 8}}

INDEXES: dict[str, dict[str, Any]] = {"persistent-set": SET, "hitchhiker-tree": TREE}
"""By name, what a database with that index is made with."""
