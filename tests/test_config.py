from __future__ import annotations

import warnings
from typing import Any
from uuid import UUID

import pytest

from datahike_async.config import Config, config_of
from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError

ID = UUID("c1a4e8b0-0000-4000-8000-000000000001")
STORE = {"backend": "file", "path": "/data/people"}


def test_a_datahike_config_pastes_in() -> None:
    config = config_of(
        f"""{{:store {{:backend :file :path "/data/people" :id #uuid "{ID}"}}
             :keep-history? false :schema-flexibility :read
             :index :datahike.index/persistent-set :index-config {{:branching-factor 64}}
             :writer {{:backend :self :transaction-queue-size 7}} :branch :db :name "people"}}"""
    )
    assert config.store == {"backend": "file", "path": "/data/people", "id": ID}
    assert config.keep_history is False
    assert config.schema_flexibility == "read"
    assert config.index_config == {"branching-factor": 64}
    assert config.writer.transaction_queue_size == 7
    assert (config.branch, config.name) == ("db", "people")


@pytest.mark.parametrize(
    "given",
    [
        {"store": STORE, "keep_history": False},
        {":store": {":backend": ":file", ":path": "/data/people"}, ":keep-history?": False},
        {Keyword("store"): {Keyword("backend"): Keyword("file"), "path": "/data/people"},
         Keyword("keep-history?"): False},
    ],
)  # fmt: skip
def test_every_spelling_of_a_config_is_the_same(given: dict[Any, Any]) -> None:
    config = Config.of(given)
    assert config == Config.of(store=STORE, keep_history=False)
    assert config.given == {"store", "keep-history"}


def test_keyword_arguments_go_over_the_dict() -> None:
    assert (
        Config.of({"store": STORE, "keep-history?": True}, keep_history=False).keep_history is False
    )
    again = Config.of(Config.of(store=STORE, branch="work"), keep_history=False)
    assert (again.branch, again.keep_history) == ("work", False)


def test_defaults() -> None:
    config = Config.of(store=STORE)
    assert config.keep_history is True
    assert config.schema_flexibility == "write"
    assert config.index == "datahike.index/persistent-set"
    assert config.branch == "db"
    assert config.given == {"store"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep-histroy?": True}, ["keep-histroy?", "did you mean :keep-history?"]),
        ({"stor": STORE}, ["'stor'", "did you mean :store?"]),
        ({"zzz": 1}, ["'zzz'", "known: :store"]),
        ({":keep-history?": "yes"}, ["'yes'", ":keep-history?", "true or false"]),
        ({":schema-flexibility": ":maybe"}, [":maybe", ":write, :read"]),
        ({":store": {":path": "/x"}}, [":backend"]),
        ({":store": {":backend": ":file"}}, [":path"]),
        ({":store": {":backend": ":memory", ":id": "nope"}}, ["UUID", "nope"]),
        ({":store-cache-size": 0}, [":store-cache-size", "at least 1"]),
        ({":store-cache-size": True}, [":store-cache-size", "True"]),
        ({":index": 3}, [":index", "keyword"]),
        ({":attribute-refs?": True}, [":attribute-refs?", "not supported yet"]),
        ({":commit-graph?": False}, [":commit-graph?", "not supported yet"]),
        ({":remote-peer": {":url": "http://x"}}, [":remote-peer", "not supported yet"]),
        ({":online-gc": {":enabled?": True}}, [":online-gc", "not supported yet"]),
        ({":writer": {":backend": ":kabel", ":peer-id": 1}}, [":kabel"]),
        ({":keep-history?": True, "keep_history": True}, [":keep-history?", "twice"]),
        ("{:store", ["EDN"]),
        (7, ["dict", "an int"]),
    ],
)
def test_a_bad_config_says_what_and_what_to_do(given: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.of(given)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("given", "keyword"),
    [
        ({":writer": {":streming?": True}}, ":unknown-self-writer-config-keys"),
        ({":writer": {":streaming?": False}}, ":invalid-streaming-flag"),
        ({":store": {":backend": ":indexeddb"}}, ":async-only-backend"),
        ({":store": {":backend": ":memory", ":id": 7}}, ":invalid-id-type"),
    ],
)
def test_keywords_of_config_errors(given: Any, keyword: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.of(given)
    assert caught.value.error == keyword


def test_mem_is_memory_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=":memory"):
        config = Config.of({":store": {":backend": ":mem"}})
    assert config.store["backend"] == "memory"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Config.of(f"datahike:mem://x?id={ID}").store == {"backend": "memory", "id": ID}
    assert Config.of(f"datahike:file:///data/p?id={ID}").store["path"] == "/data/p"


