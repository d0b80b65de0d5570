"""Entity ids on branches: what is new on two of them is never the same entity."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve.errors import RevisionMismatch, StoreIOError, StoreUnavailable
from datahike_async.snapshot.ids import BLOCKS, MAIN, SPARE, UsedUp, are_near
from datahike_async.storage.branches import branching, forcing, registry
from datahike_async.storage.branches.head import Head
from datahike_async.storage.branches.read import write_head
from datahike_async.storage.branches.registry import change_registry, read_registry, take_block
from datahike_async.storage.probe import Probe
from datahike_async.transactor import branch as transactor_branch
from datahike_async.transactor.limits import Limits
from datahike_async.tx import bulk
from tests.stores import on
from tests.strangers import as_a_stranger

pytestmark = pytest.mark.anyio

FLUSHING = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)


async def entities(db: d.Database) -> dict[int, int]:
    return {x.v: x.e for x in await db.datoms("aevt", ":n")}


async def add(conn: d.Connection, numbers: range) -> None:
    """Assert numbers of as many new entities, as the way is that so many go."""
    await conn.transact([{":n": n} for n in numbers])


@pytest.mark.parametrize("count", [1, 20, bulk.LEAST])
async def test_what_is_new_on_two_branches_are_two_things(
    config: dict[str, Any], count: int
) -> None:
    async with d.connect(config, create=True) as main:
        await add(main, range(3))
        await d.branch(main, ":db", ":left")
        await d.branch(main, ":db", ":right")
        async with d.connect(on(config, "left")) as left, d.connect(on(config, "right")) as right:
            await add(left, range(10, 10 + count))
            await d.branch(left, ":left", ":further")
            async with d.connect(on(config, "further")) as further:
                await add(further, range(2000, 2000 + count))
                far = await entities(further.db())
            await add(main, range(4000, 4000 + count))
            await add(right, range(6000, 6000 + count))
            await add(left, range(8000, 8000 + count))
            found = [await entities(conn.db()) for conn in (main, left, right)]
    together = {n: e for one in (*found, far) for n, e in one.items()}
    assert len(together) == 3 + 5 * count
    assert len(set(together.values())) == len(together)
    # They stay who they are, whichever branch one looks from.
    assert all(together[n] == e for one in (*found, far) for n, e in one.items())
    assert all(e in MAIN for e in found[0].values())
    async with d.connect(on(config, "left")) as left:
        assert await entities(left.db()) == found[1]
        await add(left, range(9990, 9993))
        assert len(set((await entities(left.db())).values())) == len(found[1]) + 3


@pytest.mark.parametrize("limits", [FLUSHING, Limits()], ids=["flushing", "tail"])
async def test_a_branch_that_has_used_its_ids_takes_more(
    config: dict[str, Any], limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branching, "LEAST", 4)
    rng = random.Random(8)
    await d.create_database(config)
    async with d.connect(config, limits=limits) as main:
        await add(main, range(2))
        for name in ("left", "right"):
            await d.branch(main, ":db", name)
        known: dict[str, dict[int, int]] = {name: {} for name in ("left", "right")}
        at, commits = 100, []
        for _ in range(6):
            for name, mine in known.items():
                async with d.connect(on(config, name), limits=limits) as conn:
                    for count in (1, rng.randrange(1, 9), rng.choice([2, 30, bulk.LEAST])):
                        report = await conn.transact(
                            [{":n": at + i, ":db/id": f"t{i}"} for i in range(count)]
                        )
                        mine.update({at + i: report.tempids[f"t{i}"] for i in range(count)})
                        at += count
                        commits.append((report.db_after, await entities(report.db_after)))
                    found = await entities(conn.db())
                    assert {n: e for n, e in found.items() if n >= 100} == mine
        for db, said in rng.sample(commits, 6):
            there = await d.commit_as_db(main, db.commit_id)
            assert there is not None
            assert await entities(there) == said
    every = [e for mine in known.values() for e in mine.values()]
    assert len(set(every)) == len(every)
    assert all(e in BLOCKS for e in every)


@pytest.mark.parametrize("count", [2, 20, bulk.LEAST])
async def test_the_main_branch_takes_more_too(config: dict[str, Any], count: int) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":db/id": MAIN.stop - 2, ":n": 1}])
        await d.branch(conn, ":db", ":trial")
        await conn.transact([{":n": 2 + i} for i in range(count)])
        async with d.connect(on(config, "trial")) as trial:
            await add(trial, range(5000, 5002))
            other = await entities(trial.db())
        found = await entities(conn.db())
        assert len(set(found.values())) == count + 1
        assert set(found.values()) & set(other.values()) == {MAIN.stop - 2}
        await conn.transact([{":n": 2 + count}])
    async with d.connect(config) as conn:
        await conn.transact([{":n": 3 + count}])
        found = await entities(conn.db())
        assert len(set(found.values())) == count + 3


async def test_a_block_that_was_taken_is_used_on_after_opening_again(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branching, "LEAST", 4)
    async with d.connect(config, create=True) as main:
        store = main._transactor.branch.store
        await d.branch(main, ":db", ":trial")
        for n in range(10):
            async with d.connect(on(config, "trial")) as trial:
                await add(trial, range(n, n + 1))
        found = await entities(await d.branch_as_db(main, ":trial"))
        first = BLOCKS.start
        assert found == {n: first + n for n in range(10)}
        assert (await read_registry(store)).next_id == first + 4 + 8


@pytest.mark.parametrize("count", [1, 20, bulk.LEAST])
async def test_an_entity_of_another_branch_is_known_by_its_identity(
    config: dict[str, Any], count: int
) -> None:
    schema = {
        ":db/ident": ":id",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    }
    async with d.connect(config, create=True) as main:
        await main.transact([schema])
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            await trial.transact([{":id": i, ":n": i} for i in range(count)])
            theirs = await entities(trial.db())
        items = [{":db/id": e, ":id": n, ":n": n} for n, e in theirs.items()]
        await d.merge_db(main, [":trial"], items)
        # Once from the memtable and once from the trees.
        for add_to in (5000, 9000):
            await main.transact([{":id": i, ":n": i + add_to} for i in range(count)])
            assert await entities(main.db()) == {n + add_to: e for n, e in theirs.items()}


async def test_a_value_of_a_branch_has_ids_to_spare(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branching, "LEAST", 4)
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            await add(trial, range(3))
            before = await entities(trial.db())
            db = await trial.db().db_with([{":n": n} for n in range(10, 40)])
            db = await db.db_with([{":n": 50}])
            found = await entities(db)
            assert len(set(found.values())) == 34
            assert all(e in SPARE for n, e in found.items() if n >= 10)
            # Nothing was taken for it.
            await add(trial, range(60, 61))
            assert set((await entities(trial.db())).values()) - set(before.values()) == {
                max(before.values()) + 1
            }


async def test_ids_of_other_branches_are_stated_by_merges_alone(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            await add(trial, range(1))
            (theirs,) = (await entities(trial.db())).values()
            await trial.transact([[":db/add", theirs, ":m", 5]])
        for many in (1, 20, bulk.LEAST):
            stated = [{":db/id": theirs + i, ":n": i} for i in range(many)]
            with pytest.raises(d.TransactionError, match="belongs to another branch") as caught:
                await main.transact(stated)
            assert caught.value.error == ":entity-id/syntax"
            with pytest.raises(d.TransactionError, match="belongs to another branch"):
                await main.transact([{":ref": theirs, ":n": 1}, [":db/add", theirs, ":n", 4]])
        highest = main.db().max_eid
        for many in (1, 20, bulk.LEAST):
            items = [{":db/id": theirs + i, ":n": i} for i in range(many)]
            await d.merge_db(main, [":trial"], items)
            assert len(await entities(main.db())) == many
        assert main.db().max_eid == highest
        # Once it is there it can be written of.
        await main.transact([[":db/add", theirs, ":m", 6]])
        await add(main, range(9000, 9001))
        assert (await entities(main.db()))[9000] == highest + 1
    async with d.connect(config) as main:
        assert main.db().max_eid == highest + 1
        assert await d.q("[:find ?m . :in $ ?e :where [?e :m ?m]]", main.db(), theirs) == 6


@pytest.mark.parametrize("opened", [False, True])
async def test_of_two_branches_begun_at_once_each_has_its_ids(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    """Also where somebody opens one of them before it is listed."""
    found: dict[str, dict[int, int]] = {}

    async def grow(name: str) -> None:
        async with d.connect(on(config, name)) as conn:
            await add(conn, range(10 * len(found), 10 * len(found) + 2))
            found[name] = await entities(conn.db())

    async with d.connect(config, create=True) as main:
        begun = False

        async def between(store: Any, head: Head, revision: Any) -> None:
            nonlocal begun
            await write_head(store, head, revision)
            if not begun:
                begun = True
                await d.branch(main, ":db", ":right")
                if opened:
                    await grow("left")

        monkeypatch.setattr(branching, "write_head", between)
        await d.branch(main, ":db", ":left")
        await grow("right")
        await grow("left")
        assert await d.branches(main) == {d.kw("db"), d.kw("left"), d.kw("right")}
    right, left = set(found["right"].values()), set(found["left"].values())
    assert right == set(range(BLOCKS.start, BLOCKS.start + 2))
    second = BLOCKS.start + 4096
    assert left == set(range(second, second + (4 if opened else 2)))


async def test_when_all_ids_are_used_nothing_is_written(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        store = main._transactor.branch.store

        async def nearly(registry: Any) -> Any:
            return registry.without_block(range(BLOCKS.stop - 3))

        await change_registry(store, nearly)
        async with d.connect(on(config, "trial")) as trial:
            await add(trial, range(4096))
            with pytest.raises(
                d.TransactionError, match=f"only 3 are left, and {bulk.LEAST} are needed"
            ):
                await add(trial, range(5000, 5000 + bulk.LEAST))
            await add(trial, range(6000, 6003))
            with pytest.raises(d.TransactionError, match="only 0 are left"):
                await add(trial, range(6003, 6004))
            assert len(await entities(trial.db())) == 4099
            await trial.transact([[":db/add", 1, ":m", 1]])
        with pytest.raises(d.TransactionError, match="only 0 are left"):
            await d.branch(main, ":db", ":further")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}
        assert (await read_registry(store)).next_id == BLOCKS.stop


async def test_a_block_is_as_large_as_what_needs_it(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        store = main._transactor.branch.store
        assert len(await take_block(store, range(4096), 1)) == 8192
        assert len(await take_block(store, range(4096), 10_000)) == 20_000
        assert len(await take_block(store, MAIN, 1)) == 1 << 20


@pytest.fixture
async def few(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A database with branch :trial; branches begin with blocks of four ids."""
    monkeypatch.setattr(branching, "LEAST", 4)
    monkeypatch.setattr(forcing, "LEAST", 4)
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
    return config


