"""A world for simulations: one store, processes that ask it, and chance, which says what is next.

Each call of a process to the store waits until the world lets it land. What comes next when nobody
can go on follows from the seed alone: this or that call lands, is refused, loses its answer or
lands later; an operation is cancelled, a process killed, a clock set, or time passes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Any
from uuid import UUID

import anyio

from datahike_async.env import Env
from datahike_async.konserve import register_backend
from datahike_async.konserve.backends.memory import Blobs, MemoryBlobStore
from datahike_async.konserve.blob import (
    UNCHANGED,
    Appended,
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Journal,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import (
    OutcomeUnknown,
    RevisionMismatch,
    StoreExists,
    StoreIOError,
    StoreNotFound,
    StoreUnavailable,
)
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from tests.simulation.loops import Gate, Stuck

__all__ = ["KINDS", "Process", "Rates", "World"]

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
DEAD = "the process was killed"
STEPS = 60_000

KINDS: dict[str, Capabilities] = {
    "keys": Capabilities(
        durable=False,
        conditional=ConditionalDomain.PROCESS,
        atomic_multi=True,
        cheap_small_keys=True,
    ),
    "packs": Capabilities(durable=False, conditional=ConditionalDomain.PROCESS),
    "journals": Capabilities(durable=False, conditional=ConditionalDomain.PROCESS, journal=True),
}
"""The kinds of stores: as memory and LMDB are, as S3 is, as files are."""


class Truth(MemoryBlobStore):
    """What is stored, with the promises of a kind of store."""

    def __init__(self, data: Blobs, kind: str) -> None:
        super().__init__(data)
        self._kind = kind
        self._records: dict[Revision, list[tuple[Revision, bytes]]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return KINDS[self._kind]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        made = await super().write_many(writes)
        if self._kind != "packs":
            return made
        # As an ETag is: the same bytes have the same revision.
        found = [sha1(write.data).hexdigest() for write in writes]
        self._open().update(
            {w.name: (bytes(w.data), r) for w, r in zip(writes, found, strict=True)}
        )
        return found

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        found = self._open().get(name)
        if found is None:
            raise RevisionMismatch(f"{name} does not exist.", expected=expected)
        self._check(name, expected)
        (revision,) = await self.write_many([Write(name, found[0])])
        self._records[revision] = [*self._records.pop(found[1], []), (found[1], bytes(record))]
        return revision

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        found = self._open().get(name)
        if found is None:
            return None
        data, revision = found
        if revision == since:
            return UNCHANGED
        made = self._records.get(revision, [])
        before = [at for at, _ in made]
        records = [record for _, record in made]
        if since in before:
            return Appended(records[before.index(since) :], revision)
        return Journal(data, records, revision)


@dataclass(slots=True)
class Rates:
    """How often in a thousand steps something goes wrong."""

    fault: float = 0.0
    cancel: float = 0.0
    kill: float = 0.0
    clock: float = 0.0
    time: float = 0.0


@dataclass(eq=False)
class Process:
    """One that has the store open; what it knows of it dies with it."""

    number: int
    alive: bool = True
    ahead: timedelta = timedelta()
    scope: Any = None
    operations: list[Any] = field(default_factory=list)


Step = Callable[[], Awaitable[Any]]


class _Call:
    """A call on its way: the steps that are left of it, and who waits for it, if anybody does."""

    __slots__ = ("done", "gate", "process", "steps", "what", "writes")

    def __init__(self, process: Process, what: str, steps: list[Step], writes: bool) -> None:
        self.process = process
        self.what = what
        self.steps = steps
        self.writes = writes
        self.gate: Gate | None = None
        self.done: list[Any] = []


def _driven(step: Step) -> Any:
    """Return what a coroutine comes to that waits for nothing."""
    made = step().__await__()
    try:
        next(made)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the truth waits for nothing")


class World:
    """The store, the processes, and what happens next."""

    def __init__(self, seed: int, backend: str, kind: str, rates: Rates) -> None:
        self.chance = random.Random(seed)
        self.rates = rates
        self.backend = backend
        self.processes: list[Process] = []
        self.quiet = True
        self.id = UUID(int=random.Random(seed).getrandbits(128), version=4)
        self.kind = kind
        self.truth: Truth | None = None
        self.trace: list[str] = []
        self.steps = 0
        self._waiting: list[_Call] = []
        self._ids = random.Random(seed + 1)
        self._now = 0.0
        self._keeper: Gate | None = None
        self.restart: Callable[[Process], None] = lambda process: None

    # -- processes -------------------------------------------------------------------------------

    def process(self) -> Process:
        made = Process(len(self.processes))
        self.processes.append(made)
        return made

    def config(self, process: Process, branch: str = "db") -> dict[str, Any]:
        """Return where a process finds the store: a place of its own, so it shares nothing."""
        store = {"backend": "simulated", "id": self.id, "process": process.number}
        return {"store": store, "branch": branch}

    def env(self, process: Process) -> Env:
        ids = self._ids

        def now() -> datetime:
            at = BEGINNING + timedelta(milliseconds=int(self._now * 1000)) + process.ahead
            self._now += 0.001
            return at

        def monotonic() -> float:
            return self._now

        return Env(now, monotonic, lambda: UUID(int=ids.getrandbits(128), version=4), ids.random)

    async def keep(self) -> None:
        """Do what only a task can do, until it is cancelled."""
        while True:
            self._keeper = Gate(self.backend)
            act = await self._keeper.wait()
            act()

    def _soon(self, act: Callable[[], None]) -> None:
        assert self._keeper is not None
        self._keeper.open(act)

    def kill(self, process: Process) -> None:
        """Have a process be no more: what it has sent may still land, and it hears of nothing."""
        self.note(f"process {process.number} is killed")
        process.alive = False
        for call in self._waiting:
            if call.process is process and call.gate is not None:
                call.gate.open(error=StoreIOError(DEAD))
                call.gate = None
        # What was only read nobody waits for.
        self._waiting = [call for call in self._waiting if call.gate is not None or call.writes]
        if process.scope is not None:
            process.scope.cancel()
        self.restart(process)

    # -- what happens ----------------------------------------------------------------------------

    def note(self, what: str) -> None:
        self.trace.append(what)

    async def pause(self, process: Process, what: str = "waits") -> None:
        """Have a process wait for a moment that is as long as chance has it."""
        await self.call(process, what, [_nothing], writes=False)

    async def call(
        self, process: Process, what: str, steps: list[Step], *, writes: bool = True
    ) -> list[Any]:
        if not process.alive:
            raise StoreIOError(DEAD)
        if self.quiet:
            return [await step() for step in steps]
        call = _Call(process, what, steps, writes)
        call.gate = Gate(self.backend)
        self._waiting.append(call)
        try:
            return await call.gate.wait()  # type: ignore[no-any-return]
        except BaseException:
            call.gate = None  # whoever was cancelled; what was sent may land
            if not writes and call in self._waiting:
                self._waiting.remove(call)
            raise

    def under_way(self, process: Process) -> Callable[[], bool]:
        """Return what says whether something that a process has sent by now may still land."""
        sent = [call for call in self._waiting if call.process is process and call.writes]
        return lambda: any(call in self._waiting for call in sent)

    def idle(self, deadline: float | None, now: float) -> float:
        """Let the next thing happen."""
        self.steps += 1
        if self.steps > STEPS:
            raise Stuck(f"no end after {STEPS} steps")
        chance, rates = self.chance.random, self.rates
        if not self._waiting:
            if deadline is None:
                raise Stuck("everybody waits, and no call is under way")
            return self._passed(now, deadline)
        if not self.quiet:
            r = chance() * 1000
            if r < rates.cancel:
                self._cancel()
                return now
            r -= rates.cancel
            if r < rates.kill:
                alive = [process for process in self.processes if process.alive]
                if len(alive) > 1:
                    killed = alive[int(chance() * len(alive))]
                    self._soon(lambda: self.kill(killed))
                    return now
            r -= rates.kill
            if 0 <= r < rates.clock:
                process = self.processes[int(chance() * len(self.processes))]
                process.ahead = timedelta(seconds=int(chance() * 240) - 120)
                self.note(f"the clock of process {process.number} is set")
                return now
            r -= rates.clock
            if 0 <= r < rates.time and deadline is not None:
                return self._passed(now, deadline)
        self._land(self._waiting[int(chance() * len(self._waiting))])
        return self._passed(now, now + 0.004 * chance())

    def _passed(self, now: float, deadline: float) -> float:
        deadline = max(now, deadline)
        self._now += deadline - now
        return deadline

    def _cancel(self) -> None:
        scopes = [scope for process in self.processes for scope in process.operations]
        if scopes:
            scope = scopes[int(self.chance.random() * len(scopes))]
            self.note("somebody is cancelled")
            self._soon(scope.cancel)

    def _land(self, call: _Call) -> None:
        """Let one step of a call happen, or something go wrong with it."""
        who = f"{call.process.number} {call.what}"
        error: Exception | None = None
        if call.gate is None and self.chance.random() < 0.2:
            self._waiting.remove(call)
            self.note(f"{who}: never lands")
            return
        faulty = (
            not self.quiet
            and call.gate is not None
            and not call.what.startswith("waits")
            and self.chance.random() * 1000 < self.rates.fault
        )
        if faulty:
            error, ways = None, 5 if call.writes else 1
            way = int(self.chance.random() * ways)
            if way == 0:
                kind = StoreUnavailable if self.chance.random() < 0.7 else StoreIOError
                # Of many writes some may be there: that is no definite error.
                error = kind("injected: refused") if not call.done else OutcomeUnknown("injected")
                self._waiting.remove(call)
            elif way == 1:
                self.note(f"{who}: lands")
                error = self._step(call, all_=True) or OutcomeUnknown("injected: lost answer")
            elif way == 2:
                self._waiting.remove(call)
                error = OutcomeUnknown("injected: lost request")
            else:
                error = OutcomeUnknown("injected: late")
            kind = str(error) if "injected" in str(error) else type(error).__name__
            self.note(f"{who}: {kind}")
            assert call.gate is not None
            call.gate.open(error=error)
            call.gate = None
            return
        error = self._step(call)
        if error is not None:
            self.note(f"{who}: {type(error).__name__}")
        else:
            self.note(who if not call.steps else f"{who}, in part")
        if call.gate is not None and (error is not None or not call.steps):
            call.gate.open(call.done, error)

    def _step(self, call: _Call, *, all_: bool = False) -> Exception | None:
        while call.steps:
            step = call.steps.pop(0)
            try:
                call.done.append(_driven(step))
            except Exception as error:
                self._waiting.remove(call)
                call.steps.clear()
                return error
            if not all_:
                break
        if not call.steps:
            self._waiting.remove(call)
        return None

    def settle(self) -> None:
        """Let all that is under way land, and be quiet from now on."""
        self.quiet = True
        while self._waiting:
            self._land(self._waiting[int(self.chance.random() * len(self._waiting))])

    def later(self, seconds: float) -> None:
        """Let time pass by the clocks of all processes."""
        self._now += seconds


async def _nothing() -> None:
    pass


class _Asked(PassingBlobStore):
    """The store, as a process has it open."""

    def __init__(self, world: World, process: Process) -> None:
        assert world.truth is not None
        super().__init__(world.truth)
        self._world = world
        self._process = process

    async def _one(self, what: str, step: Step, *, writes: bool = False) -> Any:
        return (await self._world.call(self._process, what, [step], writes=writes))[0]

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        return await self._one(f"reads {name[:4]}", lambda: self.blobs.read(name, start, end))

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        return await self._one(
            f"reads latest {name[:4]}", lambda: self.blobs.read_latest(name, unless)
        )

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        return await self._one(f"reads {len(names)}", lambda: self.blobs.read_many(names))

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        return await self._one(
            f"writes {name[:4]}", lambda: self.blobs.write(name, data, expected), writes=True
        )

    async def delete(self, name: str, expected: Expected = None) -> bool:
        return await self._one(
            f"deletes {name[:4]}", lambda: self.blobs.delete(name, expected), writes=True
        )

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        names = " ".join(write.name[:4] for write in writes)
        if self.capabilities.atomic_multi:
            return await self._one(
                f"writes {names}", lambda: self.blobs.write_many(writes), writes=True
            )
        steps: list[Step] = [lambda w=w: self.blobs.write_many([w]) for w in writes]  # type: ignore[misc]
        done = await self._world.call(self._process, f"writes {names}", steps)
        return [revision for made in done for revision in made]

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        what = f"deletes {' '.join(name[:4] for name in names)}"
        if self.capabilities.atomic_multi:
            return await self._one(what, lambda: self.blobs.delete_many(names), writes=True)
        steps: list[Step] = [lambda n=n: self.blobs.delete_many([n]) for n in names]  # type: ignore[misc]
        done = await self._world.call(self._process, what, steps)
        return [gone for made in done for gone in made]

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        return await self._one(
            f"appends {name[:4]}",
            lambda: self.journals.append(name, record, expected),
            writes=True,
        )

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        return await self._one(
            f"reads journal {name[:4]}", lambda: self.journals.read_journal(name, since)
        )

    async def names(self) -> AsyncIterator[Sequence[str]]:
        # Page by page, each as it is by then, as object stores list.
        for half in (0, 1):
            await self._world.call(self._process, "lists", [_nothing], writes=False)
            assert self._world.truth is not None
            names = sorted(self._world.truth._open())
            yield [name for name in names if (name >= "8") is bool(half)]

    async def close(self) -> None:
        pass


class _Backend:
    """The stores of the worlds that there are."""

    keys = frozenset({"process"})
    compressor = "none"

    def __init__(self) -> None:
        self.worlds: dict[UUID, World] = {}

    async def create(self, config: Mapping[str, Any]) -> _Asked:
        world = self.worlds[config["id"]]
        if world.truth is not None:
            raise StoreExists("there is one")
        world.truth = Truth(Blobs(), world.kind)
        return _Asked(world, world.processes[config["process"]])

    async def connect(self, config: Mapping[str, Any]) -> _Asked:
        world = self.worlds.get(config["id"])
        if world is None or world.truth is None:
            raise StoreNotFound("there is none")
        return _Asked(world, world.processes[config["process"]])

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        return (config["id"], config["process"])

    async def exists(self, config: Mapping[str, Any]) -> bool:
        return self.worlds[config["id"]].truth is not None

    async def delete(self, config: Mapping[str, Any]) -> None:
        self.worlds[config["id"]].truth = None


SIMULATED = _Backend()
register_backend("simulated", SIMULATED)


async def slept(seconds: float) -> None:
    """Let time pass for one task."""
    await anyio.sleep(seconds)
