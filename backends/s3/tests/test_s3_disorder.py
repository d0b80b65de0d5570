"""What goes wrong beside the requests: deletions that are overtaken, refusals, broken streams."""

from __future__ import annotations

import logging
import ssl
from typing import Any
from uuid import uuid4

import anyio
import pytest
from botocore.exceptions import SSLError
from datahike_async_s3 import backend as backends
from datahike_async_s3 import client
from datahike_async_s3.errors import translated
from datahike_async_s3.redact import _redacted, redact
from datahike_async_s3.settings import settings_of
from datahike_async_s3.store import MARKER, S3BlobStore

import datahike_async as d
from datahike_async.konserve import (
    ABSENT,
    OutcomeUnknown,
    StoreConfigError,
    StoreDenied,
    StoreUnavailable,
    UnsupportedOperation,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)
from tests.servers.programs import S3Server
from tests.servers.proxy import Proxy, status

pytestmark = pytest.mark.anyio


# -- deletion and creation at once -----------------------------------------------------------------


@pytest.mark.parametrize("at", ["listing", "the end"])
async def test_a_deletion_spares_the_store_that_took_its_place(
    store_config: dict[str, Any], at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await create_store(store_config)
    await old.assoc("old", 1)
    await old.release()
    place, overtaken = ("page", False) if at == "listing" else ("remove", False)
    genuine = getattr(S3BlobStore, place)

    async def slow(self: S3BlobStore, *arguments: Any) -> Any:
        nonlocal overtaken
        if at == "the end":
            found = await genuine(self, *arguments)
        if not overtaken:
            # Another process finds the store deleted and makes its own.
            overtaken = True
            fresh = await create_store(store_config)
            await fresh.assoc("new", 2, expected_revision=ABSENT)
            await fresh.release()
        return found if at == "the end" else await genuine(self, *arguments)

    monkeypatch.setattr(S3BlobStore, place, slow)
    await delete_store(store_config)
    assert overtaken
    store = await connect_store(store_config)
    assert await store.get("new") == 2
    assert await store.get("old") is None
    await store.release()


async def test_a_deletion_by_id_spares_a_store_of_another_id_that_took_its_place(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {key: value for key, value in store_config.items() if key != "id"}
    place.setdefault("prefix", str(store_config.get("id")))
    old, new = ({**place, "id": uuid4()} for _ in range(2))
    await (await create_store(old)).release()
    write, overtaken = S3BlobStore.write, False

    async def slow(self: S3BlobStore, name: str, *arguments: Any) -> Any:
        nonlocal overtaken
        if name == MARKER and not overtaken:
            # The id was compared; meanwhile another process deletes the store and makes its own.
            overtaken = True
            await delete_store(old)
            fresh = await create_store(new)
            await fresh.assoc("new", 2)
            await fresh.release()
        return await write(self, name, *arguments)

    monkeypatch.setattr(S3BlobStore, "write", slow)
    with pytest.raises(StoreConfigError, match="another store"):
        await delete_store(old)
    assert overtaken
    store = await connect_store(new)
    assert await store.get("new") == 2
    await store.release()


async def test_two_deletions_at_once(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await create_store(store_config)
    await store.assoc("k", 1)
    await store.release()
    genuine, overtaken = S3BlobStore.page, False

    async def slow(self: S3BlobStore, *arguments: Any) -> Any:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            await delete_store(store_config)
        return await genuine(self, *arguments)

    monkeypatch.setattr(S3BlobStore, "page", slow)
    await delete_store(store_config)
    assert not await store_exists(store_config)
    store = await create_store(store_config)
    assert await store.keys() == []
    await store.release()


async def test_a_deletion_that_was_cut_off_is_finished_by_whoever_creates(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await create_store(store_config)
    await store.assoc("k", 1)
    await store.release()

    class Killed(BaseException):
        pass

    async def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(backends, "_remove_all", killed)
        with pytest.raises(Killed):
            await delete_store(store_config)
    assert not await store_exists(store_config)
    store = await create_store(store_config)
    assert await store.keys() == []
    assert await store_exists(store_config)
    await store.release()


# -- refusals --------------------------------------------------------------------------------------


async def test_what_a_server_does_not_know_is_a_refusal_at_once(
    server: S3Server, store_config: dict[str, Any]
) -> None:
    with Proxy(server.endpoint) as proxy:
        store = await create_store({**store_config, "endpoint": proxy.url})
        proxy.plan = lambda _: status(501)
        proxy.clear()
        with pytest.raises(UnsupportedOperation, match="501"):
            await store.assoc("k", 1)
        assert proxy.count("PUT") == 1
        with pytest.raises(UnsupportedOperation, match="501"):
            await store.assoc("k", 1, expected_revision=ABSENT)
        proxy.plan = None
        await store.release()


async def test_a_database_is_refused_where_conditions_are_not_known(
    server: S3Server, store_config: dict[str, Any]
) -> None:
    with Proxy(server.endpoint) as proxy:
        config = {**store_config, "endpoint": proxy.url}
        await (await create_store(config)).release()

        def plan(request: Any) -> Any:
            headers = {name.lower() for name in request.headers}
            return status(501) if headers & {"if-none-match", "if-match"} else None

        proxy.plan = plan
        with pytest.raises(d.FencingUnsupported, match="conditional"):
            await d.create_database(store=config)
        proxy.plan = None


@pytest.mark.parametrize(
    ("code", "kind"), [("AccessDenied", StoreDenied), ("InternalError", StoreUnavailable)]
)
async def test_objects_that_stay_say_why(
    store_config: dict[str, Any], code: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await create_store({**store_config, "retry-seconds": 0.1})
    await store.assoc("k", 1)
    ask, asked = S3BlobStore._ask, 0

    async def refuse(self: S3BlobStore, operation: str, *arguments: Any, **parameters: Any) -> Any:
        nonlocal asked
        if operation != "delete_objects":
            return await ask(self, operation, *arguments, **parameters)
        asked += 1
        key = parameters["Delete"]["Objects"][0]["Key"]
        return {"Errors": [{"Key": key, "Code": code, "Message": "planted"}]}

    monkeypatch.setattr(S3BlobStore, "_ask", refuse)
    with pytest.raises(kind, match="still there"):
        await store.multi_dissoc(["k"])
    assert asked == 1 or kind is StoreUnavailable
    await store.release()


def test_encryption_that_breaks_half_way_leaves_a_doubt() -> None:
    def driver() -> None:
        # As the driver does it: without the arguments that its own error needs.
        try:
            raise ssl.SSLError("bad record mac")
        except ssl.SSLError:
            raise SSLError from None

    for writes, kind in ((True, OutcomeUnknown), (False, StoreUnavailable)):
        with pytest.raises(kind, match="bad record mac"), translated("writing x", writes=writes):
            driver()


# -- event loops -----------------------------------------------------------------------------------


def test_sessions_belong_to_an_event_loop() -> None:
    async def opened() -> tuple[Any, Any]:
        made = settings_of({"bucket": "bkt", "prefix": "p", "access-key": "k", "secret": "s"})
        for _ in range(2):
            inner = await client.open_client(made)
            await inner.__aexit__(None, None, None)
        session = client._session(None)
        assert session is client._session(None)
        return session, session.get_component("data_loader")

    found = [anyio.run(opened, backend=loop) for loop in ("asyncio", "asyncio", "trio")]
    # What they renew credentials with is bound to a loop; the models are not.
    assert len({id(session) for session, _ in found}) == 3
    assert len({id(loader) for _, loader in found}) == 1


# -- secrets ---------------------------------------------------------------------------------------


def test_a_store_may_be_opened_while_another_one_logs() -> None:
    class Text(str):
        __slots__ = ()

        def __contains__(self, item: str) -> bool:
            redact(f"another-{len(item)}")
            return super().__contains__(item)

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802
            return Text("a secret-of-mine here")

    redact("secret-of-mine", "secret-of-mine-too", "a-third")
    record = Record("botocore.auth", logging.DEBUG, "", 0, "", None, None)
    assert _redacted(record)
    assert record.msg == "a *** here"


def test_a_secret_within_another_one_uncovers_neither() -> None:
    redact("short-secret", "short-secret-and-long")
    text = "short-secret-and-long"
    record = logging.LogRecord("botocore.auth", logging.DEBUG, "", 0, text, None, None)
    assert _redacted(record)
    assert record.msg == "***"
