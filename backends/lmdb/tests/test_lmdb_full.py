"""Full disks, and maps that cannot grow: nothing is half done, and the writer goes on."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.mounts import run_mounted

pytestmark = pytest.mark.anyio

MIB = 1 << 20


FULL = """
    import os, sys, uuid
    import anyio
    from datahike_async.konserve import KonserveError, StoreFull
    from datahike_async_lmdb import LmdbBackend

    async def main():
        config = {"id": uuid.uuid4(), "path": sys.argv[1] + "/s", "map-size": 1 << 20}
        store = await LmdbBackend().create(config)
        for i in range(1000):
            try:
                await store.write(f"{i:032x}", os.urandom(1000 + i * 997 % 60_000))
            except KonserveError as error:
                print(type(error).__name__)
                break
        assert await store.read(f"{i - 1:032x}") is not None
        assert await store.read(f"{i:032x}") is None
        await store.delete_many([f"{n:032x}" for n in range(40)])
        await store.write("ab" * 16, b"goes on")
        await store.close()

    anyio.run(main)
"""


@pytest.mark.parametrize("size", [2_000_000, 2_006_000, 2_012_000])
def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(tmp_path, size):
    assert run_mounted(tmp_path, f"size={size}", FULL) == "StoreFull\n"


OPENED_FULL = """
    import os, sys, uuid
    import anyio
    from datahike_async.konserve import StoreFull
    from datahike_async_lmdb import LmdbBackend

    async def main():
        config = {"id": uuid.uuid4(), "path": sys.argv[1] + "/s", "map-size": 1 << 20}
        await (await LmdbBackend().create(config)).close()
        os.unlink(config["path"] + "/lock.mdb")
        filler = os.open(sys.argv[1] + "/filler", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(filler, bytes(4096))
        except OSError:
            pass
        try:
            await LmdbBackend().connect(config)
        except StoreFull as error:
            print(type(error).__name__)
        os.close(filler)
        os.unlink(sys.argv[1] + "/filler")
        await (await LmdbBackend().connect(config)).close()

    anyio.run(main)
"""


def test_opening_on_a_full_disk_is_an_error_and_no_crash(tmp_path):
    assert run_mounted(tmp_path, "size=2000k", OPENED_FULL) == "StoreFull\n"


GOES_ON = """
    import os, sys
    import anyio
    import datahike_async as d

    root, say = sys.argv[1], lambda *words: print(*words, flush=True)
    store = {"backend": "lmdb", "path": root + "/s", "map-size": 1 << 20}

    def fill(left):
        room = os.statvfs(root)
        with open(root + "/filler", "wb") as out:
            out.write(bytes(max(room.f_bavail * room.f_frsize - left, 0)))

    async def main():
        config = {"store": store, "schema_flexibility": "read"}
        query = "[:find (count ?e) . :where [?e :n]]"
        async with d.connect(config, create=True) as conn:
            async def put(k, size):
                rows = [{":db/id": k * 20 + i + 1, ":n": i, ":text": os.urandom(size).hex()}
                        for i in range(20)]
                await conn.transact(rows)

            async def refused(call):
                try:
                    await call()
                except d.StorageError as error:
                    assert error.retryable and "make room and try again" in str(error), error
                    assert type(error.__cause__).__name__ == "StoreFull", error.__cause__
                    return True

            for k in range(20):
                await put(k, 150)
            fill(120_000)
            for k in range(20, 100):
                if await refused(lambda: put(k, 1500)):
                    break
            say("refused", await conn.db().q(query) == k * 20)
            # A flush has no more room than a transaction.
            say("flush refused", await refused(lambda: d.compact(conn)))
            say("nothing came of it", await conn.db().q(query) == k * 20)
            os.unlink(root + "/filler")
            await put(k, 150)
            await d.compact(conn)
            await put(k + 1, 150)
            say("goes on", await conn.db().q(query) == (k + 2) * 20)
        async with d.connect(config) as conn:
            say("all there", await conn.db().q(query) == (k + 2) * 20)
            say(str(await d.verify(conn)).partition(":")[0])

    anyio.run(main)
"""


def test_a_database_whose_disk_was_full_goes_on_when_there_is_room(tmp_path):
    said = run_mounted(tmp_path, "size=4m", GOES_ON).splitlines()
    assert said == [
        "refused True",
        "flush refused True",
        "nothing came of it True",
        "goes on True",
        "all there True",
        "nothing is wrong",
    ]


LIMITED = """
    import os, resource, sys
    import anyio
    from datahike_async.konserve import StoreFull
    from datahike_async_lmdb import LmdbBackend

    which, size = sys.argv[2], int(sys.argv[3])
    limit = getattr(resource, which)
    before = resource.getrlimit(limit)

    def used():
        if which == "RLIMIT_FSIZE":
            return os.path.getsize(sys.argv[1] + "/s/data.mdb")
        status = open("/proc/self/status").read()
        return int(status.partition("VmSize:")[2].split()[0]) * 1024

    async def main():
        store = await LmdbBackend().create({"path": sys.argv[1] + "/s", "map-size": size})
        await store.write("ab" * 16, b"before")
        resource.setrlimit(limit, (used() + size // 2, before[1]))
        for i in range(100):
            try:
                await store.write(f"{i:032x}", bytes(size // 10))
            except StoreFull as error:
                print("full", flush=True)
                break
        for _ in range(2):
            assert (await store.read("ab" * 16)).data == b"before"
            assert await store.read(f"{i - 1:032x}") is not None
            assert await store.read(f"{i:032x}") is None
            try:
                await store.write(f"{i:032x}", bytes(size // 10))
            except StoreFull as error:
                pass
        await store.delete(f"{0:032x}")
        await store.delete(f"{1:032x}")
        await store.write("cd" * 16, b"goes on")
        resource.setrlimit(limit, before)
        await store.write(f"{i:032x}", bytes(size))
        assert len((await store.read(f"{i:032x}")).data) == size
        assert (await store.read("cd" * 16)).data == b"goes on"
        await store.close()
        print("goes on")

    anyio.run(main)
"""


@pytest.mark.parametrize(("which", "size"), [("RLIMIT_FSIZE", 2 * MIB), ("RLIMIT_AS", 48 * MIB)])
def test_a_file_or_a_map_that_may_grow_no_further_refuses_what_does_not_fit(tmp_path, which, size):
    """As under a quota, of which the file system says nothing; and without room for addresses."""
    program = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path), which, str(size)]
    process = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "full\ngoes on\n"
