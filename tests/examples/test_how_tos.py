"""The code of the how-tos runs as it stands there, and README's configurations are some."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
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


def test_the_configs_of_the_readme_are_some() -> None:
    found = [block for block in blocks("README.md")[1:] if block.startswith("config =")]
    assert len(found) > 1
    for block in found:
        names: dict[str, Any] = {}
        exec(block, names)
        assert d.Config.of(names["config"]).store["backend"]


async def test_what_the_readme_does_with_rows() -> None:
    (block,) = [block for block in blocks("README.md") if block.startswith("rows =")]
    body = indent(block + "return rows, frame, arrays", "    ")
    names: dict[str, Any] = {"d": d}
    exec(f"async def run(db):\n{body}", names)
    db = await d.empty_db({":person/knows": {":db/valueType": ":db.type/ref"}}).db_with(
        [{":db/id": 1, ":person/name": "Ann", ":person/knows": 2}]
    )
    rows, frame, arrays = await names["run"](db)
    assert list(rows) == frame.rows() == [("Ann", 1)]
    assert list(arrays) == ["name", "count"]


def test_every_config_of_choosing_a_backend_is_one() -> None:
    first, second = blocks("docs/how-to/choose-a-backend.md")
    found = [line.partition("= ")[2] for line in first.splitlines()]
    for text in [*found, f'{{"store": {second}}}']:
        assert d.Config.of(eval(text)).store["backend"]
