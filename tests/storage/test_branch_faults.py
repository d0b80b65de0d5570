"""The n-th store call of a verb on branches fails, for every n and in every way.

Whatever becomes of the verb: all that is listed opens and has entity ids of its own, nothing that
was acknowledged is lost, and the verb can be repeated, or says that it was done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.konserve.errors import StoreIOError
from datahike_async.konserve.testing.faults import Fault, FaultyBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.storage.branches import branching, forcing
from datahike_async.storage.branches.read import read_head
from datahike_async.storage.branches.registry import read_registry
from datahike_async.transactor.transactor import Limits
from tests.stores import on
from tests.strangers import as_a_stranger
from tests.transactor.test_faults import Parted

pytestmark = pytest.mark.anyio

T = TypeVar("T")

LIMITS = Limits(settle_seconds=0.05, close_rows=10**9)
IDS = 4
"""Entity ids of a branch's first block here."""


class Failing(FaultyBlobStore):
    """Fails once it is armed; ``scope`` is cancelled then instead, if there is one."""

    scope: anyio.CancelScope | None = None
    done_before = False
    between: Callable[[], Awaitable[None]] | None = None

    def arm(self, way: str, at: int) -> None:
        self.calls, self.at = 0, at
        if way.startswith("cancelled"):
            self.scope, self.done_before = anyio.CancelScope(), way == "cancelled after"
        else:
            self.fault, self.late_by = Fault(way), 1

    def disarm(self) -> None:
        self.at = self.scope = None

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._wait()
        if self.scope is None:
            return await super()._read(call)
        return await self._cancelled(call)

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._wait()
        if self.scope is None:
            return await super()._write(call)
        return await self._cancelled(call)

    async def _wait(self) -> None:
        """Have somebody else come between before the call it is armed for."""
        if self.between is not None and self.calls == self.at:
            between, self.between, self.at = self.between, None, None
            await between()

    async def _cancelled(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self._hit():
            return await call()
        assert self.scope is not None
        if self.done_before:
            with anyio.CancelScope(shield=True):
                await call()
        self.scope.cancel()
        await anyio.lowlevel.checkpoint()
        return await call()


WAYS = [fault.value for fault in Fault] + ["cancelled before", "cancelled after"]


@dataclass
class Case:
    """A database with branches :db and :t, and a tag :v; numbers that were acknowledged."""

    config: dict[str, Any]
    main: d.Connection
    trial: d.Connection
    blobs: Failing
    trials: Failing
    first: d.Database
    acknowledged: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    beside: d.Connection = field(init=False)


@pytest.fixture(autouse=True)
def few_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branching, "LEAST", IDS)
    monkeypatch.setattr(forcing, "LEAST", IDS)


QUICK = {
    "memory": ("asyncio", ("lost response",)),
    "parted": ("trio", ("cancelled before",)),
}
"""On which loop, and in which ways, calls fail by default; the long run does it all."""


def stores_and(*given: Any) -> list[Any]:
    """Return parameters for ``anyio_backend``, ``kind`` and ways to fail, or who comes between."""
    return [
        pytest.param(
            loop,
            kind,
            one,
            id=f"{loop}-{kind}-{one if isinstance(one, str) else one.__name__}",
            marks=[] if _is_quick(loop, kind, one) else [pytest.mark.slow],
        )
        for loop in ("asyncio", "trio")
        for kind in ("memory", "parted", "file")
        for one in given
        if isinstance(one, str) or kind != "file"  # there a turn keeps others of this process out
    ]


def _is_quick(loop: str, kind: str, one: Any) -> bool:
    on, ways = QUICK.get(kind, ("", ()))
    return loop == on and (
        one in ways if isinstance(one, str) else one in (write_all, renamed, collected)
    )


@pytest.fixture
def opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Failing]:
    """What every store that is opened is wrapped in."""
    found: list[Failing] = []

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        store = await stores.connect_store(config, **options)
        blobs = Parted(store.blobs) if kind == "parted" else store.blobs
        found.append(Failing(blobs, reads=True, error=lambda: StoreIOError("planted")))
        store.blobs = found[-1]
        store.capabilities = store.blobs.capabilities
        return store

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    return found


async def entities(db: d.Database) -> dict[int, int]:
    return {x.v: x.e for x in await db.datoms("aevt", ":n")}


REFUSALS = (
    d.DatabaseExists,
    d.DatabaseNotFound,
    d.WriterError,
    d.HeadConflict,
)


@asynccontextmanager
async def prepared(kind: str, folder: Path, opened: list[Failing]) -> AsyncIterator[Case]:
    store: dict[str, Any] = {"backend": "file" if kind == "file" else "memory", "id": uuid4()}
    if kind == "file":
        store["path"] = str(folder / str(store["id"]))
    config = {"store": store, "schema_flexibility": "read"}
    await d.create_database(config)
    main = await d.connect(config, limits=LIMITS)
    blobs = opened[-1]
    await main.transact([{":n": 1}])
    first = main.db()
    await d.branch(main, ":db", ":t")
    trial = await d.connect(on(config, "t"), limits=LIMITS)
    await trial.transact([{":n": 2}])
    await main.transact([{":n": 3}])
    await d.tag(main, ":v", d.commit_id(first))
    await d.branch(main, d.commit_id(first), ":side")
    yield Case(config, main, trial, blobs, opened[-1], first, {1, 2, 3})
    await d.delete_database(config)


