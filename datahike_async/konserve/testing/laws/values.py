"""Laws of keys and values: what was stored comes back, whatever it is and wherever it lies."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import pytest

from datahike_async.konserve.blob import ABSENT
from datahike_async.konserve.errors import NotAnAppendLog
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws

__all__ = ["ValueLaws"]

VALUES: Final[tuple[Any, ...]] = (
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
KEYS: Final[tuple[Any, ...]] = (
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
LARGE: Final = 1 << 21


class ValueLaws(Laws):
    """Values under keys."""

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

    async def test_a_missing_key_is_said_to_be_missing(self, store: Store) -> None:
        assert await store.get("no") is None
        assert await store.get("no", 7) == 7
        assert await store.get("no", with_revision=True) == (None, ABSENT)
        assert not await store.exists("no")
        assert await store.get_meta("no") is None
        assert await store.bget("no") is None
        assert await store.bget("no", 0, 10) is None
        assert not await store.dissoc("no")
        assert await store.multi_get(["no"]) == {}

    async def test_the_last_write_is_what_is_there(self, store: Store) -> None:
        await store.assoc("k", 1)
        await store.assoc("k", 2)
        assert await store.get("k") == 2
        assert await store.exists("k")
        assert await store.dissoc("k")
        assert not await store.exists("k")
        assert not await store.dissoc("k")
        assert await store.keys() == []

    async def test_large_values_come_back_whole(self, store: Store) -> None:
        size = min(LARGE, (store.capabilities.max_value_bytes or LARGE) // 2)
        value = {
            "bytes": (bytes(range(256)) * (size // 256 + 1))[:size],
            "list": list(range(size // 100)),
        }
        await store.assoc("large", value)
        assert await store.get("large") == value

    async def test_nested_values_are_reached_by_their_path(self, store: Store) -> None:
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

    async def test_meta_says_key_type_and_time(self, store: Store) -> None:
        await store.assoc("k", 1, meta={"who": "ada"})
        await store.bassoc("b", b"x")
        await store.append("l", 1)
        k, b, l = [await store.get_meta(key) for key in ("k", "b", "l")]  # noqa: E741
        assert k is not None and b is not None and l is not None  # noqa: PT018
        assert (k["key"], k["type"], k["who"]) == ("k", "edn", "ada")
        assert (b["key"], b["type"]) == ("b", "binary")
        assert l["type"] == "append-log"
        assert k["last-write"] < b["last-write"] < l["last-write"]
        listed = {m["key"]: m["type"] for m in await store.keys()}
        assert listed == {"k": "edn", "b": "binary", "l": "append-log"}

    async def test_what_is_appended_to_a_log_is_no_key(self, store: Store) -> None:
        for n in range(3):
            id_ = await store.append("l", {"n": n})
            assert await store.exists(id_)
        assert [meta["key"] for meta in await store.keys()] == ["l"]

    async def test_an_append_log_keeps_its_elements_in_order(self, store: Store) -> None:
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

    async def test_hooks_hear_of_every_write_while_they_are_there(self, store: Store) -> None:
        events: list[Mapping[str, Any]] = []
        store.add_write_hook("h", events.append)
        await store.assoc("k", 1)
        await store.update_in(["m", "x"], lambda _: 2)
        await store.multi_assoc({"a": 1})
        await store.dissoc("k")
        await store.append("l", 3)
        store.remove_write_hook("h")
        await store.assoc("k", 2)
        ops = [event["api-op"] for event in events]
        assert ops == ["assoc", "update-in", "multi-assoc", "dissoc", "append"]
        assert events[0]["key"] == "k"
        assert events[0]["value"] == 1
        assert events[1]["key-vec"] == ["m", "x"]
        assert events[2]["kvs"] == {"a": 1}
        assert (events[4]["key"], events[4]["value"]) == ("l", 3)

    async def test_a_hook_hears_of_assoc_in_with_its_path_however_short(self, store: Store) -> None:
        events: list[Mapping[str, Any]] = []
        store.add_write_hook("h", events.append)
        await store.assoc_in(["k"], {"a": 1}, meta={"by": "ada"})
        await store.assoc_in(["k", "a"], 2, meta={"by": "bob"})
        await store.update("k", dict)
        heard = [(e["api-op"], e["key"], e["key-vec"], e["value"], e["meta"]) for e in events]
        assert heard == [
            ("assoc-in", "k", ["k"], {"a": 1}, {"by": "ada"}),
            ("assoc-in", "k", ["k", "a"], 2, {"by": "bob"}),
            ("update-in", "k", ["k"], {"a": 2}, None),
        ]
