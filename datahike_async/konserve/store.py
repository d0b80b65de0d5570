"""Store: konserve's key-value API over any backend's blobs.

Every operation is a coroutine. Reads take no lock. What reads and writes one key (``update``,
``append``) holds that key's lock in this process and, where the backend can compare-and-set, writes
only over the revision it read, so that other processes are safe too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID

from datahike_async.konserve.appendlog import AppendLogs
from datahike_async.konserve.base import faults_of, listing
from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Appended,
    Blob,
    BlobStore,
    Capabilities,
    Expected,
    Fault,
    InPlaceBlobStore,
    Journal,
    JournalBlobStore,
    News,
    Revision,
    Turn,
    TurnBlobStore,
    Unchanged,
    Write,
)
from datahike_async.konserve.compressors import LIMIT
from datahike_async.konserve.encoding import Encoding
from datahike_async.konserve.encryptors import Encryptor
from datahike_async.konserve.envelope import BINARY, EDN, ELEMENT, HEADER, binary_part
from datahike_async.konserve.errors import (
    BadArgument,
    RevisionMismatch,
    StoreConfigError,
    UnsupportedOperation,
    shown,
)
from datahike_async.konserve.hooks import Hook, WriteHooks
from datahike_async.konserve.locks import KeyLocks
from datahike_async.konserve.loops import surely
from datahike_async.konserve.paths import (
    MISSING,
    called,
    hashable,
    listed,
    path_of,
    step,
    with_value,
)
from datahike_async.konserve.redaction import public
from datahike_async.konserve.serializers import MessagePack, Serializer, name_of_key
from datahike_async.konserve.threads import in_thread

__all__ = [
    "Assoc",
    "Store",
]

T = TypeVar("T")

_RETRIES: Final = 64
_PAGE: Final = 256
_UNFOLD_IN_THREAD: Final = 1024 * 1024


class Assoc(NamedTuple):
    """One item of ``multi_assoc``."""

    key: Any
    value: Any
    binary: bool = False
    meta: Mapping[str, Any] | None = None
    expected_revision: Expected = None


class Store:
    """An open key-value store. Get one from :func:`create_store` or :func:`connect_store`.

    ``config`` is its configuration, of which only that is shown which its backend names as public;
    ``capabilities`` are what the backend promises.
    """

    def __init__(
        self,
        blobs: BlobStore,
        config: Mapping[str, Any] | None = None,
        *,
        compressor: str = "none",
        max_unfolded_bytes: int = LIMIT,
        serializer: Serializer | None = None,
        encryptor: Encryptor | None = None,
    ) -> None:
        self.blobs = blobs
        self.config = public(config or {})
        self.capabilities: Capabilities = blobs.capabilities
        self.encoding = Encoding(compressor, serializer, encryptor, max_unfolded_bytes)
        self._locks = KeyLocks()
        self._hooks = WriteHooks()
        self._conditional = self.capabilities.compares

    def __repr__(self) -> str:
        return f"<Store {self.config}>"

    @property
    def id(self) -> UUID | None:
        """The id of the store, where its configuration has one or its backend keeps one."""
        found = self.config.get("id") or getattr(self.blobs, "identity", None)
        return found if isinstance(found, UUID) else None

    @property
    def read_only(self) -> bool:
        """Whether everything that writes is refused."""
        return bool(getattr(self.blobs, "read_only", False))

    @property
    def server(self) -> str:
        """What is at the other end, for messages; empty where nothing is."""
        return self.blobs.server

    def assoc_serializers(self, serializers: Iterable[Serializer]) -> None:
        """Make further serializers known for reading."""
        known = listed(serializers, "Serializers")
        for one in known:
            if type(getattr(one, "id", None)) is not int or not 1 <= one.id <= 255:
                raise StoreConfigError(
                    f"A serializer has an id from 1 to 255; {shown(one)} has none."
                )
        self.encoding.know(known)

    def register_handler(
        self, kind: type, code: int, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
    ) -> None:
        """Store values of a further type as what ``encode`` returns, under a code from 32 to 127.

        Whoever reads them registers the same. Raises StoreConfigError for another code, and where
        the store has a serializer of its own.
        """
        if not isinstance(self.serializer, MessagePack):
            raise StoreConfigError(
                "Handlers belong to the default serializer; this store has another."
            )
        self.serializer.register(kind, code, encode, decode)

    @property
    def serializer(self) -> Serializer:
        """The serializer that values are written with."""
        return self.encoding.serializer

    async def _value(self, key: Any, data: bytes) -> Any:
        encoding = self.encoding
        envelope = encoding.open(name_of_key(key), data, key)
        if envelope.compressor and encoding.size(key, envelope) > _UNFOLD_IN_THREAD:
            envelope = await in_thread(encoding.unfolded, key, envelope)
        return encoding.value(key, envelope)

    # -- reading -------------------------------------------------------------------------------

    async def exists(self, key: Any) -> bool:
        """Say whether ``key`` has a value."""
        return await self.blobs.read(name_of_key(key), 0, HEADER) is not None

    async def get(
        self,
        key: Any,
        default: Any = None,
        *,
        with_revision: bool = False,
        unless: Revision | None = None,
        news: News | None = None,
    ) -> Any:
        """Return the value of ``key``, or ``default``; ``(value, revision)`` with a revision.

        With a revision it is the value as it is now, past every cache. Without the key the
        revision is ABSENT. If it is ``unless``, the value is UNCHANGED and was not read (where the
        backend can tell). ``news`` is what was read already, with a turn.
        Raises CorruptValue, UnsupportedEncoding.
        """
        blob: Blob | Unchanged | None
        if news is not None:
            blob = None if news is ABSENT else cast("Blob | Unchanged", news)
        elif with_revision or unless is not None:
            _check_revision(unless, "unless")
            blob = await self.blobs.read_latest(name_of_key(key), unless)
        else:
            blob = await self.blobs.read(name_of_key(key))
        if blob is UNCHANGED:
            return (UNCHANGED, unless) if with_revision else UNCHANGED
        if blob is None:
            return (default, ABSENT) if with_revision else default
        value = await self._value(key, blob.data)
        return (value, blob.revision) if with_revision else value

    async def get_in(self, keys: Sequence[Any], default: Any = None) -> Any:
        """Return the value at a path: the first key names it, the others lead into it."""
        key, path = path_of(keys)
        value = await self.get(key, MISSING)
        for place in path:
            value = step(value, place)
        return default if value is MISSING else value

    async def get_meta(self, key: Any) -> dict[str, Any] | None:
        """Return ``key``, ``type``, ``last-write`` and the user's own meta, or None."""
        blob = await self.blobs.read(name_of_key(key))
        return (
            None
            if blob is None
            else self.encoding.meta(self.encoding.open(name_of_key(key), blob.data, key))
        )

    async def multi_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the values of those of ``keys`` that have one."""
        names = {name_of_key(key): hashable(key) for key in listed(keys, "Keys")}
        found = await self.blobs.read_many(list(names))
        out = {}
        for name, key in names.items():
            if name in found:
                out[key] = await self._value(key, found[name].data)
        return out

    @property
    def in_place(self) -> bool:
        """Whether binary values can be decoded where they lie in the store."""
        return self.capabilities.in_place and self.encoding.encryptor is None

    async def multi_decode(
        self, keys: Iterable[Any], decode: Callable[[Any, memoryview], T]
    ) -> dict[Any, T]:
        """Return what ``decode`` makes of those of ``keys`` that have a binary value, and of it.

        It is called in a worker thread, while the bytes lie where the store has them, and must keep
        no view of them. They are for it to check, as those of a range are. Raises CorruptValue,
        what ``decode`` raises, and UnsupportedOperation unless ``in_place``.
        """
        if not self.in_place:
            raise UnsupportedOperation("Values of this store cannot be decoded where they lie.")
        names = {name_of_key(key): key for key in listed(keys, "Keys")}

        def decoded(name: str, data: memoryview) -> T:
            return decode(names[name], binary_part(data))

        found = await cast(InPlaceBlobStore, self.blobs).read_in_place(list(names), decoded)
        return {names[name]: made for name, made in found.items()}

    async def keys(self) -> list[dict[str, Any]]:
        """Return the meta of every key, binary ones included; a log is one key, however long."""
        out, encoding = [], self.encoding
        async with listing(self.blobs.names()) as pages:
            async for names in pages:
                for start in range(0, len(names), _PAGE):
                    page = await self.blobs.read_many(names[start : start + _PAGE])
                    found = [encoding.open(name, blob.data) for name, blob in page.items()]
                    out += [encoding.meta(each) for each in found if each.kind != ELEMENT]
        return out

    async def faults(self) -> Sequence[Fault]:
        """Return what is wrong with what the store is made of, beyond the values in it.

        Reads and writes no value. Only backends that have such parts, as files do, look at them.
        """
        return await faults_of(self.blobs)

    # -- writing -------------------------------------------------------------------------------

    async def assoc(
        self,
        key: Any,
        value: Any,
        *,
        meta: Mapping[str, Any] | None = None,
        expected_revision: Expected = None,
    ) -> Revision:
        """Make ``value`` the value of ``key`` and return its new revision.

        With ``expected_revision`` only where the key still has that revision (ABSENT: none).
        Raises RevisionMismatch where not, UnsupportedOperation where the backend cannot tell.
        """
        revision = await self._write(key, value, EDN, meta, expected_revision)
        await self._hooks.run("assoc", key=key, value=value, meta=meta)
        return revision

    async def _write(
        self,
        key: Any,
        value: Any,
        kind: int,
        meta: Mapping[str, Any] | None = None,
        expected: Expected = None,
    ) -> Revision:
        self._check_condition(expected)
        data = self.encoding.seal(key, value, kind, meta)
        return await self.blobs.write(name_of_key(key), data, expected)

    async def bassoc(
        self,
        key: Any,
        data: bytes,
        *,
        meta: Mapping[str, Any] | None = None,
        expected_revision: Expected = None,
    ) -> Revision:
        """Store raw bytes under ``key`` and return the new revision; as ``assoc`` otherwise."""
        revision = await self._write(key, data, BINARY, meta, expected_revision)
        await self._hooks.run("bassoc", key=key, value=data, meta=meta)
        return revision

    async def bget(self, key: Any, start: int = 0, end: int | None = None) -> bytes | None:
        """Return the bytes ``[start, end)`` of a binary value, or None.

        A whole value is checked. A range is one ranged read, and its bytes are for the caller to
        check. Raises CorruptValue; BadArgument where the whole value is not binary.
        """
        name = name_of_key(key)
        if type(start) is not int or start or end is not None:
            stop = start if end is None else end
            if type(start) is not int or type(stop) is not int or not 0 <= start <= stop:
                raise BadArgument(
                    f"[{shown(start)}, {shown(end)}) is no range of bytes; give two ints, "
                    "0 <= start <= end."
                )
            if end is not None and self.encoding.encryptor is None:
                blob = await self.blobs.read(name, HEADER + start, HEADER + end)
                return None if blob is None else blob.data
        blob = await self.blobs.read(name)
        if blob is None:
            return None
        envelope = self.encoding.open(name, blob.data, key)
        if envelope.kind != BINARY:
            raise BadArgument(f"The value of {shown(key)} is not binary; read it with get.")
        return envelope.value[start:end] if start or end is not None else envelope.value

    async def assoc_in(
        self, keys: Sequence[Any], value: Any, *, meta: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """Set the value at a path and return what was there and what is: ``(old, new)``.

        For a path of one key the old value is not read, and None stands for it.
        """
        key, path = path_of(keys)
        if not path:
            await self._write(key, value, EDN, meta)
            await self._hooks.run("assoc-in", key=key, key_vec=[key], value=value, meta=meta)
            return None, value
        return await self.update_in(keys, lambda _: value, meta=meta, op="assoc-in")

    async def update(self, key: Any, f: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Replace the value of ``key`` by ``f`` of it and return ``(old, new)``.

        ``f`` gets None for a missing key, and may run again where another writer was faster.
        """
        return await self.update_in([key], f)

    async def update_in(
        self,
        keys: Sequence[Any],
        f: Callable[[Any], Any],
        *,
        meta: Mapping[str, Any] | None = None,
        op: str = "update-in",
    ) -> tuple[Any, Any]:
        """Replace the value at a path by ``f`` of it and return ``(old, new)`` of that place."""
        key, path = path_of(keys)
        called(f)
        name = name_of_key(key)
        async with self._locks.holding(name):
            for _ in range(_RETRIES):
                whole, revision = await self.get(key, with_revision=True)
                old = whole
                for place in path:
                    old = step(old, place)
                old = None if old is MISSING else old
                new = f(old)
                data = self.encoding.seal(key, with_value(whole, path, new), EDN, meta)
                try:
                    await self.blobs.write(name, data, revision if self._conditional else None)
                except RevisionMismatch:
                    continue
                await self._hooks.run(
                    op, key=key, key_vec=list(keys), value=new, old_value=old, meta=meta
                )
                return old, new
        raise RevisionMismatch(f"Other writers kept changing {shown(key)}; nothing was written.")

    async def dissoc(self, key: Any, *, expected_revision: Expected = None) -> bool:
        """Remove ``key`` and say whether it was there."""
        self._check_condition(expected_revision)
        existed = await self.blobs.delete(name_of_key(key), expected_revision)
        await self._hooks.run("dissoc", key=key)
        return existed

    async def multi_assoc(
        self,
        items: Mapping[Any, Any] | Iterable[Assoc | tuple[Any, Any]],
        *,
        ordered: bool = True,
    ) -> Sequence[Revision]:
        """Write several keys in order and return their revisions.

        An item is durable before a later one can be seen, unless ``ordered`` is False, which some
        backends do faster; with ``capabilities.atomic_multi`` all are seen at once. ``items`` is a
        map, or a sequence of pairs and :class:`Assoc`. Raises
        RevisionMismatch where a condition fails; items before it may have been written unless the
        backend is atomic.
        """
        pairs = items.items() if isinstance(items, Mapping) else listed(items, "Items")
        assocs = [x if isinstance(x, Assoc) else _assoc(x) for x in pairs]
        if self._hooks:
            for item in assocs:
                hashable(item.key)
        writes = []
        for item in assocs:
            self._check_condition(item.expected_revision)
            kind = BINARY if item.binary else EDN
            data = self.encoding.seal(item.key, item.value, kind, item.meta)
            writes.append(Write(name_of_key(item.key), data, item.expected_revision))
        revisions = await self.blobs.write_many(writes, ordered=ordered)
        if self._hooks:
            await self._hooks.run("multi-assoc", kvs={x.key: x.value for x in assocs})
        return revisions

    async def multi_dissoc(self, keys: Iterable[Any]) -> dict[Any, bool]:
        """Remove several keys and say of each whether it was there."""
        wanted = [hashable(key) for key in listed(keys, "Keys")]
        existed = await self.blobs.delete_many([name_of_key(key) for key in wanted])
        await self._hooks.run("multi-dissoc", keys=wanted)
        return dict(zip(wanted, existed, strict=True))

    def _check_condition(self, expected: Expected) -> None:
        if expected is None:
            return
        _check_revision(expected, "expected_revision")
        if not self._conditional:
            raise UnsupportedOperation(
                "This backend cannot compare-and-set, so expected_revision has no meaning here."
            )

    # -- append logs ---------------------------------------------------------------------------

    @property
    def _logs(self) -> AppendLogs:
        return AppendLogs(self.blobs, self.encoding, self._locks, self.get)

    async def append(self, key: Any, element: Any) -> UUID:
        """Add ``element`` to the log under ``key``, starting one if need be; return its id.

        An element is a value of its own that the log leads to: it is no entry of ``keys``, and
        stays in the store where the log is removed. Raises NotAnAppendLog where ``key`` holds
        another kind of value.
        """
        id_ = await self._logs.append(key, element)
        await self._hooks.run("append", key=key, value=element)
        return id_

    async def log(self, key: Any) -> list[Any]:
        """Return the elements of the log under ``key``, oldest first."""
        return await self._logs.elements(key)

    async def reduce_log(self, key: Any, f: Callable[[Any, Any], Any], init: Any) -> Any:
        """Fold ``f(result, element)`` over the log under ``key``, oldest first."""
        called(f)
        for element in await self._logs.elements(key):
            init = f(init, element)
        return init

    # -- journals ------------------------------------------------------------------------------

    async def journal_append(
        self, key: Any, record: bytes, *, expected_revision: Revision
    ) -> Revision:
        """Append ``record`` to the journal of ``key`` and return the new revision: one small write.

        The value of a key is then what ``assoc`` wrote and the records since. Raises
        RevisionMismatch where the key is not at ``expected_revision``; UnsupportedOperation where
        the backend has no journals.
        """
        name = name_of_key(key)
        self._check_condition(expected_revision)
        if not isinstance(record, (bytes, bytearray, memoryview)):
            raise BadArgument(f"A record of a journal is bytes, not {shown(record)}.")
        record = self.encoding.seal_record(name, record)
        return await self._journals().append(name, record, expected_revision)

    async def journal(
        self, key: Any, *, since: Revision | None = None, news: News | None = None
    ) -> tuple[Any, Sequence[bytes], Revision] | Appended | Unchanged | None:
        """Return the value of ``key``, the records appended since, and the revision; or None.

        UNCHANGED if the revision is ``since``; Appended, with the new records alone, where others
        appended to that revision and nobody has replaced the value. ``news`` is what was read
        already, with a turn that was waited for by who has ``since``.
        """
        name = name_of_key(key)
        found: Journal | Appended | Unchanged | None
        if news is None:
            found = await self._journals().read_journal(name, since)
        else:
            found = None if news is ABSENT else cast("Journal | Appended | Unchanged", news)
        if found is None or found is UNCHANGED:
            return found
        records = found.records
        if self.encoding.encryptor:
            records = [self.encoding.open_record(name, record) for record in records]
        if isinstance(found, Appended):
            return Appended(records, found.revision)
        return await self._value(key, found.data), records, found.revision

    def _journals(self) -> JournalBlobStore:
        if not self.capabilities.journal:
            raise UnsupportedOperation("This backend keeps no journals.")
        return cast(JournalBlobStore, self.blobs)

    # -- turns ---------------------------------------------------------------------------------

    def turn(self, key: Any, *, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Queue, among all processes, for the turn to write ``key``, and have it inside the block.

        Conditional writes of others to the key are refused meanwhile, with OutOfTurn; all else goes
        on, and what is written in a turn still needs its condition. Where the turn does not come in
        time, ``held`` is False. With ``since``, the revision that the caller has, a turn may bring
        ``news``: give that to ``journal``, or to ``get`` where the backend has no journals. Raises
        UnsupportedOperation where the backend has no turns.
        """
        name = name_of_key(key)
        if not self.capabilities.turns:
            raise UnsupportedOperation("Writers cannot queue at this backend.")
        _check_revision(since, "since")
        return cast(TurnBlobStore, self.blobs).turn(name, since)

    # -- hooks and the end ---------------------------------------------------------------------

    def add_write_hook(self, id: Any, hook: Hook) -> None:
        """Call ``hook`` with a map after every write that succeeded (``api-op``, ``key``, …)."""
        self._hooks.add(id, hook)

    def remove_write_hook(self, id: Any) -> None:
        """Call the hook of ``id`` no more."""
        self._hooks.remove(id)

    async def release(self) -> None:
        """Close the store, even if cancelled meanwhile; further calls raise StoreClosed."""
        await surely(self.blobs.close)


def _check_revision(revision: Any, what: str) -> None:
    if not (revision is None or revision is ABSENT or isinstance(revision, str)):
        raise BadArgument(f"{what} is ABSENT or what a call returned, not {shown(revision)}.")


def _assoc(item: Any) -> Assoc:
    if not isinstance(item, (list, tuple)) or not 2 <= len(item) <= len(Assoc._fields):
        raise BadArgument(f"An item is a pair of key and value, or an Assoc, not {shown(item)}.")
    return Assoc(*item)
