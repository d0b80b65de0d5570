"""The LMDB backend passes the public suite, and a database runs on it, found by its entry point."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid
from importlib.metadata import entry_points

import pytest

import datahike_async as d
from datahike_async.konserve.testing import StoreCompliance


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class TestLmdb(StoreCompliance):
    @pytest.fixture
    def store_config(self, tmp_path):
        return {"backend": "lmdb", "id": str(uuid.uuid4()), "path": str(tmp_path / "store")}


def test_it_is_found_by_its_entry_point():
    (point,) = entry_points(group="datahike_async.backends", name="lmdb")
    assert point.load().__name__ == "LmdbBackend"


@pytest.mark.anyio
async def test_a_database_outlives_its_process(tmp_path):
    path = tmp_path / "people"
    script = f"""
        import anyio
        import datahike_async as d

        config = {{"store": {{"backend": "lmdb", "path": {str(path)!r}, "map-size": 1 << 20}}}}

        async def main():
            await d.create_database(config, schema_flexibility="read")
            async with d.connect(config) as conn:
                for i in range(30):
                    # More than the first map holds: it has to grow.
                    await conn.transact([{{":n": i, ":text": str(j) * 400}} for j in range(40)])

        anyio.run(main)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    config = {"store": {"backend": "lmdb", "path": str(path)}}
    async with d.connect(config) as conn:
        assert await conn.db().q("[:find (count ?e) . :where [?e :n _]]") == 1200
    await d.delete_database(config)
    assert not await d.database_exists(config)


@pytest.mark.anyio
async def test_the_map_grows(tmp_path):
    from datahike_async.konserve import create_store

    store = await create_store(
        {"backend": "lmdb", "path": str(tmp_path / "s"), "map-size": 1 << 20, "compressor": "none"}
    )
    for i in range(8):
        await store.bassoc(i, bytes([i]) * 400_000)
    assert [await store.bget(i, 0, 1) for i in range(8)] == [bytes([i]) for i in range(8)]
    await store.release()