def test_secrets_do_not_show() -> None:
    store = {"backend": "s3", "bucket": "b", "access-key": "AKIA", "secret": "hush"}
    config = Config.of({"store": store, ":keep-history?": False})
    refused = "x://me:hush@db"
    for given in (
        {"store": refused},
        [refused],
        {"remote-peer": refused},
        f'{{:store "{refused}@@',
    ):
        with pytest.raises(ConfigError) as caught:
            Config.of(given)
        assert "hush" not in str(caught.value) + repr(caught.value.data)
    for text in (repr(config), repr(config.to_map()), repr(config.stored())):
        assert "hush" not in text
        assert "AKIA" not in text
    assert "'b'" in repr(config)
    with pytest.raises(ConfigError) as caught:
        Config.of({"store": {"bucket": "b", "secret": "hush"}})
    assert "hush" not in str(caught.value) + repr(caught.value.data)


def test_what_is_no_secret_shows() -> None:
    store = {
        "backend": "s3",
        "bucket": "b",
        "prefix": "people/a",
        "endpoint": "http://localhost:9000",
        "endpoint-override": {"protocol": "https", "hostname": "s3.example.org", "port": 9000},
        "session-token": "hush",
        "profile": "work",
        "dsn": "postgres://me:hush@db",
    }
    for text in (repr(Config.of(store=store)), repr(Config.of(store=store).to_map())):
        for part in (
            "people/a",
            "http://localhost:9000",
            "https",
            "s3.example.org",
            "9000",
            "work",
        ):
            assert part in text
        assert "hush" not in text
    for endpoint in ("http://me:hush@localhost", "http://localhost/?token=hush", b"hush"):
        assert "hush" not in repr(Config.of(store={**store, "endpoint": endpoint}))


def test_the_environment_fills_in_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAHIKE_STORE_BACKEND", ":file")
    monkeypatch.setenv("DATAHIKE_STORE_CONFIG", '{:path "/data/e"}')
    monkeypatch.setenv("DATAHIKE_KEEP_HISTORY", "false")
    monkeypatch.setenv("DATAHIKE_SCHEMA_FLEXIBILITY", ":read")
    config = Config.of()
    assert config.store == {"backend": "file", "path": "/data/e"}
    assert config.keep_history is False
    assert config.schema_flexibility == "read"
    assert Config.of(keep_history=True).keep_history is True
    assert Config.of({"store": STORE}).keep_history is True


def test_a_stored_config_is_adopted_where_nothing_was_said() -> None:
    stored = Config.of(store=STORE, keep_history=False, schema_flexibility="read").stored()
    opened = Config.of(store=STORE).adopting(stored)
    assert opened.keep_history is False
    assert opened.schema_flexibility == "read"


@pytest.mark.parametrize(
    ("options", "keyword", "option"),
    [
        ({"keep_history": True}, ":config-does-not-match-stored-db", ":keep-history?"),
        (
            {"schema_flexibility": "write"},
            ":config-does-not-match-stored-db",
            ":schema-flexibility",
        ),
        (
            {"index_config": {"branching-factor": 99}},
            ":create-time-fixed-index-config-mismatch",
            ":index-config",
        ),
    ],
)  # fmt: skip
def test_a_contradiction_to_the_stored_config_is_refused(
    options: dict[str, Any], keyword: str, option: str
) -> None:
    stored = Config.of(store=STORE, keep_history=False, schema_flexibility="read").stored()
    stored["index-config"] = {"branching-factor": 512}
    with pytest.raises(ConfigError, match=option.replace("?", r"\?")) as caught:
        Config.of(store=STORE, **options).adopting(stored)
    assert caught.value.error == keyword
    forced = Config.of(store=STORE, allow_unsafe_config=True, **options).adopting(stored)
    assert forced.keep_history is False


def test_a_config_that_contradicts_open_connections_is_refused() -> None:
    one = Config.of(store=STORE, keep_history=False)
    Config.of(store=STORE).check_same(one)
    with pytest.raises(ConfigError) as caught:
        Config.of(store=STORE, keep_history=True).check_same(one)
    assert caught.value.error == ":config-does-not-match-existing-connections"
