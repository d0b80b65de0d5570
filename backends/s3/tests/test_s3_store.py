"""What is particular to S3: settings, prefixes, parts, pages, deletion, errors, secrets."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import h11
import pytest
from datahike_async_s3.settings import settings_of

import datahike_async as d
from datahike_async.konserve import (
    OutcomeUnknown,
    RevisionMismatch,
    Store,
    StoreConfigError,
    StoreDenied,
    StoreExists,
    StoreNotFound,
    StoreUnavailable,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)
from tests.servers.programs import S3Server
from tests.servers.proxy import DROP_REQUEST, DROP_RESPONSE, TRUNCATE, Proxy, in_turn, status
from tests.servers.s3 import config_on

pytestmark = pytest.mark.anyio

MARKER = "konserve.store"


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as proxy:
        yield proxy
        proxy.settle()


# -- settings --------------------------------------------------------------------------------------

GOOD = {"bucket": "bkt", "prefix": "p"}


def test_defaults() -> None:
    id_ = uuid.uuid4()
    made = settings_of({"bucket": "bkt", "id": id_})
    assert (made.prefix, made.path_style, made.region) == (f"{id_}/", False, None)
    assert settings_of({**GOOD, "prefix": "/a/b/"}).prefix == "a/b/"
    assert settings_of({**GOOD, "endpoint": "http://localhost:9000/"}).path_style
    override = {":protocol": ":http", ":hostname": "localhost", ":port": 9000}
    assert settings_of({**GOOD, "endpoint-override": override}).endpoint == "http://localhost:9000"
    assert not settings_of({**GOOD, "endpoint": "http://h", "path-style?": False}).path_style


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"prefix": "p"}, "bucket"),
        ({"bucket": 5, "prefix": "p"}, "bucket"),
        ({"bucket": "bkt"}, "prefix"),
        ({"bucket": "bkt", "prefix": "/"}, "prefix"),
        ({**GOOD, "endpoint": "localhost:9000"}, "endpoint"),
        ({**GOOD, "endpoint": "http://me:CANARY@localhost"}, "access-key"),
        ({**GOOD, "endpoint": "http://a", "endpoint-override": {"hostname": "b"}}, "not both"),
        ({**GOOD, "access-key": "k"}, "together"),
        ({**GOOD, "secret": "CANARY"}, "together"),
        ({**GOOD, "access-key": "k", "secret": 5}, "secret"),
        ({**GOOD, "path-style": "yes"}, "path-style"),
        ({**GOOD, "requests-at-once": 0}, "requests-at-once"),
        ({**GOOD, "multipart-bytes": 1000}, "multipart-bytes"),
        ({**GOOD, "timeout": "fast"}, "timeout"),
        ({**GOOD, "retry-seconds": -1}, "retry-seconds"),
        ({**GOOD, "x-ray?": True}, "x-ray"),
    ],
)
def test_bad_settings_are_named(config: dict[str, Any], part: str) -> None:
    with pytest.raises(StoreConfigError, match=part) as caught:
        settings_of(config)
    assert "CANARY" not in str(caught.value)


async def test_an_unknown_key_names_the_nearest(store_config: dict[str, Any]) -> None:
    with pytest.raises(StoreConfigError, match="'bucket'"):
        await create_store({**store_config, "buckt": "b"})


# -- stores ----------------------------------------------------------------------------------------


async def test_a_bucket_that_is_missing(store_config: dict[str, Any]) -> None:
    config = {**store_config, "bucket": f"no-{uuid.uuid4().hex}", "create-bucket": False}
    assert not await store_exists(config)
    await delete_store(config)
    for call in (create_store, connect_store):
        with pytest.raises(StoreNotFound, match=r"bucket|does not exist"):
            await call(config)
    attached = await connect_store(config, verify=False)
    with pytest.raises(StoreNotFound):
        await attached.get("k")
    await attached.release()
    with pytest.raises(d.DatabaseNotFound):
        async with d.connect(store=config):
            pass


async def test_two_stores_of_one_bucket_know_nothing_of_each_other(
    store_config: dict[str, Any],
) -> None:
    other_config = {**store_config, "prefix": store_config["prefix"] + "-2", "id": uuid.uuid4()}
    one, other = await create_store(store_config), await create_store(other_config)
    await one.assoc("k", 1)
    assert await other.get("k") is None
    assert await other.keys() == []
    await delete_store(other_config)
    assert await one.get("k") == 1
    await one.release()
    await other.release()


async def test_another_store_is_told_by_its_id(store_config: dict[str, Any]) -> None:
    await (await create_store(store_config)).release()
    with pytest.raises(StoreConfigError, match="another store"):
        await connect_store({**store_config, "id": uuid.uuid4()})
    without = {key: value for key, value in store_config.items() if key != "id"}
    await (await connect_store(without)).release()


async def test_a_prefix_in_use_is_refused(store_config: dict[str, Any]) -> None:
    store = await create_store(store_config)
    await store.blobs.write("ab", b"1")
    await store.blobs.delete(MARKER)
    with pytest.raises(StoreConfigError, match="other objects"):
        await create_store(store_config)
    await store.release()


async def test_an_interrupted_deletion_leaves_no_store_and_can_be_repeated(
    store_config: dict[str, Any], server: S3Server
) -> None:
    store = await create_store(store_config)
    await store.assoc("k", 1)
    with Proxy(server.endpoint) as proxy:
        through = {**store_config, "endpoint": proxy.url, "retry-seconds": 0.1}
        proxy.plan = lambda r: status(503) if r.method == "POST" else None
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            await delete_store(through)
    assert not await store_exists(store_config)
    with pytest.raises(StoreNotFound):
        await connect_store(store_config)
    # What is left of the old one does not show in a new one.
    again = await create_store(store_config)
    assert await again.get("k") is None
    await again.release()
    await delete_store(store_config)
    await store.release()


async def test_one_of_many_creates_a_store(store_config: dict[str, Any]) -> None:
    made: list[Store] = []
    refused: list[StoreExists] = []
    await (await create_store({**store_config, "prefix": uuid.uuid4().hex})).release()

    async def create() -> None:
        try:
            made.append(await create_store(store_config))
        except StoreExists as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(create)
    assert (len(made), len(refused)) == (1, 5)
    await made[0].release()


# -- parts -----------------------------------------------------------------------------------------

MIB = 1024 * 1024


async def test_a_large_value_goes_in_parts(
    store_config: dict[str, Any], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datahike_async_s3.multipart._PART", 5 * MIB)
    config = {**store_config, "endpoint": proxy.url, "multipart-bytes": 6 * MIB}
    store = await create_store(config)
    data = bytes(range(256)) * (6 * MIB // 256)
    revision = await store.bassoc("large", data)
    parts = [r for r in proxy.requests if r.method == "PUT" and "partNumber" in r.query]
    assert len(parts) == 2
    assert await store.bget("large") == data
    assert await store.bget("large", 5 * MIB, 5 * MIB + 10) == data[5 * MIB : 5 * MIB + 10]
    with pytest.raises(RevisionMismatch):
        await store.bassoc("large", data, expected_revision='"stale"')
    # In one piece, for conditions are known to hold for puts alone.
    proxy.clear()
    await store.bassoc("large", data[::-1], expected_revision=revision)
    assert [r.method for r in proxy.requests] == ["PUT"]
    await store.release()


async def test_a_value_of_many_lines_is_sent_in_few_pieces(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    send = h11.Connection.send

    def sent(self: h11.Connection, event: h11.Event) -> bytes | None:
        if isinstance(event, h11.Data):
            pieces.append(len(event.data))
        return send(self, event)

    store = await create_store(store_config)
    monkeypatch.setattr(h11.Connection, "send", sent)
    await store.bassoc("lines", (b"x" * 99 + b"\n") * 3000)
    assert sum(pieces) > 300_000
    assert len(pieces) < 10
    await store.release()


async def test_a_part_that_fails_fails_the_value(
    store_config: dict[str, Any], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datahike_async_s3.multipart._PART", 5 * MIB)
    config = {**store_config, "endpoint": proxy.url, "multipart-bytes": 6 * MIB}
    store = await create_store({**config, "retry-seconds": 0.01})
    await store.bassoc("large", b"old")
    proxy.plan = lambda r: status(500) if "partNumber=2" in r.query else None
    with pytest.raises(OutcomeUnknown):
        await store.bassoc("large", bytes(6 * MIB))
    proxy.plan = None
    assert await store.bget("large") == b"old"
    # Nothing of the failed upload stays behind to be paid for.
    client: Any = vars(store.blobs)["_client"]
    uploads = await client.list_multipart_uploads(Bucket=config["bucket"])
    assert not [u for u in uploads.get("Uploads", ()) if u["Key"].startswith(config["prefix"])]
    await store.release()


# -- errors ----------------------------------------------------------------------------------------


async def test_reads_survive_what_passes(store_config: dict[str, Any], proxy: Proxy) -> None:
    store = await create_store({**store_config, "endpoint": proxy.url})
    await store.bassoc("k", b"x" * 10_000)
    for fault in (DROP_REQUEST, DROP_RESPONSE, TRUNCATE, status(503), status(500), status(429)):
        proxy.plan = in_turn(fault, fault, method="GET")
        assert await store.bget("k") == b"x" * 10_000
        proxy.plan = in_turn(fault, method="GET")
        assert await store.bget("k", 5, 8) == b"xxx"
    await store.release()


async def test_a_server_out_of_reach(store_config: dict[str, Any]) -> None:
    config = {**store_config, "endpoint": "http://127.0.0.1:9", "retry-seconds": 0.2}
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await connect_store(config)
    with pytest.raises(d.StorageError) as caught:
        await d.create_database(store=config)
    assert caught.value.retryable


async def test_a_conditional_write_is_sent_once(store_config: dict[str, Any], proxy: Proxy) -> None:
    store = await create_store({**store_config, "endpoint": proxy.url})
    revision = await store.assoc("k", 1)
    proxy.clear()
    proxy.plan = in_turn(DROP_RESPONSE, method="PUT")
    with pytest.raises(OutcomeUnknown, match="before the answer came"):
        await store.assoc("k", 2, expected_revision=revision)
    assert proxy.count("PUT") == 1
    assert await store.get("k") == 2
    proxy.plan = in_turn(status(503), method="PUT")
    _, revision = await store.get("k", with_revision=True)
    with pytest.raises(OutcomeUnknown, match="503"):
        await store.assoc("k", 3, expected_revision=revision)
    assert await store.get("k") == 2
    await store.release()


async def test_access_denied_says_what_to_check(store_config: dict[str, Any], proxy: Proxy) -> None:
    store = await create_store({**store_config, "endpoint": proxy.url})
    proxy.plan = lambda _: status(403)
    for call in (store.get("k"), store.assoc("k", 1), store.dissoc("k")):
        with pytest.raises(StoreDenied, match="Check the credentials"):
            await call
    await store.release()


async def test_who_may_look_at_a_prefix_alone_can_make_a_store_there(
    store_config: dict[str, Any], proxy: Proxy
) -> None:
    prefix = f"{uuid.uuid4()}/ours/db"
    within = f"/{prefix}"
    # As a policy for one prefix does, which lets nobody look above it.
    proxy.plan = lambda record: (
        status(403) if record.method == "HEAD" and within not in record.path else None
    )
    store = await create_store({**store_config, "endpoint": proxy.url, "prefix": prefix})
    assert [record.status for record in proxy.requests].count(403) == 2 * 2
    await store.assoc("k", 1)
    assert await store.get("k") == 1
    await store.release()


async def test_cancelling_a_request_leaves_the_store_usable(
    store_config: dict[str, Any], proxy: Proxy
) -> None:
    store = await create_store({**store_config, "endpoint": proxy.url})
    proxy.latency = 0.3
    for call in (store.get("k"), store.assoc("k", 1), store.bassoc("b", b"x" * 100_000)):
        with anyio.move_on_after(0.05) as scope:
            await call
        assert scope.cancelled_caught
    proxy.latency = 0.0
    proxy.settle()
    await store.assoc("k", 2)
    assert await store.get("k") == 2
    await store.release()


# -- secrets ---------------------------------------------------------------------------------------

CANARY = "c4n4ry-s3cr3t-in-a-c0al-mine"


async def test_secrets_are_nowhere_to_be_found(
    servers: Callable[[str], S3Server],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = servers("moto")
    store = {
        **config_on(server),
        "secret": CANARY,
        "session-token": CANARY + "-token",
        "access-key": "AKIA" + CANARY,
        "retry-seconds": 0.1,
    }
    shown: list[str] = []
    bodies: list[bytes] = []
    with Proxy(server.endpoint) as proxy:
        store["endpoint"] = proxy.url
        config = await d.create_database(store=store, initial_tx=[{":db/ident": ":x"}])
        shown += [repr(config), str(config.to_map())]
        async with d.connect(config) as conn:
            await conn.transact([{":db/ident": ":y"}])
            inner = conn._transactor.branch.store
            shown += [repr(conn), repr(conn.config), repr(inner), str(inner.config)]
            shown += [repr(inner.blobs), repr(conn.db()), repr(vars(inner.blobs)["_settings"])]
            shown.append(d.__name__)
            proxy.plan = lambda _: status(403)
            for call in (conn.sync(), conn.transact([{":db/ident": ":z"}])):
                with pytest.raises(d.DatahikeError) as caught:
                    await call
                error: BaseException | None = caught.value
                while error is not None:
                    shown += [str(error), repr(error), repr(getattr(error, "data", ""))]
                    error = error.__cause__ or error.__context__
            proxy.plan = None
            async for names in inner.blobs.names():
                bodies += [b.data for b in (await inner.blobs.read_many(names)).values()]
        with pytest.raises(d.DatahikeError) as refused:
            await d.create_database(store={**store, "bukket": "b"})
        shown += [str(refused.value), repr(refused.value)]
    shown.append(caplog.text)
    shown += capfd.readouterr()
    for text in shown:
        for line in text.splitlines():
            assert CANARY not in line, line
    assert bodies
    for body in bodies:
        assert CANARY.encode() not in body


async def test_credentials_from_the_usual_chain(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from datahike_async_s3 import client

    config = {k: v for k, v in store_config.items() if k not in ("access-key", "secret")}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    # No machine of a test has a role to ask for.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    client._sessions.set({})
    with pytest.raises(StoreConfigError, match="no credentials were found"):
        await create_store(config)
    with pytest.raises(StoreConfigError, match="nobody"):
        await create_store({**config, "profile": "nobody"})

    client._sessions.set({})
    files.write_text("[somebody]\naws_access_key_id = k\naws_secret_access_key = s\n")
    store = await create_store({**config, "profile": "somebody"})
    await store.assoc("k", 1)
    await store.release()

    client._sessions.set({})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    store = await connect_store(config)
    assert await store.get("k") == 1
    await store.release()
    client._sessions.set({})
