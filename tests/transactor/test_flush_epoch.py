"""A flush whose nodes were written before a collection began is not published after it.

The collector knows nothing of nodes that nothing names yet, and may delete them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.storage.branches.head import encode_head
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.keys import head_key
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return store


async def fence(store: dict[str, Any]) -> None:
    """Tell the branch of a collection, as a collector does: nothing else of it changes."""
    opened = await stores.connect_store(store)
    state = await read_branch(opened, "db", store["id"])
    assert state is not None
    head = replace(
        state.head,
        epoch=state.head.epoch + 1,
        generation=state.generation + 1,
        recent=state.recent.after(uuid4()),
        tail=state.tail.stored(),
    )
    await opened.assoc(head_key("db"), encode_head(head), expected_revision=state.revision)
    await stores.release_store(opened)


@pytest.mark.parametrize("fault", [False, True], ids=["", "published all the same"])
@pytest.mark.parametrize("meets", ["by itself", "when it publishes"])
async def test_a_flush_of_an_older_epoch_is_stale(
    store: dict[str, Any], meets: str, fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=NEVER) as conn:
        for i in range(50):
            await conn.transact([{":n": i}])
        transactor = conn._transactor
        branch, flushing = transactor.branch, transactor.flushing
        before = branch.committer.base.id
        prepared = await branch.prepare_flush()
        await fence(store)
        if meets == "by itself":
            await conn.sync()
        flushing.written(prepared)
        if fault:
            monkeypatch.setattr(Branch, "is_current", lambda *_: True)
        # The actor publishes what is prepared before it does anything else.
        await conn.sync()
        await conn.transact([{":n": 50}])
        assert branch.committer.epoch == 1
        published = branch.committer.base.id != before
        # One that meets the fence as it publishes learns of it in time, whatever it thinks.
        assert published is (fault and meets == "by itself")
        if fault:
            return
        assert len(await conn.db().datoms("aevt", ":n")) == 51
        flushing.written(await branch.prepare_flush())
        await conn.transact([{":n": 51}])
        assert branch.committer.base.id != before
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 52
        assert conn._transactor.branch.committer.epoch == 1
