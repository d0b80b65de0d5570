"""Life shows in logs: the page says what the code tells, and a life tells all of it."""

from __future__ import annotations

import logging
import re
import uuid
from pathlib import Path

import pytest

import datahike_async as d
from datahike_async.events import EVENTS
from datahike_async.query.answer.shape import shape
from datahike_async.transactor.limits import Limits
from tests.strangers import as_a_stranger

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_logging_lists_every_event_as_it_is_told():
    page = (ROOT / "docs/reference/logging.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (\w+) \| (.*?) \|", page, re.M)
    listed = {
        name: (logger, level, tuple(re.findall(r"`([\w-]+)`", fields)))
        for name, logger, level, fields in rows
    }
    told = {
        event.name: (event.logger, logging.getLevelName(event.level), event.fields)
        for event in EVENTS.values()
    }
    assert listed == told


def test_the_shape_of_a_query_has_no_constant_in_it():
    for query, told in (
        ('[:find ?e :where [?e :n "hush"] [(> ?e 5)]]', "[:find ?e :where [?e :n …] [(> ?e …)]]"),
        ('[:find ?e :where [?e :n ":hush/x"]]', "[:find ?e :where [?e :n …]]"),
        ([":find", "?e", ":where", ["?e", ":n", "hush"]], "[:find ?e :where [?e :n …]]"),
        ({":find": ["?e"], ":where": [["?e", ":n", b"hush"]]}, "{:find [?e], :where [[?e :n …]]}"),
        ('[:find ?e :in $ :where [?e :id #uuid "00000000-0000-0000-0000-000000000000"]]',
         "[:find ?e :in $ :where [?e :id …]]"),
        (" " * 20_000, "a query of 20000 characters"),
        ("[:find", "no query"),
        (object(), "…"),
    ):  # fmt: skip
        assert shape(query) == told
    assert len(shape("[:find " + "?x " * 3000 + "]")) == 500


@pytest.mark.anyio
async def test_a_life_is_told_from_creation_to_deletion(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "datahike_async")
    config = {"store": {"backend": "file", "path": str(tmp_path / "db"), "id": uuid.uuid4()}}
    with pytest.raises(d.DatabaseNotFound):  # of a connection that was none, nothing is told
        await d.connect(config)
    await d.create_database(config, schema_flexibility="read")
    limits = Limits(flush_rows=50)
    async with d.connect(config, limits=limits, slow_query_ms=0) as conn:
        await conn.transact([{":name": "CANARY"}])
        assert await conn.db().q('[:find ?e . :where [?e :name "CANARY"]]') == 1
        async with d.connect(config) as second:
            await second.transact([{":name": "CANARY-2"}])
        with as_a_stranger():
            async with d.connect(config) as other:
                # Each has seen less than the other wrote: one runs again, one takes it over.
                await other.transact([{":name": "CANARY-3"}])
                await conn.transact([{":name": "CANARY-4"}])
                await other.sync()
        await conn.transact([{":n": n} for n in range(100)])
    await d.delete_database(config)
    told = [r for r in caplog.records if hasattr(r, "event")]
    names = [record.event for record in told]
    for name in ("created", "connected", "opened", "committed", "slow query", "conflict", "rerun",
                 "refreshed", "flushed", "released", "closed", "deleted"):  # fmt: skip
        assert name in names, name
    assert names[0] == "created"
    assert names[-1] == "deleted"
    assert names.count("opened") == names.count("closed") == 2
    assert names.count("connected") == names.count("released")
    for record in told:
        event = EVENTS[record.event]
        assert tuple(record.fields) == event.fields
        assert (record.name, record.levelno) == (event.logger, event.level)
        assert record.getMessage().startswith(f"{event.name}: ")
    loud = " ".join(r.getMessage() for r in caplog.records if r.levelno >= logging.INFO)
    assert "[:find ?e . :where [?e :name …]]" in loud
    assert "CANARY" not in loud


@pytest.mark.anyio
async def test_only_slow_queries_are_told_and_those_that_are_stopped_too(caplog):
    caplog.set_level(logging.INFO, "datahike_async.query")
    config = {"store": {"backend": "memory", "id": uuid.uuid4()}}
    await d.create_database(config, schema_flexibility="read")
    join = "[:find (count ?a) . :in [?a ...] [?b ...] :where [(< ?a ?b)]]"
    async with d.connect(config) as conn:
        assert conn.config.slow_query_ms == 1000
        await conn.db().q("[:find ?e :where [?e :db/ident]]")
        assert caplog.records == []
    async with d.connect(config, slow_query_ms=0) as conn:
        await d.q("[:find ?e :where [?e :name 5]]", conn.db())
        with pytest.raises(d.QueryCanceled):
            await conn.db().q(join.replace(":in", ":in $"), range(3000), range(3000), timeout=1)
    assert [r.event for r in caplog.records] == ["slow query", "slow query"]
    with pytest.raises(d.ConfigError, match="slow-query-ms"):
        d.Config.of(config, slow_query_ms="soon")


def test_what_nobody_listens_to_costs_nothing(caplog):
    caplog.set_level(logging.WARNING, "datahike_async")

    class Unprintable:
        def __format__(self, spec: str) -> str:
            raise AssertionError("nobody asked")

    event = EVENTS["committed"]
    assert not event.wanted
    event(**dict.fromkeys(event.fields, Unprintable()))


@pytest.mark.anyio
async def test_a_branch_that_somebody_takes_away_is_no_failure(caplog):
    caplog.set_level(logging.INFO, "datahike_async")
    config = {"store": {"backend": "memory", "id": uuid.uuid4()}}
    await d.create_database(config, schema_flexibility="read")
    async with d.connect(config) as conn:
        await d.branch(conn, ":db", ":side")
        async with d.connect(config, branch=":side") as side:
            await d.delete_branch(conn, ":side")
            with pytest.raises(d.WriterError):
                await side.transact([{":name": "Ada"}])
    told = [r for r in caplog.records if r.event == "branch gone"]
    assert [(r.levelno, r.fields) for r in told] == [(logging.INFO, {"branch": "side"})]
    assert all(r.levelno <= logging.INFO for r in caplog.records)
