"""A backend of datahike-async on Python's own sqlite3; docs/how-to/write-a-backend.md tells why."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import datahike_async.konserve as k

T = TypeVar("T")
# A blob is a row, and its revision the row's id, which AUTOINCREMENT never gives out twice.
TABLE = "CREATE TABLE konserve (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, data BLOB)"
# A store that is made again must not repeat the revisions of the one before.
SEED = "INSERT INTO sqlite_sequence VALUES ('konserve', random() & 0xffffffffffff)"
ERRORS = {
    "SQLITE_FULL": k.StoreFull,
    "SQLITE_BUSY": k.StoreUnavailable,
    "SQLITE_CORRUPT": k.CorruptValue,
    "SQLITE_NOTADB": k.CorruptValue,
    "no such table": k.StoreNotFound,  # never made, or deleted by another process
    "already exists": k.StoreExists,
    "closed database": k.StoreClosed,
}


@contextmanager
def translated(otherwise: type[k.KonserveError] = k.StoreIOError) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        text = f"{getattr(error, 'sqlite_errorname', 'SQLite')}: {error}"
        kind = next((kind for part, kind in ERRORS.items() if part in text), otherwise)
        raise kind(text) from error


class SqliteBlobStore(k.BlobStoreBase):
    capabilities = k.Capabilities(
        conditional=k.ConditionalDomain.MACHINE, atomic_multi=True, ranged_reads=False
    )

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db, self.lock = db, threading.Lock()

    async def hop(self, call: Callable[..., T], *args: Any) -> T:
        return await k.in_thread(self.alone, call, *args)  # once begun it is waited for

    def alone(self, call: Callable[..., T], *args: Any) -> T:
        with self.lock, translated():
            return call(*args)

    def rows(self, select: str, parameters: Sequence[Any]) -> list[Any]:
        return self.db.execute(select, parameters).fetchall()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> k.Blob | None:
        rows = await self.hop(self.rows, "SELECT data, id FROM konserve WHERE name = ?", [name])
        return k.Blob(rows[0][0][start:end], str(rows[0][1])) if rows else None

    async def names(self) -> AsyncIterator[Sequence[str]]:
        select = "SELECT name FROM konserve WHERE name > ? ORDER BY name LIMIT 1000"
        page = [("",)]
        while page := await self.hop(self.rows, select, page[-1]):
            yield [name for (name,) in page]

    async def write(self, name: str, data: bytes, expected: k.Expected = None) -> k.Revision:
        return (await self.write_many([k.Write(name, data, expected)]))[0]

    async def write_many(
        self, writes: Sequence[k.Write], *, ordered: bool = True
    ) -> Sequence[k.Revision]:
        return await self.hop(self.write_now, writes)

    def write_now(self, writes: Sequence[k.Write]) -> list[k.Revision]:
        replace, revisions = "REPLACE INTO konserve (name, data) VALUES (?, ?)", []
        with self.transaction():
            for name, data, expected in writes:
                self.check(name, expected)
                revisions.append(str(self.db.execute(replace, [name, data]).lastrowid))
        return revisions

    async def delete(self, name: str, expected: k.Expected = None) -> bool:
        return await self.hop(self.delete_now, name, expected)

    def delete_now(self, name: str, expected: k.Expected) -> bool:
        with self.transaction():
            self.check(name, expected)
            return self.db.execute("DELETE FROM konserve WHERE name = ?", [name]).rowcount > 0

    def check(self, name: str, expected: k.Expected) -> None:
        rows = self.rows("SELECT id FROM konserve WHERE name = ?", [name])
        k.require_revision(name, expected, str(rows[0][0]) if rows else None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")  # other processes wait here
        with translated(otherwise=k.OutcomeUnknown), self.db, translated():
            yield  # then self.db commits, or rolls back where this or its commit failed

    async def close(self) -> None:
        await k.in_thread(self.close_now, surely=True)

    def close_now(self) -> None:
        with self.lock:
            self.db.close()


class SqliteBackend:
    keys = public = frozenset({"path"})
    undo = staticmethod(SqliteBlobStore.close_now)
    compressor = "zstd"

    async def create(self, config: Mapping[str, Any]) -> SqliteBlobStore:
        return await k.acquire_in_thread(self.open, self.undo, config.get("path"), True)

    async def connect(self, config: Mapping[str, Any]) -> SqliteBlobStore:
        return await k.acquire_in_thread(self.open, self.undo, config.get("path"), False)

    async def place(self, config: Mapping[str, Any]) -> str:
        return await k.in_thread(os.path.realpath, str(config.get("path")))

    def open(self, path: Any, create: bool) -> SqliteBlobStore:
        if not isinstance(path, (str, Path)) or not str(path) or "\0" in str(path):
            raise k.StoreConfigError(f'An SQLite store needs a "path", a file, not {path!r}.')
        path = Path(path).absolute()
        if not create and not path.exists():
            raise k.StoreNotFound(f"There is no store at {str(path)!r}. Create it first.")
        with translated(), ExitStack() as undo:
            db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            store = SqliteBlobStore(db)
            db.execute("PRAGMA synchronous = FULL")  # a commit is durable when it returns
            if create:
                db.execute("PRAGMA journal_mode = WAL")
                with store.transaction():
                    db.execute(TABLE)
                    db.execute(SEED)
            db.execute("SELECT 1 FROM konserve LIMIT 1")
            undo.pop_all()
        return store

    async def exists(self, config: Mapping[str, Any]) -> bool:
        return await k.in_thread(self.visit, config.get("path"))

    async def delete(self, config: Mapping[str, Any]) -> None:
        await k.in_thread(self.visit, config.get("path"), "DROP TABLE konserve; VACUUM")

    def visit(self, path: Any, script: str = "") -> bool:
        with suppress(k.StoreNotFound), translated(), closing(self.open(path, False).db) as db:
            db.executescript(script)
            return True
        return False
