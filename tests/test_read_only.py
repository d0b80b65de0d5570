"""A database that is only read: by the config's word, or because its medium is such."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import ConfigError, WriterError
from datahike_async.konserve import StoreConfigError, StoreDenied
from datahike_async.konserve import opening as stores
from tests.mounts import run_mounted
from tests.servers.programs import S3Server
from tests.stores import store_on

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        *("memory", "file", "lmdb"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3-moto", "tiered-memory-s3")),
    ]
)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> dict[str, Any]:
    store = store_on(request.param, tmp_path, servers)
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": 1}])
    return store


async def values(conn: d.Connection) -> list[Any]:
    return [x.v for x in await conn.db().datoms("aevt", ":n")]


async def test_who_only_reads_is_refused_by_name_when_writing(store: dict[str, Any]) -> None:
    async with d.connect(store=store, read_only=True) as reader:
        assert await values(reader) == [1]
        with pytest.raises(WriterError, match="read_only") as caught:
            await reader.transact([{":n": 2}])
        assert caught.value.error == ":writer/read-only"
        # It shares nothing with those who write beside it, and follows them.
        if store["backend"] != "lmdb":
            async with d.connect(store=store) as writer:
                await writer.transact([{":n": 3}])
            await reader.sync()
            assert await values(reader) == [1, 3]
        # What can be done without writing goes on.
        assert (await reader.db().with_([{":n": 4}])).db_after.max_tx > reader.db().max_tx
    for spelled in ({":read-only?": True}, {"read-only": True}):
        async with d.connect({"store": store, **spelled}) as reader:
            assert 1 in await values(reader)
    assert await d.database_exists(store=store, read_only=True)


async def test_nothing_is_created_or_deleted_by_who_only_reads(store: dict[str, Any]) -> None:
    for call in (
        lambda: d.create_database(store=store, read_only=True),
        lambda: d.delete_database(store=store, read_only=True),
    ):
        with pytest.raises(ConfigError, match="read_only"):
            await call()
    with pytest.raises(ConfigError, match="true or false"):
        d.Config.of(store=store, read_only="yes")
    async with d.connect(store=store) as conn:
        assert await values(conn) == [1]


async def test_a_store_that_is_opened_to_be_read_refuses_all_that_writes(
    store: dict[str, Any],
) -> None:
    opened = await stores.connect_store({**store, "read-only": True})
    assert opened.read_only
    assert await opened.exists("head/db")
    for call in (
        lambda: opened.assoc("k", 1),
        lambda: opened.bassoc("k", b"1"),
        lambda: opened.dissoc("k"),
        lambda: opened.multi_assoc({"k": 1}),
        lambda: opened.multi_dissoc(["k"]),
        lambda: opened.update("k", lambda _: 1),
        lambda: opened.append("k", 1),
    ):
        with pytest.raises(StoreDenied, match="nothing was written"):
            await call()
    await opened.release()
    with pytest.raises(StoreDenied):
        await stores.delete_store({**store, "read-only": True})
    with pytest.raises(StoreConfigError, match="read-only"):
        await stores.create_store({**store, "read-only": True})
    with pytest.raises(StoreConfigError, match="true or false"):
        await stores.connect_store({**store, "read-only": 1})


@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_reading_makes_no_file(tmp_path: Path, backend: str) -> None:
    store = {"backend": backend, "path": str(tmp_path / "db")}
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": 1}])
    folder = tmp_path / "db"
    for name in ("lock", "lock.mdb", "turn", "turn.next", "making", "settled"):
        (folder / name).unlink(missing_ok=True)

    def found() -> dict[str, tuple[int, bytes]]:
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}

    before = found()
    assert await d.database_exists(store=store, read_only=True)
    async with d.connect(store=store, read_only=True) as reader:
        assert await values(reader) == [1]
        await reader.sync()
        with pytest.raises(WriterError):
            await reader.transact([{":n": 2}])
    assert found() == before


READ = """
    import os, sys
    from tempfile import TemporaryDirectory
    import anyio
    import datahike_async as d

    async def main():
        if {user}:
            # Another user may not be allowed to import: all is loaded before.
            with TemporaryDirectory() as warm:
                store = {{"backend": {backend!r}, "path": warm + "/db"}}
                for options in ({{"create": True}}, {{"read_only": True}}):
                    async with d.connect(store=store, **options) as conn:
                        await conn.db().q("[:find ?e :where [?e :db/ident]]")
                await d.delete_database(store=store)
            os.setuid({user})
        store = {{"backend": {backend!r}, "path": sys.argv[1] + "/db"}}
        for options in ({{}}, {{"read_only": True}}):
            assert await d.database_exists(store=store, **options)
            async with d.connect(store=store, **options) as conn:
                print([x.v for x in await conn.db().datoms("aevt", ":n")])
                await conn.sync()
                try:
                    await conn.transact([{{":n": 2}}])
                except d.WriterError as error:
                    print(error.error)
        try:
            async with d.connect(store={{**store, "path": sys.argv[1] + "/new"}}, create=True):
                pass
        except d.DatahikeError as error:
            print(type(error).__name__)

    anyio.run(main)
"""

SAID = "[1]\n:writer/read-only\n" * 2 + "StorageError\n"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("leftovers", [True, False], ids=["as it was", "without locks"])
@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_a_read_only_medium_is_read(tmp_path: Path, backend: str, leftovers: bool) -> None:
    store = {"backend": backend, "path": str(tmp_path / "db")}
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": 1}])
    if not leftovers:
        for name in ("lock", "lock.mdb", "turn", "turn.next", "making", "settled"):
            (tmp_path / "db" / name).unlink(missing_ok=True)
    program = READ.format(backend=backend, user=0)
    assert run_mounted(tmp_path, "ro", program, bind=True) == SAID


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("backend", ["file", "lmdb"])
async def test_what_this_user_may_not_write_is_read(backend: str) -> None:
    # The folders of pytest are closed to other users.
    with TemporaryDirectory() as name:
        await _read_by_another_user(Path(name), backend)


async def _read_by_another_user(tmp_path: Path, backend: str) -> None:
    tmp_path.chmod(0o755)
    store = {"backend": backend, "path": str(tmp_path / "db")}
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        await conn.transact([{":n": 1}])
    for file in (tmp_path / "db").iterdir():
        file.chmod(0o644)
    (tmp_path / "db").chmod(0o755)
    program = textwrap.dedent(READ.format(backend=backend, user=65534))
    found = await anyio.run_process([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert (found.stdout.decode(), found.returncode) == (SAID, 0), found.stderr.decode()


async def test_who_writes_beside_a_reader_on_lmdb_writes_whoever_was_first(tmp_path: Path) -> None:
    store = {"backend": "lmdb", "path": str(tmp_path / "people")}
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, read_only=True) as reader, d.connect(store=store) as writer:
        await writer.transact([{":n": 1}])
        assert await values(reader) == []
        await reader.sync()
        assert await values(reader) == [1]
        with pytest.raises(WriterError, match="read_only"):
            await reader.transact([{":n": 2}])
    async with d.connect(store=store) as writer, d.connect(store=store, read_only=True) as reader:
        await writer.transact([{":n": 2}])
        await reader.sync()
        assert sorted(await values(reader)) == [1, 2]
