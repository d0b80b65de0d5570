"""What a newer version put into a head stays there, whatever this version does beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.head import encode_head
from datahike_async.storage.branches.read import read_branch, read_head
from datahike_async.storage.keys import head_key
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio


async def put(store: Store, branch: str, **extra: Any) -> None:
    """Put something into a head, as a newer version does that commits nothing with it."""
    state = await read_branch(store, branch, None)
    assert state is not None
    made = replace(
        state.head,
        generation=state.generation + 1,
        recent=state.recent,
        tail=state.tail.stored(),
        extra={**state.head.extra, **extra},
    )
    await store.assoc(head_key(branch), encode_head(made), expected_revision=state.revision)


async def extra(store: Store, branch: str) -> Any:
    head, _ = await read_head(store, branch)
    assert head is not None
    return head.extra


@pytest.mark.parametrize("backend", ["memory", "file"])
@pytest.mark.parametrize("what", ["commit", "load", "flush", "deletion"])
async def test_what_a_newer_version_put_into_a_head_stays(
    backend: str, what: str, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"backend": backend, "id": uuid4()}
    if backend == "file":
        where["path"] = str(tmp_path / "db")
    config = {"store": where, "schema_flexibility": "read"}
    limits = Limits(close_rows=1 if what == "flush" else 10**9)
    async with d.connect(config, create=True) as main:
        store = main._transactor.branch.store
        await d.branch(main, ":db", ":trial")
        async with d.connect(store=where, branch="trial", limits=limits) as trial:
            await put(store, "trial", first=1)
            await trial.transact([{":n": 1}])
            # This writer has the branch as it was before, and nothing is new but this.
            await put(store, "trial", second=[2])
            rows = 1500 if what == "load" else 1
            await trial.transact([{":n": i} for i in range(rows)])
            assert len(await trial.db().datoms("aevt", ":n")) == 1 + rows
        if what == "deletion":
            await d.delete_branch(main, ":trial")
        assert await extra(store, "trial") == {"first": 1, "second": [2]}
