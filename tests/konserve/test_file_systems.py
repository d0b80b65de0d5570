"""The file backend on systems that lack what Linux has: the calls are taken away, or replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from datahike_async.konserve import KonserveError
from datahike_async.konserve.backends import file_io
from datahike_async.konserve.backends.file import FileBackend

WINDOWS = """
    import os, sys

    sys.modules["fcntl"] = None
    for name in ("fdatasync", "fork", "register_at_fork", "pread", "pwrite", "O_CLOEXEC",
                 "O_DIRECTORY", "O_NOFOLLOW", "ST_RDONLY", "fstatvfs"):
        if hasattr(os, name):
            delattr(os, name)

    import anyio
    import datahike_async as d
    from datahike_async.errors import DatahikeError

    async def main():
        # What lies in memory works as everywhere.
        memory = {"store": {"backend": "memory", "id": "0d4d1f1e-7a3c-4b0e-9d3e-2f6a1c5b8e77"}}
        await d.create_database(memory)
        async with d.connect(memory) as conn:
            await conn.transact(
                "[{:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]"
            )
            await conn.transact([{":n": 1}])
            assert await d.q("[:find ?n . :where [_ :n ?n]]", conn.db()) == 1
        for backend in ("file", "lmdb"):
            store = {"store": {"backend": backend, "path": sys.argv[1]}}
            for call in (d.create_database(store), d.connect(store).__aenter__()):
                try:
                    await call
                except DatahikeError as error:
                    assert "fcntl" in str(error) and f":{backend}" in str(error), error
                else:
                    raise AssertionError("a store without locks")
        assert not os.path.exists(sys.argv[1])

    anyio.run(main)
"""


def test_without_posix_locks_all_works_but_files_and_lmdb_which_say_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WINDOWS), str(tmp_path / "db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.anyio
async def test_without_fdatasync_files_are_synced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    blobs = await FileBackend().create({"path": str(tmp_path / "s"), "id": uuid.uuid4()})
    revision = await blobs.append("ab", b"1", await blobs.write("ab", b"0"))
    synced.clear()
    await blobs.append("ab", b"2", revision)
    assert len(synced) == 1
    await blobs.close()


@pytest.mark.anyio
async def test_where_there_is_a_sync_through_the_drive_it_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS fsync leaves data in the drive's memory."""
    full, plain = [], []
    refused = 0
    original = file_io.fcntl.fcntl

    def fcntl(fd: int, command: int, *rest: int) -> int:
        if command != 51:
            return original(fd, command, *rest)
        if refused:
            raise OSError(refused, os.strerror(refused))
        full.append(fd)
        return 0

    monkeypatch.setattr(file_io.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(file_io.fcntl, "fcntl", fcntl)
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(os, "fsync", plain.append)
    blobs = await FileBackend().create({"path": str(tmp_path / "s"), "id": uuid.uuid4()})
    revision = await blobs.append("ab", b"1", await blobs.write("ab", b"0"))
    # The folder above, the store's own, its files: all of them.
    assert len(full) > 5
    assert plain == []
    # A file system that has it not (a network's) has the plain one.
    refused = errno.ENOTSUP
    full.clear()
    await blobs.append("ab", b"2", revision)
    assert (full, len(plain)) == ([], 1)
    await blobs.close()


@pytest.mark.anyio
@pytest.mark.parametrize("code", [errno.EROFS, errno.EINVAL])
async def test_a_medium_that_is_read_only_needs_no_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blobs = await FileBackend().create({"path": str(tmp_path / "s"), "id": uuid.uuid4()})
    await blobs.append("ab", b"1", await blobs.write("ab", b"0"))
    await blobs.close()
    for path in (tmp_path / "s").glob("*.mark"):
        path.unlink()
    (tmp_path / "s" / "settled").unlink()

    def refused(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(os, "fdatasync", refused)
    blobs = await FileBackend().connect({"path": str(tmp_path / "s")})
    with pytest.raises(KonserveError):
        await blobs.read_journal("ab")

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "fstatvfs", lambda _: ReadOnly)
    blobs = await FileBackend().connect({"path": str(tmp_path / "s")})
    assert (await blobs.read_journal("ab")).records == [b"1"]
    await blobs.close()