# -- the verbs: each with what may be said when it is repeated -------------------------------------


async def branch(case: Case) -> None:
    await d.branch(case.main, ":db", ":new")


async def rename(case: Case) -> None:
    await d.rename_branch(case.main, ":t", ":new")


async def delete(case: Case) -> None:
    await d.delete_branch(case.main, ":t")


async def force_new(case: Case) -> None:
    await d.force_branch(case.main, case.first, ":new", [":db"])


async def force_other(case: Case) -> None:
    await d.force_branch(case.main, case.first, ":t", [":t", ":db"])


async def force_main(case: Case) -> None:
    await d.force_branch(case.main, case.first, ":db", [":t", ":db"])


async def tag(case: Case) -> None:
    await d.tag(case.main, ":w", ":t")


async def untag(case: Case) -> None:
    await d.untag(case.main, ":v")


async def collect(case: Case) -> None:
    await d.gc_storage(case.main, retain={"commits": 1})


async def grow(case: Case) -> None:
    """Add more than the block of the branch has ids for."""
    numbers = set(range(100, 100 + IDS + 1))
    told = case.refused
    try:
        await case.trial.transact([{":n": n} for n in numbers])
        told = case.acknowledged
    except d.TransactionOutcomeUnknown:
        told = case.unknown
        raise
    finally:
        told |= numbers


VERBS: dict[str, tuple[Callable[[Case], Awaitable[None]], tuple[type[Exception], ...]]] = {
    "branch": (branch, (d.DatabaseExists,)),
    "rename": (rename, (d.DatabaseExists, d.DatabaseNotFound)),
    "delete": (delete, (d.DatabaseNotFound,)),
    "force new": (force_new, ()),
    "force other": (force_other, ()),
    "force main": (force_main, ()),
    "tag": (tag, (d.DatabaseExists,)),
    "untag": (untag, (d.DatabaseNotFound,)),
    "grow": (grow, ()),
    "collect": (collect, ()),
}
LOSE: dict[str, set[int]] = {"delete": {2}, "force other": {2}, "force main": {3}}
"""What nobody has any more once a verb is done."""


async def check(case: Case, verb: str, lost: set[int], *, whole: bool = False) -> None:
    """Open all that is listed, add to it, and look at whose ids are whose."""
    owners: dict[int, tuple[str, int]] = {}
    seen: set[int] = set()
    async with d.connect(case.config, limits=LIMITS) as main:
        store = main._transactor.branch.store
        for name in sorted(one.text for one in await d.branches(main)):
            head, _ = await read_head(store, name)
            try:
                conn = await d.connect(on(case.config, name), limits=LIMITS)
            except d.DatabaseNotFound:
                # Its deletion was ended half way.
                assert not whole
                assert (verb, name) in (("delete", "t"), ("rename", "t"))
                assert head is not None
                assert head.deleted
                continue
            async with conn:
                before = await entities(conn.db())
                assert len(set(before.values())) == len(before)
                seen |= set(before)
                report = await conn.transact([{":db/id": f"t{n}", ":n": -n} for n in range(1, 4)])
                for eid in report.tempids.values():
                    assert eid not in owners
                    owners[eid] = name, eid
                assert not set(before.values()) & set(report.tempids.values())
                after = await entities(conn.db())
                assert len(after) == len(set(after.values()))
        registry = await read_registry(store)
        for name, listed in registry.branches.items():
            head, _ = await read_head(store, name)
            assert head is not None
            if not head.deleted:
                assert head.base.ids.start < registry.next_id
                assert name == registry.main or head.base.born == listed.publication
        for commit in (await d.tags(main)).values():
            assert await d.commit_as_db(main, commit) is not None
    assert case.acknowledged - seen <= lost
    assert case.refused.isdisjoint(seen)
    assert case.unknown <= seen or case.unknown.isdisjoint(seen)


async def attempt(case: Case, verb: str, way: str, at: int) -> bool:
    """Carry out a verb with a fault, then again; return whether it came to the fault at all."""
    act, repeated = VERBS[verb]
    blobs = case.trials if verb == "grow" else case.blobs
    blobs.arm(way, at)
    done = False
    with blobs.scope or anyio.CancelScope():
        try:
            await act(case)
            done = True
        except d.DatahikeError as error:
            assert "planted" in str(error) or "injected" in str(error) or error.retryable, error
    hit = blobs.calls > at
    blobs.disarm()
    await blobs.land()
    await case.trial.release()
    await case.main.release()
    await check(case, verb, LOSE.get(verb, set()))
    if verb != "grow":
        async with d.connect(case.config, limits=LIMITS) as case.main:
            try:
                await act(case)
            except repeated:
                await said(case, verb)
            else:
                assert verb.startswith("force") or verb == "collect" or not done
        await check(case, verb, LOSE.get(verb, set()))
    return hit


