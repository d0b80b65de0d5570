"""What the how-tos define does what they say; that all their code runs is tested beside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.anyio


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


async def test_retrying_safely(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/how-to/retry-safely.md"):
        exec(compile(block, "retry-safely.md", "exec"), names)
    config = {**names["config"], "store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config, schema_flexibility="read")
    first = await names["place_order"](config, 7, [{":order/item": "tea"}])
    again = await names["place_order"](config, 7, [{":order/item": "tea"}])
    assert (first.tx, again.tx, again.repeated) == (first.tx, first.tx, True)
    shared = {"store": config["store"]}
    async with d.connect(shared) as conn:
        made = await conn.transact([{":db/id": "c", ":counter/n": 0}])
        counter = made.tempids["c"]
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(names["count_up"], conn, counter)
        assert (await conn.db().pull("[:counter/n]", counter))[":counter/n"] == 5
