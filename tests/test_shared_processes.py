"""Several processes write to one branch: nothing is lost, nothing is twice, contention shows."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import datahike_async as d
from tests.servers.programs import S3Server
from tests.stores import store_on

PROGRAM = """
    import sys
    import anyio
    import datahike_async as d
    from datahike_async.transactor.branch import Branch
    from datahike_async.transactor.limits import Limits

    conflicts = 0
    adopt = Branch.adopt

    async def counted(self, state):
        global conflicts
        conflicts += 1
        await adopt(self, state)

    async def main():
        me, count = int(sys.argv[1]), int(sys.argv[2])
        async with d.connect({config!r}, limits=Limits(flush_rows=50)) as conn:
            Branch.adopt = counted
            print("ready", flush=True)
            sys.stdin.readline()  # all begin together
            for i in range(count):
                while True:
                    try:
                        await conn.transact(
                            [{{":writer": me, ":i": i}}, {{":db/id": 7777, ":last": me * 1000 + i}}]
                        )
                        break
                    except d.HeadConflict:
                        continue
        print(conflicts)

    anyio.run(main)
"""


@pytest.fixture(params=["file", "lmdb", "s3-ministack"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> Mapping[str, Any]:
    return store_on(request.param, tmp_path, servers)


async def _race(store: Mapping[str, Any], count: int) -> int:
    """Let four processes commit ``count`` times each; return how often one was overtaken."""
    config = {"store": dict(store)}
    await d.create_database(config, schema_flexibility="read")
    program = textwrap.dedent(PROGRAM).format(config=config)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in writers]
    assert [process.returncode for process in writers] == [0] * 4
    async with d.connect(config) as conn:
        db = conn.db()
        rows = await db.q("[:find ?w ?i (count ?e) :where [?e :writer ?w] [?e :i ?i]]")
        assert set(rows) == {(w, i, 1) for w in range(4) for i in range(count)}
        # Each commit is one transaction of the chain.
        txs = await db.q("[:find [?t ...] :where [?t :db/txInstant _]]")
        assert len(txs) == 4 * count
        assert max(txs) - min(txs) == 4 * count - 1
        changes = await db.history().datoms("eavt", 7777, ":last")
        assert sum(1 if x.added else -1 for x in changes) == 1
    await d.delete_database(config)
    return sum(map(int, outputs))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_all_commits_of_all_processes_are_there(store: Mapping[str, Any]) -> None:
    assert await _race(store, 25) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_thousand_commits_of_four_processes(
    store: Mapping[str, Any], record_property: Callable[[str, object], None]
) -> None:
    conflicts = await _race(store, 500)
    record_property("conflicts", conflicts)
    print(f"{store['backend']}: 2,000 commits, {conflicts} conflicts")
    assert conflicts > 0