@pytest.mark.parametrize("form", ["one by one", "together"])
async def test_a_large_transaction_takes_few_blocks(
    few: dict[str, Any], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Also one of more entities than a block is large that is taken for no transaction's sake."""
    monkeypatch.setattr(registry, "_LARGEST", 8)
    count = 3000
    items: list[Any] = [{":n": n} for n in range(count)]
    if form == "one by one":
        items = [[":db/add", f"t{n}", ":n", n] for n in range(count)]
    async with d.connect(on(few, "trial")) as trial:
        await trial.transact([*items, [":db/add", "last", ":n", count]])
        assert len(await entities(trial.db())) == count + 1
        taken = (await read_registry(trial._transactor.branch.store)).next_id - BLOCKS.start
    assert taken < 8 * count


async def test_what_fails_time_and_again_takes_one_block(few: dict[str, Any]) -> None:
    async def fails(_: Any) -> Any:
        raise ValueError("its own")

    async with d.connect(on(few, "trial")) as trial:
        store = trial._transactor.branch.store
        for n in range(5):
            with pytest.raises(ValueError, match="its own"):
                await trial.transact([*({":n": n} for n in range(6)), [":db.fn/call", fails]])
        taken = (await read_registry(store)).next_id
        assert taken <= BLOCKS.start + 4 + 16
        await add(trial, range(10))
        assert (await read_registry(store)).next_id <= taken + 32
        await add(trial, range(10, 12))
        found = await entities(trial.db())
    async with d.connect(on(few, "trial")) as trial:
        await add(trial, range(20, 60))
        found = {**await entities(trial.db()), **found}
        assert len(set(found.values())) == len(found) == 52


@pytest.mark.parametrize("many", [1, 20])
async def test_an_id_of_its_own_may_be_stated_where_more_are_needed(
    few: dict[str, Any], many: int
) -> None:
    async with d.connect(on(few, "trial")) as trial:
        last = BLOCKS.start + 3
        await trial.transact([{":db/id": last, ":n": 1}, *({":n": 2 + i} for i in range(many))])
        found = await entities(trial.db())
        assert found[1] == last
        assert len(set(found.values())) == many + 1


@pytest.mark.parametrize(
    ("planted", "error"),
    [
        (StoreIOError, d.StorageError),
        (StoreUnavailable, d.StorageError),
        (RevisionMismatch, d.HeadConflict),
    ],
)
async def test_what_prevents_a_block_from_being_taken_is_told_as_the_store_s(
    few: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    planted: type[Exception],
    error: type[d.DatahikeError],
) -> None:
    async def fails(*_: Any) -> range:
        raise planted("planted")

    async with d.connect(on(few, "trial")) as trial:
        with monkeypatch.context() as patch:
            patch.setattr(transactor_branch, "take_block", fails)
            with pytest.raises(error, match="planted"):
                await add(trial, range(6))
        await add(trial, range(6))
        assert len(await entities(trial.db())) == 6


async def test_a_block_is_taken_from_a_store_that_compares_alone(
    few: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Probe) -> None:
        raise d.FencingUnsupported("it lies")

    async with d.connect(on(few, "trial")) as trial:
        store = trial._transactor.branch.store
        before = await read_registry(store)
        monkeypatch.setattr(Probe, "check", fails)
        with pytest.raises(d.FencingUnsupported):
            await add(trial, range(6))
        assert await read_registry(store) == before


async def test_values_of_a_branch_made_of_a_value_have_other_ids_to_spare(
    few: dict[str, Any],
) -> None:
    async with d.connect(on(few, "trial")) as trial:
        made = await trial.db().db_with([{":n": n} for n in range(10)])
        await d.force_branch(trial, made, ":forced", [":trial"])
        async with d.connect(on(few, "forced")) as forced:
            await add(forced, range(100, 104))
            made = forced.db()
            for n in (200, 201):
                made = await made.db_with([{":n": n}])
            found = await entities(made)
        assert all(found[n] in SPARE for n in (9, 200, 201))
        assert len(set(found.values())) == len(found) == 16


async def test_a_value_of_an_old_commit_gives_out_no_id_of_what_was_merged(
    config: dict[str, Any],
) -> None:
    """Its checkpoint is one of the main branch, and so is the block that this one names."""
    async with d.connect(config, create=True) as main:
        await add(main, range(1))
        await d.branch(main, ":db", ":other")
        await d.branch(main, ":db", ":trial")
        await add(main, range(1, 2))
        async with d.connect(on(config, "trial")) as trial:
            await d.merge(trial, ":db")
            merged = d.commit_id(trial.db())
            await add(trial, range(2, 3))
            await trial._transactor.renew(frozenset())
            old = await d.commit_as_db(trial, merged)
            assert old is not None
            found = await entities(await old.db_with([{":n": 9}]))
            assert sorted(found) == [0, 1, 9]
            assert len(set(found.values())) == 3


SCHEMA: list[Any] = [
    {
        ":db/ident": ":id",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    },
    *(
        {":db/ident": name, ":db/valueType": kind, ":db/cardinality": ":db.cardinality/many"}
        for name, kind in ((":n", ":db.type/long"), (":ref", ":db.type/ref"))
    ),
]


async def facts(db: d.Database) -> list[tuple[Any, ...]]:
    """Return what a database says, where its entities are called by their own name."""
    names = {x.e: x.v for x in await db.datoms("aevt", ":id")}
    assert len(set(names.values())) == len(names)
    found = [(name, None, None) for name in names.values()]
    found += [(names.get(x.e), ":n", x.v) for x in await db.datoms("aevt", ":n")]
    found += [(names.get(x.e), ":ref", names.get(x.v)) for x in await db.datoms("aevt", ":ref")]
    return sorted(found, key=str)


async def called(_: d.Database, one: int) -> list[Any]:
    return [{":id": one, ":n": 1}, {":id": one + 1000, ":n": 2}]


def some_items(rng: random.Random) -> list[Any]:
    """Return items of all forms that make entities, under names of which many are there."""
    items: list[Any] = []
    for i in range(rng.choice([1, 3, 8, 20, 40])):
        one, other = rng.randrange(60), rng.randrange(60)
        items += rng.choice(
            [
                [{":id": one, ":n": i}],
                [{":db/id": f"a{i}", ":id": one, ":n": 3}],
                [[":db/add", f"b{one}", ":n", i], [":db/add", f"b{one}", ":id", one]],
                [{":id": one, ":ref": {":id": other, ":n": 2}}],
                [{":db/id": f"c{i}", ":id": one, ":ref": [f"d{i}"]}, {":db/id": f"d{i}", ":id": i}],
                [[":db.fn/call", called, one]],
                [[":db/retractEntity", [":id", one]]],
                [{":id": 2000 + rng.randrange(3000), ":n": 1}],
            ]
        )
    return items


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 9))]
)
@pytest.mark.parametrize("config", ["memory"], indirect=True)
async def test_what_transactions_do_is_the_same_however_small_the_blocks(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """On a branch that takes one all the time, and on the main one, which never does."""
    monkeypatch.setattr(branching, "LEAST", 2)
    monkeypatch.setattr(registry, "_LARGEST", 5)
    rng = random.Random(seed)
    async with d.connect({**config, "schema_flexibility": "write"}, create=True) as main:
        await main.transact(SCHEMA)
        await d.branch(main, ":db", ":trial")
        for number in range(12):
            items = some_items(rng)
            async with d.connect(on(config, "trial"), limits=FLUSHING) as trial:
                outcomes = []
                for conn in (main, trial):
                    try:
                        report = await conn.transact(items, idempotency_key=str(number))
                        outcomes.append("done")
                        again = await conn.transact(items, idempotency_key=str(number))
                        assert again.tempids == report.tempids
                    except d.TransactionError as error:
                        outcomes.append(str(error.error))
                assert outcomes[0] == outcomes[1]
                assert await facts(trial.db()) == await facts(main.db())
        async with d.connect(on(config, "trial")) as trial:
            assert await facts(trial.db()) == await facts(main.db())


@pytest.mark.parametrize("config", ["memory"], indirect=True)
async def test_writers_of_one_branch_that_run_out_of_ids_together(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branching, "LEAST", 2)
    given: list[int] = []

    async def write(conn: d.Connection, first: int) -> None:
        for n in range(first, first + 60, 4):
            report = await conn.transact([{":db/id": f"t{i}", ":n": n + i} for i in range(4)])
            given.extend(report.tempids.values())

    async with d.connect(config, create=True) as main, AsyncExitStack() as stack:
        await d.branch(main, ":db", ":trial")
        writers = []
        for _ in range(3):
            # Each opens it for itself, as another process does.
            with as_a_stranger():
                writers.append(await stack.enter_async_context(d.connect(on(config, "trial"))))
        async with anyio.create_task_group() as tasks:
            for i, conn in enumerate(writers):
                tasks.start_soon(write, conn, 1000 * i)
        for conn in writers:
            assert sorted((await entities(await conn.sync())).values()) == sorted(set(given))
        assert len(set(given)) == len(given) == 180
        taken = (await read_registry(main._transactor.branch.store)).next_id - BLOCKS.start
        assert taken < 20 * len(given)
    async with d.connect(on(config, "trial")) as trial:
        await add(trial, range(9000, 9100))
        found = await entities(trial.db())
        assert len(set(found.values())) == 280


def test_which_ids_may_be_stated_without_a_look() -> None:
    assert are_near([1, 7], MAIN, 7)
    assert not are_near([1, 8], MAIN, 7)
    assert not are_near([0], MAIN, 7)
    assert not are_near([-1, 4], MAIN, 7)
    own = range(BLOCKS.start + 100, BLOCKS.start + 200)
    assert are_near([3, MAIN.stop - 1, own.start, own.start + 5], own, own.start + 5)
    assert not are_near([own.start + 6], own, own.start + 5)
    assert not are_near([own.start - 1], own, own.start + 5)
    assert not are_near([own.stop], own, own.start + 5)
    assert UsedUp(4).count == 4
