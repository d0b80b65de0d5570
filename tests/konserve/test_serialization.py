"""Handlers for further types, further serializers, and what is refused."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from datahike_async.konserve import (
    CorruptValue,
    MessagePack,
    Store,
    StoreConfigError,
    UnknownBackend,
    UnsupportedEncoding,
    create_store,
    delete_store,
    register_backend,
    registry,
)
from datahike_async.konserve.compressors import compress, decompress
from datahike_async.konserve.envelope import HEADER, Envelope, seal, unseal
from datahike_async.konserve.redaction import public
from datahike_async.konserve.serializers import name_of_key

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@pytest.fixture
async def store():
    config = {"backend": "memory", "id": str(uuid.uuid4())}
    store = await create_store(config)
    yield store
    await delete_store(config)


async def test_a_handler_for_a_type_of_ones_own(store):
    with pytest.raises(TypeError, match="register a handler"):
        await store.assoc("p", Point(1, 2))
    store.register_handler(Point, 40, lambda p: [p.x, p.y], lambda v: Point(*v))
    await store.assoc("p", {"at": [Point(1, 2)]})
    assert await store.get("p") == {"at": [Point(1, 2)]}
    stranger = Store(store.blobs)
    with pytest.raises(UnsupportedEncoding, match="40"):
        await stranger.get("p")
    with pytest.raises(StoreConfigError, match="32 to 127"):
        store.register_handler(Point, 1, list, Point)


class Json:
    id = 9

    def serialize(self, value):
        return json.dumps(value).encode()

    def deserialize(self, data):
        return json.loads(data)


async def test_serializers_may_differ_within_a_store(store):
    await store.assoc("m", (1, 2))
    other = Store(store.blobs, serializer=Json(), compressor="zstd")
    await other.assoc("j", {"text": "x" * 500})
    assert await other.get("m") == (1, 2)
    with pytest.raises(UnsupportedEncoding, match="serializer 9"):
        await store.get("j")
    store.assoc_serializers([Json()])
    assert await store.get("j") == {"text": "x" * 500}
    with pytest.raises(StoreConfigError):
        other.register_handler(Point, 40, list, Point)


async def test_configurations(tmp_path):
    for config, error, part in (
        ({"backend": "memori"}, UnknownBackend, "did you mean 'memory'|did you mean memory"),
        ({"backend": "lmbd"}, UnknownBackend, "did you mean lmdb"),
        ({}, StoreConfigError, "backend"),
        ({"backend": "memory"}, StoreConfigError, "id"),
        ({"backend": "memory", "id": "x"}, StoreConfigError, "UUID"),
        ({"backend": "file", "pth": "x"}, StoreConfigError, "did you mean 'path'"),
        ({"backend": "file", "path": str(tmp_path), "compressor": "lz"}, StoreConfigError, "zstd"),
        ("file", StoreConfigError, "map"),
    ):
        with pytest.raises(error, match=part):
            await create_store(config)
    datahike = {":backend": ":memory", ":id": str(uuid.uuid4())}
    await create_store(datahike)
    await delete_store(datahike)


async def test_an_unknown_backend_names_no_package_that_does_not_exist(monkeypatch):
    monkeypatch.setattr(registry, "_points", dict)  # as if nothing were installed
    folders = {p.parent.name for p in (ROOT / "backends").glob("*/pyproject.toml")}
    for name in folders:
        monkeypatch.delitem(registry._registered, name, raising=False)
        with pytest.raises(
            UnknownBackend,
            match=f"datahike-async-{name} .*pip install backends/{name}",
        ):
            await create_store({"backend": name})
    for name in ("redis", "sql", "dynamodb", "gcs", "rocksdb", "nonesuch", "jdbc"):
        with pytest.raises(UnknownBackend, match=r"known here: .*file") as caught:
            await create_store({"backend": name})
        assert repr(name) in str(caught.value)
        assert "datahike-async-" not in str(caught.value)
        assert ("a later version" in str(caught.value)) is (name in ("redis", "sql", "dynamodb"))
        page = re.search(r"docs/\S+\.md", str(caught.value))
        assert page is not None
        assert (ROOT / page[0]).exists()


def test_of_a_configuration_only_that_is_seen_which_its_backend_names():
    register_backend("named", Named())
    id_ = uuid.uuid4()
    inner = {"backend": ":named", "id": id_, "url": "http://db/x", "dsn": "me:hush@db", "n": 1}
    for config in (
        {"backend": "unknown", "id": id_, "path": "hush", "n": 7, "x": {"path": "hush"}},
        {"backend": "tiered", "id": id_, "frontend-config": inner, "password": "hush"},
        {":backend": ":named", ":id": id_, ":url": "http://me:hush@db", ":uri": "hush"},
        {"backend": "named", "id": id_, "url": "db?token=hush", "place": {"url": b"hush"}},
        {"backend": "named", "id": id_, "url": "me:hush@db", "place": {"token": "hush"}},
        {"backend": {"hush": 1}, "id": id_, "nested": {"password": "hush"}},
    ):
        assert "hush" not in repr(public(config))
        assert str(id_) in repr(public(config))
    assert public(inner) == {**inner, "dsn": "***", "n": "***"}
    assert public({"backend": "named", "place": {"url": "u"}})["place"] == {"url": "u"}


class Named:
    keys = frozenset({"url", "dsn", "n", "place", "uri"})
    public = frozenset({"url", "place"})


def test_compression_is_noted_and_bounded():
    data, used = compress(b"a" * 1000, 2)
    assert len(data) < 100
    assert decompress(data, used) == b"a" * 1000
    assert compress(b"short", 2) == (b"short", 0)
    with pytest.raises(UnsupportedEncoding):
        decompress(b"x", 77)


def test_equal_keys_have_equal_names():
    assert name_of_key({"a": 1, "b": {2, 3}}) == name_of_key({"b": {3, 2}, "a": 1})
    assert name_of_key(1) != name_of_key("1") != name_of_key(b"1")
    assert name_of_key((1, 2)) != name_of_key([1, 2])
    assert MessagePack().deserialize(MessagePack().serialize(2**100)) == 2**100


def test_one_wrong_bit_of_a_stored_value_is_damage_and_no_newer_version():
    whole = seal(Envelope(0, 1, 1, b"value", b"meta"))
    for at in range(len(whole)):
        for bit in range(8):
            with pytest.raises(CorruptValue):
                unseal(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    newer = bytearray(whole)
    newer[2] = 9
    crc = zlib.crc32(newer[HEADER:], zlib.crc32(newer[: HEADER - 4]))
    newer[HEADER - 4 : HEADER] = crc.to_bytes(4, "big")
    with pytest.raises(UnsupportedEncoding, match="format 9"):
        unseal(bytes(newer))
