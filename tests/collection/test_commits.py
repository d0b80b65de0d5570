"""Each of many random commits on five branches is what it was."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.collection.commits import looked_at

pytestmark = pytest.mark.anyio


LONG = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
@pytest.mark.parametrize(
    ("count", "index"),
    [
        (60, "persistent-set"),
        (30, "hitchhiker-tree"),
        pytest.param(2000, "persistent-set", marks=LONG),
        pytest.param(2000, "hitchhiker-tree", marks=LONG),
    ],
)
async def test_every_commit_is_what_it_was(count: int, index: str, history: bool) -> None:
    store: dict[str, Any] = {"backend": "memory", "id": uuid4()}
    before, after = await looked_at(store, count, 5, 7, history=history, index=index)
    assert before == count
    assert 0 < after <= count
