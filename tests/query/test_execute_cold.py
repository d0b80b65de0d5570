"""Queries on a database whose nodes are not in memory: the same answers, in few waves of reads."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.index.source import NodeMiss
from datahike_async.query.reading.fetch import fetch_attributes
from tests.query.ways import forced

pytestmark = pytest.mark.anyio

PEOPLE = 3000
ATTRIBUTES = (":name", ":city", ":age", ":score")


def config(path: Path) -> dict[str, object]:
    store = {":backend": ":file", ":path": str(path / "db"), ":id": uuid4()}
    return {":store": store, ":schema-flexibility": ":read", ":keep-history?": False}


async def filled(cfg: dict[str, object]) -> None:
    await d.create_database(cfg)
    async with d.connect(cfg) as conn:
        await conn.transact(
            [
                {":name": f"n{i % 7}", ":city": f"c{i % 50}", ":age": i % 90, ":score": i * 3}
                for i in range(PEOPLE)
            ]
        )


async def test_cold_and_warm_queries_agree(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    await filled(cfg)
    queries = [
        '[:find ?e :where [?e :name "n3"]]',
        '[:find ?e ?c ?a :where [?e :name "n3"] [?e :city ?c] [?e :age ?a]]',
        "[:find ?c (count ?e) :where [?e :city ?c] [?e :age ?a] [(> ?a 40)]]",
        "[:find ?x ?y :where [?x :score 9] [?x :city ?c] [?y :city ?c]]",
        '[:find ?e ?a :where [?e ?a "c7"]]',
        '[:find ?e :where [?e :age 5] (not [?e :name "n5"])]',
    ]
    answers = []
    for query in queries:
        # A fresh connection each time: nothing is in memory.
        async with d.connect(cfg) as conn:
            db = conn.db()
            cold = await d.q(query, db)
            warm = await d.q(query, db)
            assert cold == warm
            assert len(cold) > 0
            answers.append(cold)
    async with d.connect(cfg) as conn:
        for query, answer in zip(queries, answers, strict=True):
            assert await d.q(query, conn.db()) == answer


async def test_what_a_query_in_a_thread_reads_is_decoded_on_the_loop_without_its_looks(
    tmp_path: Path,
) -> None:
    """A look asks whether the thread is to stop, which the event loop cannot be asked."""
    cfg = config(tmp_path)
    await d.create_database(cfg)
    async with d.connect(cfg) as conn:
        await conn.transact([{":name": f"n{i}", ":city": f"c{i % 5}"} for i in range(300)])
    query = '[:find (count ?e) . :where [?e :city "c3"] [?e :name ?n]]'
    async with d.connect(cfg) as conn:
        with forced("anew in worker threads"):
            assert await d.q(query, conn.db()) == 60


async def test_attributes_come_in_the_same_waves(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    await filled(cfg)
    async with d.connect(cfg) as conn:
        view = conn.db().view
        ids = [view.schema.by_key[a].id for a in ATTRIBUTES]
        with pytest.raises(NodeMiss) as caught:
            view.attr(ids[0])
        source = caught.value.source
        waves = 0
        fetch = source.fetch

        async def counted(addresses: object, pin: object = None) -> None:
            nonlocal waves
            waves += 1
            await fetch(addresses, pin)  # type: ignore[arg-type]

        source.fetch = counted  # type: ignore[method-assign]
        await fetch_attributes(view, ids)
        together = waves
        assert all(len(view.attr(a)) == PEOPLE for a in ids)
    async with d.connect(cfg) as conn:
        view = conn.db().view
        with pytest.raises(NodeMiss) as caught:
            view.attr(ids[0])
        source, waves = caught.value.source, 0
        fetch = source.fetch
        source.fetch = counted  # type: ignore[method-assign]
        for a in ids:
            await fetch_attributes(view, [a])
        assert together <= waves
        assert together <= 3


async def test_a_query_that_waits_is_checked_against_its_own_rules(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    await filled(cfg)
    async with d.connect(cfg) as conn:
        identity = {":db/ident": ":code", ":db/unique": ":db.unique/identity"}
        kind = {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/one"}
        await conn.transact([{**identity, **kind}])
        people = [{":code": i, ":name": f"n{i}", ":city": f"c{i}"} for i in range(PEOPLE)]
        await conn.transact(people)
    query = "[:find ?v . :in $ % ?e :where (called ?e ?v)]"
    rules = {
        ":name": "[[(called ?e ?v) (name ?e ?v)] [(name ?e ?v) [?e :name ?v]]]",
        ":city": "[[(called ?e ?v) (city ?e ?v)] [(city ?e ?v) [?e :city ?v]]]",
    }
    found: dict[str, object] = {}
    async with d.connect(cfg) as conn:

        async def ask(attribute: str, code: int) -> None:
            found[attribute] = await d.q(query, conn.db(), rules[attribute], [":code", code])

        # Nothing is in memory: both wait for the entity that they were given, one after the other.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, ":name", 5)
            tasks.start_soon(ask, ":city", PEOPLE - 5)
    assert found == {":name": "n5", ":city": f"c{PEOPLE - 5}"}
