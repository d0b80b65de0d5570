"""Laws of making, opening, closing and deleting stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from datahike_async.konserve.blob import ABSENT
from datahike_async.konserve.errors import (
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreNotFound,
)
from datahike_async.konserve.opening import connect_store, create_store, delete_store, store_exists
from datahike_async.konserve.redaction import HIDDEN
from datahike_async.konserve.registry import backend
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws, latest
from datahike_async.konserve.testing.promises import DURABLE, promised

__all__ = ["LifecycleLaws"]


def _with_canaries(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configuration with a secret at all places that are not public, at any depth.

    Then once for each such place with what can be none there.
    """
    made = backend(config["backend"])
    hidden = sorted(made.keys - getattr(made, "public", frozenset()))
    nested = {
        key: list(_with_canaries(inner))
        for key, inner in config.items()
        if isinstance(inner, Mapping) and "backend" in inner
    }
    firsts = {key: inner[0] for key, inner in nested.items()}
    yield {**config, **dict.fromkeys(hidden, "canary-text"), **firsts}
    for key in hidden:
        yield {**config, key: {"inner": "canary-text"}}
    for key, inner in nested.items():
        yield from ({**config, key: planted} for planted in inner[1:])


async def _told_by(call: Callable[[], Awaitable[object]]) -> list[str]:
    """Return all that a call tells: its store, or its error and those behind it."""
    try:
        found = await call()
    except Exception as error:
        told: list[str] = []
        each: BaseException | None = error
        while each is not None:
            told += [repr(each), str(each), repr(vars(each))]
            each = each.__cause__ or each.__context__
        return told
    if isinstance(found, Store):
        await found.release()
    return [repr(found)]


class LifecycleLaws(Laws):
    """Stores come to be, are found, and go."""

    async def test_a_store_is_created_once_connected_to_and_deleted(
        self, store_config: Mapping[str, Any]
    ) -> None:
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

    async def test_a_store_that_is_made_anew_is_empty(
        self, store_config: Mapping[str, Any]
    ) -> None:
        for _ in range(2):
            store = await create_store(store_config)
            assert await store.keys() == []
            await store.assoc("k", 1)
            await store.release()
            await delete_store(store_config)

    async def test_a_released_store_is_closed(self, store_config: Mapping[str, Any]) -> None:
        store = await create_store(store_config)
        await store.assoc("k", 1)
        await store.release()
        await store.release()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get("k"),
            lambda: store.get("k", with_revision=True),
            lambda: store.exists("k"),
            lambda: store.multi_get(["k", "l"]),
            lambda: store.keys(),
            lambda: store.assoc("k", 1),
            lambda: store.multi_assoc({"k": 1, "l": 2}),
            lambda: store.dissoc("k"),
            lambda: store.multi_dissoc(["k", "l"]),
        ]
        for call in calls:
            with pytest.raises(StoreClosed):
                await call()
        await delete_store(store_config)

    async def test_releasing_one_handle_leaves_the_others_open(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        await store.assoc("k", 1)
        other = await connect_store(store_config)
        await other.release()
        assert await store.get("k") == 1
        await store.assoc("k", 2)
        assert await store.get("k") == 2

    async def test_an_unknown_key_of_a_configuration_is_refused(
        self, store_config: Mapping[str, Any]
    ) -> None:
        with pytest.raises(StoreConfigError, match="backendd"):
            await create_store({**store_config, "backendd": 1})
        assert not await store_exists(store_config)

    # -- what is shown -------------------------------------------------------------------------

    async def test_a_store_shows_of_its_configuration_what_its_backend_names_and_no_more(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        seen = {
            "backend",
            "id",
            "compressor",
            "max-unfolded-bytes",
            "read-only",
            *getattr(backend(store_config["backend"]), "public", ()),
        }
        assert set(store.config) >= set(store_config)
        for key, value in store.config.items():
            assert value == HIDDEN or value is None or key in seen
        for key in store_config.keys() - seen:
            assert repr(store_config[key]) not in repr(store)

    async def test_no_error_and_no_log_tells_what_the_backend_does_not_name(
        self, store_config: Mapping[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        told: list[str] = []
        right, *wrong = _with_canaries(store_config)
        for call in (store_exists, connect_store, create_store, create_store, delete_store):
            told += await _told_by(partial(call, right))
        for config in wrong:
            told += await _told_by(partial(connect_store, config))
        assert "canary-text" not in "\n".join([*told, caplog.text])

    @promised(DURABLE)
    async def test_what_was_written_is_there_after_opening_again(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        await store.assoc("k", {"a": 1})
        await store.bassoc("b", b"x" * 1000)
        await store.multi_assoc({"m": 1, "n": 2})
        await store.append("l", 1)
        await store.dissoc("m")
        # Beside the handle that wrote, and after it is gone.
        for _ in range(2):
            again = await connect_store(store_config)
            assert await again.get("k") == {"a": 1}
            assert await again.bget("b", 990, 1000) == b"x" * 10
            assert await again.log("l") == [1]
            assert await again.multi_get(["m", "n"]) == {"n": 2}
            await again.release()
            await store.release()

    # -- attaching: connecting without a look --------------------------------------------------

    async def test_attaching_finds_a_store_that_is_there(
        self, store: Store, store_config: Mapping[str, Any]
    ) -> None:
        await store.assoc("k", 1)
        attached = await connect_store(store_config, verify=False)
        assert await latest(attached, "k") == 1
        await attached.assoc("k", 2)
        assert await latest(store, "k") == 2
        await attached.release()

    async def test_attaching_to_a_missing_store_shows_at_the_first_read_at_the_latest(
        self, store_config: Mapping[str, Any]
    ) -> None:
        try:
            store = await connect_store(store_config, verify=False)
        except StoreNotFound:
            return
        reads: list[tuple[Callable[[], Awaitable[object]], object]] = [
            (lambda: store.get("k"), None),
            (lambda: store.get("k", with_revision=True), (None, ABSENT)),
            (lambda: store.exists("k"), False),
            (lambda: store.multi_get(["k", "l"]), {}),
        ]
        if store.capabilities.journal:
            reads.append((lambda: store.journal("k"), None))
        for read, missing in reads:
            try:
                found = await read()
            except StoreNotFound:
                continue
            assert found == missing
        await store.release()
        assert not await store_exists(store_config)
