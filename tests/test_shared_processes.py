"""Several processes write to one branch of one file database: nothing is lost, nothing is twice."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import datahike_async as d

PROGRAM = """
    import sys
    import anyio
    import datahike_async as d
    from datahike_async.transactor.limits import Limits

    async def main():
        me = int(sys.argv[1])
        async with d.connect({config!r}, limits=Limits(flush_rows=50)) as conn:
            for i in range(40):
                await conn.transact(
                    [{{":writer": me, ":i": i}}, {{":db/id": 7777, ":last": me * 1000 + i}}]
                )

    anyio.run(main)
"""


@pytest.mark.anyio
async def test_all_commits_of_all_processes_are_there(tmp_path):
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config, schema_flexibility="read")
    program = textwrap.dedent(PROGRAM).format(config=config)
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)
    ]
    assert [process.wait() for process in writers] == [0] * 4
    async with d.connect(config) as conn:
        db = conn.db()
        rows = await db.q("[:find ?w ?i (count ?e) :where [?e :writer ?w] [?e :i ?i]]")
        assert len(rows) == 160
        assert {count for _, _, count in rows} == {1}
        assert await db.q("[:find (count ?t) . :where [?t :db/txInstant _]]") == 160
        changes = await db.history().datoms("eavt", 7777, ":last")
        assert sum(1 if x.added else -1 for x in changes) == 1
