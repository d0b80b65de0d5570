"""A blob with a log of three records, and what its files hold."""

from __future__ import annotations

from pathlib import Path

from datahike_async.konserve.backends.file import FileBackend

NAME = "ab" * 16
NODE = "cd" * 16
RECORDS = [b"first", b"second" * 5, b"third"]


async def written(blobs, records=RECORDS):
    revision = await blobs.write(NAME, b"0")
    for record in records:
        revision = await blobs.append(NAME, record, revision)
    return revision


def file(config, suffix):
    (path,) = Path(config["path"]).glob(f"{NAME}.*{suffix}")
    return path


def contents(config):
    return {path.name: path.read_bytes() for path in Path(config["path"]).iterdir()}


async def opened_and_read(config):
    store = await FileBackend().connect(config)
    try:
        return await store.read_journal(NAME)
    finally:
        await store.close()
