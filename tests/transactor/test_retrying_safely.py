"""Expected basis and idempotency keys: what a caller needs to try again without harm."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import OutcomeUnknown
from datahike_async.konserve import opening as stores
from datahike_async.konserve.testing import Fault, FaultyBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.transactor.limits import Limits
from tests.servers.programs import S3Server
from tests.stores import store_on
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :n :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :source :db/valueType :db.type/string :db/cardinality :db.cardinality/one}]
"""
OFTEN = Limits(flush_rows=10, flush_bytes=500, flush_journal_bytes=500, close_rows=1)


@pytest.fixture(params=["memory", "file", "s3-moto"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> Mapping[str, Any]:
    made = store_on(request.param, tmp_path, servers)
    await d.create_database(store=made, initial_tx=SCHEMA)
    return made


async def txs(conn: d.Connection) -> int:
    found = await conn.db().q("[:find (count ?t) . :where [?t :db/txInstant _]]")
    return int(found)


# -- idempotency keys ------------------------------------------------------------------------------


async def test_sent_again_it_answers_what_it_answered(store: Mapping[str, Any]) -> None:
    data = [{":db/id": "ada", ":name": "Ada", ":n": 1}, {":db/id": -7, ":name": "Bob"}]
    async with Strangers(store, limits=OFTEN) as conn:
        await conn.transact([{":name": "Ada", ":n": 0}])
        first = await conn.transact(data, {":source": "web"}, idempotency_key="order-1")
        assert not first.repeated
        count = await txs(conn)
        for i in range(20):
            await conn.transact([{":name": "Ada", ":n": 100 + i}])
        again = await conn.transact(data, idempotency_key="order-1")
        assert await txs(conn) == count + 20
    async with Strangers(store) as other:
        elsewhere = await d.transact(other, data, idempotency_key="order-1")
        in_a_map = await other.transact({":tx-data": data, ":idempotency-key": "order-1"})
        as_text = await other.transact('{:tx-data [] :idempotency-key "order-1"}')
        for report in (again, elsewhere, in_a_map, as_text):
            assert report.repeated
            assert (report.tx, report.tempids) == (first.tx, first.tempids)
            assert report.instant == first.instant
            assert report.tx_meta[d.Keyword("source")] == "web"
            assert set(report.tx_data) == set(first.tx_data)
            entity = [":name", "Ada"]
            assert (await report.db_after.pull("[:n]", entity))[":n"] == 1
            assert (await report.db_before.pull("[:n]", entity))[":n"] == 0
        assert (await other.db().pull("[:n]", [":name", "Ada"]))[":n"] == 119


async def test_other_keys_and_no_key_run(store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        a = await conn.transact([{":n": 1}], idempotency_key="a")
        b = await conn.transact([{":n": 1}], idempotency_key="b")
        c = await conn.transact([{":n": 1}])
        assert len({a.tx, b.tx, c.tx}) == 3
        assert [r.repeated for r in (a, b, c)] == [False] * 3


async def test_many_at_once_with_one_key_run_once(store: Mapping[str, Any]) -> None:
    reports: list[d.TxReport] = []
    heard: list[int] = []

    async def send(conn: d.Connection) -> None:
        reports.append(await conn.transact([{":db/id": "x", ":n": 5}], idempotency_key="once"))

    async with Strangers(store) as one, Strangers(store) as two:
        one.listen(lambda report: heard.append(report.tx))
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(send, one)
                group.start_soon(send, two)
        assert len({r.tx for r in reports}) == 1
        assert len({r.tempids["x"] for r in reports}) == 1
        assert [r.repeated for r in reports].count(False) == 1
        assert len(heard) <= 1
    async with Strangers(store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 1


async def test_a_refused_transaction_does_not_use_its_key_up(store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        with pytest.raises(d.TransactionError):
            await conn.transact([{":n": "one"}], idempotency_key="k")
        report = await conn.transact([{":n": 1}], idempotency_key="k")
        assert not report.repeated


@pytest.mark.parametrize("options", [{"keep_history": False}, {"schema_flexibility": "read"}])
async def test_every_kind_of_database_keeps_keys(options: dict[str, Any], tmp_path: Path) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}, **options}
    await d.create_database(config)
    schema = [{":db/ident": ":n", ":db/valueType": ":db.type/long"}]
    schema[0][":db/cardinality"] = ":db.cardinality/one"
    async with d.connect(config, limits=OFTEN) as conn:
        await conn.transact(schema)
        first = await conn.transact([{":db/id": -1, ":n": 1}], idempotency_key="k")
    async with d.connect(config) as conn:
        again = await conn.transact([{":db/id": -1, ":n": 1}], idempotency_key="k")
        assert again.repeated
        assert (again.tx, again.tempids, again.instant) == (first.tx, first.tempids, first.instant)


async def test_a_key_is_answered_whatever_its_basis(store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        basis = conn.db()
        first = await conn.transact([{":n": 1}], expected_basis=basis, idempotency_key="k")
        again = await conn.transact([{":n": 1}], expected_basis=basis, idempotency_key="k")
        assert (again.tx, again.repeated) == (first.tx, True)


async def test_the_meta_of_the_first_answer_is_whole(store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        await conn.transact(
            "[{:db/ident :tag :db/valueType :db.type/string :db/cardinality :db.cardinality/many}]"
        )
        await conn.transact([{":n": 1}], {":tag": ["a", "b"]}, idempotency_key="k")
        again = await conn.transact([{":n": 1}], idempotency_key="k")
        assert again.tx_meta[d.Keyword("tag")] == ["a", "b"]


@pytest.mark.parametrize("attribute", [":db.idempotency/key", ":db.idempotency/tempids"])
async def test_nobody_writes_keys_by_hand(attribute: str, store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        for data, meta in (
            ([{attribute: "x"}], None),
            ([{":n": 1, d.Keyword(attribute): "x"}], None),
            ([[":db/add", "new", attribute, "x"]], None),
            ([[":db/retract", 1, attribute, "x"]], None),
            ([{":n": 1}], {attribute: "x"}),
        ):
            with pytest.raises(d.TransactionError, match="idempotency_key") as caught:
                await conn.transact(data, meta)
            assert caught.value.error == ":transact/syntax"


async def test_a_large_load_keeps_its_key(store: Mapping[str, Any]) -> None:
    load = [{":db/id": -1 - i, ":name": f"p{i}", ":n": i} for i in range(3_000)]
    async with Strangers(store) as conn:
        first = await conn.transact(load, idempotency_key="load")
    async with Strangers(store) as conn:
        again = await conn.transact(load, idempotency_key="load")
        assert again.repeated
        assert again.tempids == first.tempids
        assert len(again.tx_data) == len(first.tx_data) == 6_003
        assert len(await conn.db().datoms("aevt", ":n")) == 3_000


@pytest.mark.parametrize("key", ["", "x" * 513, 5, b"k", ["k"]])
async def test_a_key_that_is_none(key: Any, store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        with pytest.raises(d.TransactionError, match="idempotency key") as caught:
            await conn.transact([{":n": 1}], idempotency_key=key)
        assert caught.value.error == ":transact/syntax"


@pytest.mark.parametrize("fault", [Fault.LOST_RESPONSE, Fault.LOST_REQUEST])
async def test_after_an_unknown_outcome_the_key_decides(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    await d.create_database(store=store, initial_tx=SCHEMA)

    class Deaf(FaultyBlobStore):
        """From the first lost answer on nothing is heard."""

        async def read_journal(self, name: str, since: str | None = None) -> Any:
            if self.at is not None and self.calls > self.at:
                raise OutcomeUnknown("planted: no answer")
            return await super().read_journal(name, since)

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        opened = await stores.connect_store(config, **options)
        opened.blobs = Deaf(opened.blobs, fault=fault, at=1, persistent=True)
        return opened

    async def send(conn: d.Connection) -> d.TxReport:
        return await conn.transact([{":db/id": "x", ":n": 1}], idempotency_key="pay")

    with monkeypatch.context() as patch:
        patch.setattr(opened_stores, "connect_store", connect_store)
        async with Strangers(store, limits=Limits(settle_seconds=0.05)) as conn:
            await conn.transact([{":n": 0}])
            with pytest.raises(d.TransactionOutcomeUnknown):
                await send(conn)
    async with Strangers(store) as conn:
        report = await send(conn)
        assert report.repeated == (fault is Fault.LOST_RESPONSE)
        assert len(await conn.db().datoms("aevt", ":n")) == 2
        assert report.tempids["x"] in {x.e for x in await conn.db().datoms("aevt", ":n")}


async def test_processes_with_one_key_run_it_once(tmp_path: Path) -> None:
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    await d.create_database(config, initial_tx=SCHEMA)
    program = f"""
        import anyio
        import datahike_async as d

        async def main():
            async with d.connect({config!r}) as conn:
                for i in range(20):
                    await conn.transact([{{":n": i}}], idempotency_key=f"key-{{i}}")

        anyio.run(main)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    async with d.connect(config) as conn:
        assert sorted(x.v for x in await conn.db().datoms("aevt", ":n")) == list(range(20))


# -- expected basis --------------------------------------------------------------------------------


async def test_on_another_basis_nothing_is_written(store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn, Strangers(store) as other:
        basis = conn.db()
        report = await conn.transact([{":n": 1}], expected_basis=basis)
        with pytest.raises(d.TransactionError, match=str(basis.max_tx)) as caught:
            await conn.transact([{":n": 2}], expected_basis=basis)
        assert caught.value.error == ":transact/basis-mismatch"
        assert caught.value.data[":found"] == report.tx
        await conn.transact({":tx-data": [{":n": 3}], ":expected-basis": report.tx})
        # Also where another process is what came between.
        mine = conn.db()
        await other.transact([{":n": 4}])
        with pytest.raises(d.TransactionError, match="Read again"):
            await conn.transact([{":n": 5}], expected_basis=mine)
        assert [x.v for x in await conn.db().datoms("aevt", ":n")] == [1, 3, 4]


async def test_a_counter_that_everyone_reads_and_writes(store: Mapping[str, Any]) -> None:
    successes = 0

    async def count(conn: d.Connection, times: int) -> None:
        nonlocal successes
        while times:
            db = await conn.sync()
            seen = (await db.pull("[:n]", [":name", "counter"]))[":n"]
            try:
                await conn.transact([{":name": "counter", ":n": seen + 1}], expected_basis=db)
            except d.TransactionError as error:
                assert error.error == ":transact/basis-mismatch"
                continue
            successes += 1
            times -= 1

    async with Strangers(store) as one, Strangers(store) as two:
        await one.transact([{":name": "counter", ":n": 0}])
        async with anyio.create_task_group() as group:
            for conn in (one, one, two):
                group.start_soon(count, conn, 5)
        final = await (await one.sync()).pull("[:n]", [":name", "counter"])
        assert final[":n"] == successes == 15


@pytest.mark.parametrize("basis", ["now", 1.5, True, 7, -1, [536870913]])
async def test_a_basis_that_is_none(basis: Any, store: Mapping[str, Any]) -> None:
    async with Strangers(store) as conn:
        with pytest.raises(d.TransactionError, match="expected basis"):
            await conn.transact([{":n": 1}], expected_basis=basis)