async def said(case: Case, verb: str) -> None:
    """Check that what a repeated verb has said is so."""
    there = {name.text for name in await d.branches(case.main)}
    tags: dict[str, UUID] = {name.text: of for name, of in (await d.tags(case.main)).items()}
    if verb in ("branch", "rename"):
        assert "new" in there
        await d.branch_as_db(case.main, ":new")
        if verb == "rename" and "t" in there:
            await d.delete_branch(case.main, ":t")
    elif verb == "delete":
        assert "t" not in there
    elif verb == "tag":
        assert tags["w"] == d.commit_id(await d.branch_as_db(case.main, ":t")) or len(tags) == 2
    elif verb == "untag":
        assert "v" not in tags


@pytest.mark.parametrize(("anyio_backend", "kind", "way"), stores_and(*WAYS))
@pytest.mark.parametrize("verb", VERBS)
async def test_every_call_of_a_verb_fails_in_turn(
    kind: str, tmp_path: Path, opened: list[Failing], verb: str, way: str
) -> None:
    if verb == "grow" and way.startswith("cancelled"):
        pytest.skip("its caller makes no call of the store")
    for at in range(100):
        async with prepared(kind, tmp_path, opened) as case:
            if not await attempt(case, verb, way, at):
                break
    assert 3 <= at < 60


# -- others that come between ----------------------------------------------------------------------


async def _write_to(case: Case, name: str, number: int) -> None:
    """Write to a branch as another process does, if it is there."""
    try:
        async with d.connect(on(case.config, name), limits=LIMITS) as conn:
            await conn.transact([{":n": number}])
            case.acknowledged.add(number)
    except d.DatabaseNotFound:
        pass


async def write_all(case: Case) -> None:
    for number, name in enumerate(("db", "t", "new"), 1000):
        await _write_to(case, name, number)


async def other_branch(case: Case) -> None:
    await d.branch(case.beside, ":t", ":other")
    await _write_to(case, "other", 1010)


async def forced(case: Case) -> None:
    await d.force_branch(case.beside, case.first, ":t", [":db"])
    await _write_to(case, "t", 1020)


async def deleted(case: Case) -> None:
    await d.delete_branch(case.beside, ":t")


async def made_again(case: Case) -> None:
    await deleted(case)
    await d.branch(case.beside, ":db", ":t")
    await _write_to(case, "t", 1030)


async def renamed(case: Case) -> None:
    await d.rename_branch(case.beside, ":t", ":new")
    await _write_to(case, "new", 1040)


async def tagged(case: Case) -> None:
    await d.untag(case.beside, ":v")
    await d.tag(case.beside, ":v", ":t")


async def collected(case: Case) -> None:
    await d.gc_storage(case.beside, retain={"commits": 1})


Other = Callable[[Case], Awaitable[None]]
OTHERS: list[Other] = [
    write_all,
    other_branch,
    forced,
    deleted,
    made_again,
    renamed,
    tagged,
    collected,
]


def may_be_lost(verb: str, other: Other) -> set[int]:
    """Return the numbers that nobody need have once both are done."""
    lost = set(LOSE.get(verb, ()))
    if verb in ("delete", "force other"):
        lost |= {1001, 1020, 1030}
    if verb == "force main":
        lost |= {1000}
    if verb == "force new" and other is renamed:
        lost |= {2, 1040}
    if other in (forced, deleted, made_again):
        lost |= {2, *range(100, 100 + IDS + 1)}
    return lost


@pytest.mark.parametrize(("anyio_backend", "kind", "other"), stores_and(*OTHERS))
@pytest.mark.parametrize("verb", VERBS)
async def test_others_come_between_any_two_calls_of_a_verb(
    kind: str, tmp_path: Path, opened: list[Failing], verb: str, other: Other
) -> None:
    act, _ = VERBS[verb]
    for at in range(100):
        async with prepared(kind, tmp_path, opened) as case:
            blobs = case.trials if verb == "grow" else case.blobs
            case.beside = await d.connect(on(case.config, "side"), limits=LIMITS)

            async def between(case: Case = case) -> None:
                # What is open already belongs to other processes.
                with as_a_stranger(), suppress(d.DatabaseExists, d.DatabaseNotFound):
                    await other(case)

            blobs.calls, blobs.at, blobs.between = 0, at, between
            with suppress(*REFUSALS):
                await act(case)
            hit = blobs.between is None
            blobs.disarm()
            for conn in (case.trial, case.beside, case.main):
                await conn.release()
            await check(case, verb, may_be_lost(verb, other), whole=True)
        if not hit:
            break
    assert 3 <= at < 60
