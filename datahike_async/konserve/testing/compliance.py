"""The compliance suite: what every backend must do, as a class to subclass.

::

    import pytest
    from datahike_async.konserve.testing import StoreCompliance

    class TestMyBackend(StoreCompliance):
        @pytest.fixture
        def store_config(self, tmp_path):
            return {"backend": "mine", "id": str(uuid.uuid4()), "path": str(tmp_path / "store")}

Needs pytest and the anyio plugin; give the module an ``anyio_backend`` fixture to choose loops.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import pytest

from datahike_async.konserve.blob import ABSENT, ConditionalDomain
from datahike_async.konserve.envelope import BINARY, EDN, Envelope, seal
from datahike_async.konserve.errors import (
    CorruptValue,
    NotAnAppendLog,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreNotFound,
    UnsupportedOperation,
)
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import (
    Assoc,
    Store,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)

__all__ = ["StoreCompliance"]

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    -(2**80),
    1.5,
    "",
    "grüße",
    b"\x00\xff",
    [1, [2, "x"]],
    (1, 2),
    {"a": {"b": [1]}, 3: None},
    {1, 2},
    frozenset({"x"}),
    uuid.UUID(int=7),
    datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    Decimal("1.50"),
)
KEYS: tuple[Any, ...] = (
    "a",
    "",
    1,
    1.5,
    True,
    None,
    b"k",
    ("a", 1),
    uuid.UUID(int=1),
    ("a", ("b",)),
)


@pytest.mark.anyio
class StoreCompliance:
    """Subclass it and override ``store_config``; see the module."""

    @pytest.fixture
    def store_config(self, tmp_path: Any) -> Mapping[str, Any]:
        """Return the configuration of a store that does not exist yet."""
        raise NotImplementedError("override the fixture store_config")

    @pytest.fixture
    async def store(self, store_config: Mapping[str, Any]) -> AsyncIterator[Store]:
        """Make a store for one test and delete it afterwards."""
        store = await create_store(store_config)
        yield store
        await store.release()
        await delete_store(store_config)

    # -- lifecycle -----------------------------------------------------------------------------

    async def test_create_connect_delete(self, store_config: Mapping[str, Any]) -> None:
        assert not await store_exists(store_config)
        with pytest.raises(StoreNotFound):
            await connect_store(store_config)
        store = await create_store(store_config)
        assert await store_exists(store_config)
        await store.assoc("k", 1)
        with pytest.raises(StoreExists):
            await create_store(store_config)
        await store.release()
        again = await connect_store(store_config)
        assert await again.get("k") == 1
        await again.release()
        await delete_store(store_config)
        await delete_store(store_config)
        assert not await store_exists(store_config)

    async def test_a_released_store_is_closed(self, store_config: Mapping[str, Any]) -> None:
        store = await create_store(store_config)
        await store.release()
        await store.release()
        with pytest.raises(StoreClosed):
            await store.get("k")
        with pytest.raises(StoreClosed):
            await store.assoc("k", 1)
        await delete_store(store_config)

    async def test_an_unknown_key_is_refused(self, store_config: Mapping[str, Any]) -> None:
        with pytest.raises(StoreConfigError, match="backendd"):
            await create_store({**store_config, "backendd": 1})

    # -- values --------------------------------------------------------------------------------

    async def test_values_come_back_as_they_were(self, store: Store) -> None:
        for value in VALUES:
            await store.assoc("k", value)
            found = await store.get("k")
            assert found == value
            assert type(found) is type(value)

    async def test_keys_are_told_apart(self, store: Store) -> None:
        for i, key in enumerate(KEYS):
            await store.assoc(key, i)
        for i, key in enumerate(KEYS):
            assert await store.get(key) == i
        assert len(await store.keys()) == len(KEYS)

    async def test_missing_keys(self, store: Store) -> None:
        assert await store.get("no") is None
        assert await store.get("no", 7) == 7
        assert await store.get("no", with_revision=True) == (None, ABSENT)
        assert not await store.exists("no")
        assert await store.get_meta("no") is None
        assert await store.bget("no") is None
        assert await store.bget("no", 0, 10) is None
        assert not await store.dissoc("no")
        assert await store.multi_get(["no"]) == {}

    async def test_overwrite_and_dissoc(self, store: Store) -> None:
        await store.assoc("k", 1)
        await store.assoc("k", 2)
        assert await store.get("k") == 2
        assert await store.exists("k")
        assert await store.dissoc("k")
        assert not await store.exists("k")
        assert await store.keys() == []

    async def test_large_values(self, store: Store) -> None:
        value = {"bytes": bytes(range(256)) * 8192, "list": list(range(20_000))}
        await store.assoc("large", value)
        assert await store.get("large") == value

    async def test_nested(self, store: Store) -> None:
        await store.assoc_in(["k", "a", "b"], 1)
        assert await store.get("k") == {"a": {"b": 1}}
        assert await store.get_in(["k", "a", "b"]) == 1
        assert await store.get_in(["k", "a", "x"], 9) == 9
        assert await store.assoc_in(["k", "a", "b"], 2) == (1, 2)
        assert await store.update_in(["k", "a", "b"], lambda x: x + 1) == (2, 3)
        assert await store.update_in(["k", "n"], lambda x: (x or 0) + 1) == (None, 1)
        assert await store.update("u", lambda x: [*(x or []), 1]) == (None, [1])
        assert await store.get("k") == {"a": {"b": 3}, "n": 1}

    async def test_a_failing_update_changes_nothing(self, store: Store) -> None:
        await store.assoc("k", 1)
        with pytest.raises(ZeroDivisionError):
            await store.update("k", lambda x: x // 0)
        assert await store.get("k") == 1
        assert await store.update("k", lambda x: x + 1) == (1, 2)

    async def test_meta(self, store: Store) -> None:
        await store.assoc("k", 1, meta={"who": "ada"})
        await store.bassoc("b", b"x")
        await store.append("l", 1)
        k, b, l = [await store.get_meta(key) for key in ("k", "b", "l")]  # noqa: E741
        assert k is not None and b is not None and l is not None  # noqa: PT018
        assert (k["key"], k["type"], k["who"]) == ("k", "edn", "ada")
        assert (b["key"], b["type"]) == ("b", "binary")
        assert l["type"] == "append-log"
        assert k["last-write"] < b["last-write"] < l["last-write"]
        listed = {m["key"]: m["type"] for m in await store.keys() if isinstance(m["key"], str)}
        assert listed == {"k": "edn", "b": "binary", "l": "append-log"}

    # -- binary --------------------------------------------------------------------------------

    async def test_binary(self, store: Store) -> None:
        data = bytes(range(256)) * 64
        await store.bassoc("b", data)
        assert await store.bget("b") == data
        assert await store.bget("b", 10, 300) == data[10:300]
        assert await store.bget("b", 16_000) == data[16_000:]
        assert await store.bget("b", 0, 0) == b""
        await store.bassoc("empty", b"")
        assert await store.bget("empty") == b""
        with pytest.raises(TypeError):
            await store.bassoc("b", "text")  # type: ignore[arg-type]
        await store.assoc("e", 1)
        with pytest.raises(TypeError):
            await store.bget("e")

    # -- several keys --------------------------------------------------------------------------

    async def test_multi(self, store: Store) -> None:
        await store.multi_assoc({"a": 1, "b": 2})
        await store.multi_assoc([("c", 3), Assoc("d", b"4", binary=True), ("a", 5)])
        assert await store.multi_get(["a", "b", "c", "x"]) == {"a": 5, "b": 2, "c": 3}
        assert await store.bget("d") == b"4"
        assert await store.multi_dissoc(["a", "x"]) == {"a": True, "x": False}
        assert len(await store.keys()) == 3

    async def test_many_keys_are_listed(self, store: Store) -> None:
        count = 1100
        await store.multi_assoc([(i, i) for i in range(count)])
        assert sorted(m["key"] for m in await store.keys()) == list(range(count))

    async def test_a_failed_condition_in_a_multi_write(self, store: Store) -> None:
        if store.capabilities.conditional is ConditionalDomain.NONE:
            with pytest.raises(UnsupportedOperation):
                await store.multi_assoc([Assoc("h", 1, expected_revision=ABSENT)])
            return
        revision = await store.assoc("head", 0)
        await store.assoc("head", 1)
        with pytest.raises(RevisionMismatch):
            await store.multi_assoc(
                [Assoc("first", 1), Assoc("head", 2, expected_revision=revision), Assoc("last", 1)]
            )
        assert await store.get("head") == 1
        # Order: what comes after the failed item was never written.
        assert not await store.exists("last")
        if store.capabilities.atomic_multi:
            assert not await store.exists("first")

    # -- compare-and-set -----------------------------------------------------------------------

    async def test_compare_and_set(self, store: Store) -> None:
        if store.capabilities.conditional is ConditionalDomain.NONE:
            with pytest.raises(UnsupportedOperation):
                await store.assoc("k", 1, expected_revision=ABSENT)
            return
        first = await store.assoc("k", 1, expected_revision=ABSENT)
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=ABSENT)
        assert await store.get("k", with_revision=True) == (1, first)
        second = await store.assoc("k", 2, expected_revision=first)
        assert second != first
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=first)
        with pytest.raises(RevisionMismatch):
            await store.bassoc("k", b"9", expected_revision=first)
        with pytest.raises(RevisionMismatch):
            await store.dissoc("k", expected_revision=first)
        assert await store.get("k", with_revision=True) == (2, second)
        assert await store.dissoc("k", expected_revision=second)
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=second)
        assert not await store.exists("k")

    async def test_one_of_sixteen_wins(self, store: Store) -> None:
        if store.capabilities.conditional is ConditionalDomain.NONE:
            return  # checked to be refused above
        for expected in (ABSENT, None):
            revision = (
                ABSENT if expected is ABSENT else (await store.get("k", with_revision=True))[1]
            )
            won: list[int] = []

            async def write(i: int, revision: Any = revision, won: list[int] = won) -> None:
                try:
                    await store.assoc("k", i, expected_revision=revision)
                except RevisionMismatch:
                    return
                won.append(i)

            async with anyio.create_task_group() as group:
                for i in range(16):
                    group.start_soon(write, i)
            assert len(won) == 1
            assert await store.get("k") == won[0]

    async def test_concurrent_updates_are_all_counted(self, store: Store) -> None:
        async def add() -> None:
            for _ in range(5):
                await store.update_in(["n", "count"], lambda x: (x or 0) + 1)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(add)
        assert await store.get("n") == {"count": 40}

    # -- append logs ---------------------------------------------------------------------------

    async def test_append_log(self, store: Store) -> None:
        assert await store.log("l") == []
        for i in range(5):
            await store.append("l", {"i": i})
        assert await store.log("l") == [{"i": i} for i in range(5)]
        assert await store.reduce_log("l", lambda total, x: total + x["i"], 0) == 10
        await store.assoc("k", 1)
        with pytest.raises(NotAnAppendLog):
            await store.append("k", 1)
        with pytest.raises(NotAnAppendLog):
            await store.log("k")

    async def test_concurrent_appends_are_all_kept(self, store: Store) -> None:
        async def add(i: int) -> None:
            await store.append("l", i)

        async with anyio.create_task_group() as group:
            for i in range(12):
                group.start_soon(add, i)
        assert sorted(await store.log("l")) == list(range(12))

    # -- journals ------------------------------------------------------------------------------

    async def test_journal(self, store: Store) -> None:
        revision = await store.assoc("h", {"n": 0})
        if not store.capabilities.journal:
            with pytest.raises(UnsupportedOperation):
                await store.journal_append("h", b"x", expected_revision=revision)
            with pytest.raises(UnsupportedOperation):
                await store.journal("h")
            return
        assert await store.journal("no") is None
        records = [bytes([i]) * (i * 37 + 1) for i in range(40)]
        seen = {revision}
        for record in records:
            stale = revision
            revision = await store.journal_append("h", record, expected_revision=revision)
            assert revision not in seen
            seen.add(revision)
            with pytest.raises(RevisionMismatch):
                await store.journal_append("h", b"late", expected_revision=stale)
            with pytest.raises(RevisionMismatch):
                await store.assoc("h", 0, expected_revision=stale)
        assert await store.journal("h") == ({"n": 0}, records, revision)
        assert await store.get("h", with_revision=True) == ({"n": 0}, revision)
        fresh = await store.assoc("h", {"n": 1}, expected_revision=revision)
        assert await store.journal("h") == ({"n": 1}, [], fresh)
        with pytest.raises(RevisionMismatch):
            await store.journal_append("h", b"late", expected_revision=revision)

    async def test_two_stores_share_a_journal(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        if not store.capabilities.journal:
            return  # checked to be refused above
        other = await connect_store(store_config)
        revision = await store.assoc("h", 0)
        revision = await other.journal_append("h", b"1", expected_revision=revision)
        revision = await store.journal_append("h", b"2", expected_revision=revision)
        assert await other.journal("h") == (0, [b"1", b"2"], revision)
        await other.assoc("h", 1, expected_revision=revision)
        with pytest.raises(RevisionMismatch):
            await store.journal_append("h", b"3", expected_revision=revision)
        await other.release()

    # -- durability and integrity --------------------------------------------------------------

    async def test_what_was_written_is_there_after_opening_again(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        await store.assoc("k", {"a": 1})
        await store.bassoc("b", b"x" * 1000)
        await store.append("l", 1)
        again = await connect_store(store_config)
        assert await again.get("k") == {"a": 1}
        assert await again.bget("b", 990, 1000) == b"x" * 10
        assert await again.log("l") == [1]
        await again.release()

    async def test_damaged_bytes_are_never_returned(self, store: Store) -> None:
        packed = store.serializer.serialize({"key": "k", "type": "edn", "last-write": 1})
        good = seal(Envelope(EDN, 1, 0, store.serializer.serialize([1, 2, 3]), packed))
        name = name_of_key("k")
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 0x41
            await store.blobs.write(name, bytes(bad))
            with pytest.raises(Exception) as caught:
                await store.get("k")
            assert type(caught.value).__name__ in ("CorruptValue", "UnsupportedEncoding")
        for length in range(len(good)):
            await store.blobs.write(name, good[:length])
            with pytest.raises(CorruptValue):
                await store.get("k")
        binary = seal(Envelope(BINARY, 1, 0, b"abc", packed))
        await store.blobs.write(name, binary[:-1] + b"\0")
        with pytest.raises(CorruptValue):
            await store.bget("k")

    # -- hooks ---------------------------------------------------------------------------------

    async def test_write_hooks(self, store: Store) -> None:
        events: list[Mapping[str, Any]] = []
        store.add_write_hook("h", events.append)
        await store.assoc("k", 1)
        await store.update_in(["m", "x"], lambda _: 2)
        await store.multi_assoc({"a": 1})
        await store.dissoc("k")
        store.remove_write_hook("h")
        await store.assoc("k", 2)
        assert [e["api-op"] for e in events] == ["assoc", "update-in", "multi-assoc", "dissoc"]
        assert events[0]["key"] == "k"
        assert events[0]["value"] == 1
        assert events[1]["key-vec"] == ["m", "x"]
        assert events[2]["kvs"] == {"a": 1}
