"""The page of settings lists every key, with the default that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datahike_async_lmdb import backend as lmdb
from datahike_async_s3.settings import settings_of

import datahike_async as d
from datahike_async.config.model import Config
from datahike_async.config.names import FIELDS, STORED, option
from datahike_async.config.writer import _WRITER_KEYS, WriterConfig
from datahike_async.edn import Keyword, read
from datahike_async.konserve import compressors, config, file_lock
from datahike_async.konserve.registry import backend
from datahike_async.konserve.wrappers import caching, tiered
from datahike_async.konserve.wrappers.retrying import Patience

PAGE = (Path(__file__).resolve().parents[1] / "docs/reference/settings.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def rows(section: str) -> dict[str, tuple[Any, str]]:
    """Return key -> default, None where it is told in words, and meaning."""
    found = re.findall(r"^\| `(:[^`]+)` \| .*? \| (.*?) \| (.*) \|$", SECTIONS[section], re.M)
    assert len({key for key, _, _ in found}) == len(found)
    return {
        key: (read(default.strip("`")) if default.startswith("`") else None, meaning)
        for key, default, meaning in found
    }


def plain(value: Any) -> Any:
    """Return a value of EDN as the code has it."""
    if isinstance(value, Keyword):
        return value.text
    if isinstance(value, dict):
        return {key.text: plain(inner) for key, inner in value.items()}
    return value


def test_every_setting_of_a_database_has_its_default() -> None:
    found = rows("Of a database")
    assert list(found) == [option(key) for key in FIELDS]
    made = Config.of({})
    for key, name in FIELDS.items():
        default, meaning = found[option(key)]
        value = getattr(made, name)
        if key == "writer":
            value = {"backend": value.backend}
        assert plain(default) == value, key
        assert (key in STORED) is meaning.startswith("*fixed*"), key


def test_every_setting_of_the_writer_has_its_default() -> None:
    found = rows("Of the writer")
    assert list(found) == [f":{key}" for key in _WRITER_KEYS]
    made = WriterConfig()
    for key, name in _WRITER_KEYS.items():
        assert plain(found[f":{key}"][0]) == getattr(made, name), key


S3 = settings_of({"bucket": "bucket", "prefix": "p"})
PATIENCE = Patience()
DEFAULTS: dict[str, dict[str, Any]] = {
    "Of every store": {"max-unfolded-bytes": compressors.LIMIT, "read-only": False},
    "memory": {},
    "file": {"lock-seconds": file_lock.LOCK_SECONDS, "salvage": False},
    "lmdb": {"map-size": lmdb._MAP_SIZE, "lock-seconds": file_lock.LOCK_SECONDS},
    "s3": {
        "create-bucket": S3.create_bucket,
        "requests-at-once": S3.requests_at_once,
        "multipart-bytes": S3.multipart_bytes,
        "timeout": S3.timeout,
        "retry-seconds": S3.retry_seconds,
        "x-ray?": False,
    },
    "tiered": {
        "write-policy": tiered._POLICIES[0],
        "read-policy": "frontend-first",
        "write-behind-bytes": tiered._BEHIND_BYTES,
    },
    "caching": {"max-bytes": caching._DEFAULT_BYTES},
    "retrying": {
        "attempts": PATIENCE.attempts,
        "deadline": PATIENCE.deadline,
        "first-pause": PATIENCE.first_pause,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_setting_of_a_store_has_its_default(name: str) -> None:
    found = {} if name == "memory" else rows(name)
    known = config._COMMON if name == "Of every store" else backend(name).keys
    assert found.keys() == {f":{key}" for key in known}
    told = {key[1:]: default for key, (default, _) in found.items() if default is not None}
    assert told == DEFAULTS[name]


def test_settings_that_are_without_effect_are_taken() -> None:
    for section in ("Of a database", "Of the writer"):
        for key, (default, meaning) in rows(section).items():
            if "without effect" not in meaning:
                continue
            given = {key: default} if section == "Of a database" else {":writer": {key: default}}
            assert d.Config.of(given) is not None
