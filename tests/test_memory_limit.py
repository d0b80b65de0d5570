"""The limit of memory: where it comes from, how it is divided, and that caches keep to it."""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datahike_async as d
from datahike_async import memory
from datahike_async.index.protocol import Order
from datahike_async.memory import (
    COLUMNS,
    Memory,
    Slack,
    container_limit,
    memory_of,
    trimming,
)
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage import flush

MIB = 2**20


def groups(folder: Path, text: str, **files: str) -> int | None:
    """Return the limit of a process whose groups are told by ``text``; files by their place."""
    own = folder / "self"
    own.write_text(text)
    for place, content in files.items():
        file = folder / "cgroup" / place.replace("__", "/").replace("max", "memory.max")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return container_limit(own, folder / "cgroup")


def test_the_group_of_the_process_limits_it(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/app\n", app__max=f"{512 * MIB}\n") == 512 * MIB


def test_a_group_above_limits_those_within_it(tmp_path: Path) -> None:
    found = groups(
        tmp_path, "0::/pod/app\n", pod__app__max="max\n", pod__max="1000\n", max="2000\n"
    )
    assert found == 1000


def test_inside_a_container_the_limit_lies_at_the_root(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/../elsewhere\n", max="3000\n") == 3000


def test_older_kernels_have_a_hierarchy_of_memory_alone(tmp_path: Path) -> None:
    for place, limit in (("docker/abc", 4000), ("docker", 9223372036854771712)):
        file = tmp_path / "cgroup/memory" / place / "memory.limit_in_bytes"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(limit))
    assert groups(tmp_path, "4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n") == 4000


@pytest.mark.parametrize(
    "text", ["", "0::/\n", "4:memory:/\n", "nonsense", "0::/app\n1:name=x:/\n"]
)
def test_without_a_limit_there_is_none(tmp_path: Path, text: str) -> None:
    assert groups(tmp_path, text, app__max="max\n") is None
    assert container_limit(tmp_path / "missing", tmp_path) is None


def test_shares() -> None:
    shares = memory_of(512 * MIB)
    assert shares == Memory(64 * MIB, 128 * MIB, 128 * MIB)
    assert shares.limited
    # A large limit does not make caches larger than they are without one.
    assert memory_of(2**36).columns == COLUMNS
    assert memory_of(2**36).node_bytes(1000) == 1000
    assert shares.node_bytes(2**30) == 64 * MIB
    assert not Memory().limited
    assert Memory().node_bytes(2**30) == 2**30


@pytest.mark.parametrize("bad", [0, -1, 2**20 - 1, "512M", 1e9, True])
def test_a_bad_limit_is_an_error_that_names_it(bad: Any) -> None:
    with pytest.raises(d.ConfigError, match=":memory-limit"):
        d.Config.of({"memory-limit": bad})


def test_the_limit_is_shown_and_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert d.Config.of(memory_limit=2**20).to_map()[d.kw("memory-limit")] == 2**20
    assert d.kw("memory-limit") not in d.Config.of({}).to_map()
    monkeypatch.setenv("DATAHIKE_MEMORY_LIMIT", "536870912")
    assert d.Config.of().memory_limit == 512 * MIB


@pytest.mark.anyio
async def test_caches_keep_to_their_shares(tmp_path: Path) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    names = [":a", ":b", ":c"]
    schema = [
        {
            ":db/ident": name,
            ":db/valueType": ":db.type/long",
            ":db/cardinality": ":db.cardinality/one",
        }
        for name in names
    ]
    async with d.connect(config, create=True, initial_tx=schema, memory_limit=4 * MIB) as conn:
        await conn.transact([dict.fromkeys(names, i) for i in range(24_000)])
        db = conn.db()
        assert db.snapshot.trees.memory == memory_of(4 * MIB)
    async with d.connect(config, memory_limit=4 * MIB) as conn:
        db = conn.db()
        trees = db.snapshot.trees
        assert trees.memory == memory_of(4 * MIB)
        for name in names:
            assert await d.q(f"[:find (count ?e) . :where [?e {name}]]", db) == 24_000
        assert 0 < trees.columns.nbytes <= MIB
        source = trees.current[Order.EAVT].base._source
        assert source.cache.limit == MIB // 2


def test_much_is_given_back_at_once_and_little_is_not() -> None:
    given: list[int] = []
    slack = Slack(given.append)
    slack.add(31 * MIB)
    assert not slack.give_back()
    slack.add(MIB)
    assert slack.give_back()
    assert given == [0]
    assert not slack.give_back()
    without = Slack(None)
    without.add(2**40)
    assert not without.give_back()


@pytest.mark.skipif(trimming() is None, reason="the C library gives back nothing on demand")
def test_what_lies_between_things_that_stay_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    slack = Slack(trimming())
    kept = [np.ones(2048) for _ in range(8000)]
    kept[::2] = [None] * 4000  # type: ignore[list-item]
    before = resident()
    slack.add(4000 * 2048 * 8)
    assert slack.give_back()
    # Of four pages each three at least.
    assert before - resident() > 4000 * 2048 * 8 // 2
    assert kept[1].sum() == 2048


@pytest.mark.anyio
async def test_readers_and_merges_give_back_from_threads_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MUCH", 100_000)
    monkeypatch.setattr(flush, "_MERGED_ROWS", 5_000)
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    threads: list[threading.Thread] = []
    number = {":db/ident": ":n", ":db/valueType": ":db.type/long"}
    number[":db/cardinality"] = ":db.cardinality/one"
    async with d.connect(config, create=True, initial_tx=[number], memory_limit=MIB) as conn:
        source = conn._transactor.branch.source
        assert (trimming() is None) == (source.slack._trim is None)
        source.slack._trim = lambda _: threads.append(threading.current_thread())
        await conn.transact([{":n": i} for i in range(20_000)])
        some = [x.e for x in await conn.db().datoms("aevt", ":n")][::20]
        await conn.transact([{":db/id": e, ":n": -1} for e in some])
        threads.clear()
        await d.compact(conn)
        # Once at its end, and on the way.
        merged = len(threads)
        assert merged > 1
        for index in ("eavt", "aevt", "eavt"):
            assert len(await conn.db().datoms(index)) > 20_000
        assert len(threads) > merged
    assert threading.current_thread() not in threads


@pytest.mark.anyio
async def test_a_query_that_takes_more_than_its_share_names_the_clause() -> None:
    db = d.init_db([(e, ":n", e % 100) for e in range(1, 20_001)])
    db.snapshot.trees.memory = memory_of(2 * MIB)
    assert await d.q("[:find (count ?e) . :where [?e :n]]", db) == 20_000
    with pytest.raises(d.QueryCanceled) as caught:
        await d.q("[:find ?a ?b :where [?a :n ?n] [?b :n ?n]]", db)
    error = caught.value
    assert (error.error, error.data[":budget"]) == (":query/canceled", "memory")
    assert error.data[":limit"] == MIB // 2
    assert error.data[":clause"] in ("[?a :n ?n]", "[?b :n ?n]")
    for part in ("524,288 bytes", ":memory-limit", "select more"):
        assert part in str(error)
    # A budget that is less is what is named.
    with pytest.raises(d.QueryCanceled, match="budget of bytes"):
        await d.q("[:find ?a ?b :where [?a :n ?n] [?b :n ?n]]", db, budget=d.Budget(bytes=400_000))


@pytest.mark.anyio
async def test_memory_that_is_not_there_is_no_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Snapshot, "attr", none_left)
    db = d.init_db([(e, ":n", e) for e in range(1, 10)])
    with pytest.raises(d.QueryCanceled, match=r"\[\?e :n \?n\]") as caught:
        await d.q("[:find ?e ?n :where [?e :n ?n]]", db)
    assert caught.value.data[":budget"] == "memory"
