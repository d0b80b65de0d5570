"""What can be done in a simulation, and how often: each operation is a function of an actor."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import anyio

import datahike_async as d
from tests.simulation.actors import NAMES, Actor, facts_of
from tests.simulation.model import Branch, Commit, Intent, Wrong, merged, short
from tests.simulation.model import without as left

__all__ = ["OPERATIONS", "chosen"]


async def transact(actor: Actor) -> None:
    name = actor.some_branch() or "db"
    conn = await actor.conn(name)
    data, make = actor.change()
    number = actor.number()
    intent = Intent(number, "transact", name, make)
    await actor.committed(intent, lambda: conn.transact(data, {":op": number}), conn)


async def remove(actor: Actor) -> None:
    """Retract an entity, or purge it."""
    name = actor.some_branch() or "db"
    conn = await actor.conn(name)
    keys = sorted({f[0] for f in await facts_of(conn.db())})
    if not keys:
        return
    key, number = actor.pick(keys), actor.number()
    purges = actor.history and actor.chance.random() < 0.4
    form = ":db.purge/entity" if purges else ":db/retractEntity"
    data = [[form, [":k", key]]]
    intent = Intent(number, "remove", name, lambda facts: left(facts, key), purges=purges)
    await actor.committed(intent, lambda: conn.transact(data, {":op": number}), conn)


async def transact_many(actor: Actor) -> None:
    name = actor.some_branch() or "db"
    conn = await actor.conn(name)
    first, second = actor.change(), actor.change()
    numbers = actor.number(), actor.number()
    changes = tuple(zip(numbers, (first, second), strict=True))
    intents = [Intent(number, "many", name, make) for number, (_, make) in changes]
    for intent in intents:
        actor.model.intents[intent.number] = intent
    transactions = [
        {":tx-data": data, ":tx-meta": {":op": number}} for number, (data, _) in changes
    ]
    _, line, _ = actor.at(name)
    done: list[d.TxReport] = []

    async def send() -> Any:
        try:
            done.extend(await conn.transact_many(transactions))
        except d.DatahikeError as error:
            if not isinstance(error, d.TransactionOutcomeUnknown) and actor.process.alive:
                intents[1].status = "no"
            raise
        return done[0]

    if await actor.committed(intents[0], send, conn) is not None:

        async def sent() -> Any:
            return done[1]

        await actor.committed(intents[1], sent, conn, sent=line)


async def hold(actor: Actor) -> None:
    name = actor.some_branch() or "db"
    _, line, before = actor.at(name)
    conn = await actor.conn(name)
    fresh = actor.chance.random() < 0.7
    if fresh:
        db = await conn.sync()
        commit = await actor.seen(conn, db, name, line, before)
    else:
        db = conn.db()  # perhaps of what the branch was before somebody replaced it
        commit = await actor.learn(conn, db)
    actor.held.append((db, commit))
    del actor.held[:-6]


async def read_held(actor: Actor) -> None:
    if actor.held:
        db, commit = actor.pick(actor.held)
        await actor.check(db, commit, kept=False, what="a value that is held")


async def read_branch(actor: Actor) -> None:
    name = actor.some_branch() or "db"
    _, line, before = actor.at(name)
    conn = await actor.conn("db")
    db = await d.branch_as_db(conn, name)
    commit = await actor.seen(conn, db, name, line, before)
    await actor.check(db, commit, kept=False, what=f"branch {name}")


async def read_commit(actor: Actor) -> None:
    model = actor.model
    if actor.chance.random() < 0.3 and model.tags:
        commit = model.commits[actor.pick(model.tags.values())]
    elif actor.chance.random() < 0.6 and (wanted := model.must()):
        commit = model.commits[actor.pick(one for one in model.order if one in wanted)]
    else:
        commit = model.commits[actor.pick(model.order[-40:])]
    await _read_commit(actor, commit)


async def _read_commit(actor: Actor, commit: Commit, *, pinned: bool = False) -> None:
    model = actor.model
    before = set() if pinned else model.keepers(commit.id)
    conn = await actor.conn(actor.some_branch() or "db")

    def really() -> bool:
        return bool(before & model.keepers(commit.id))

    try:
        db = await d.commit_as_db(conn, commit.id)
    except d.SnapshotExpired:
        if really():
            raise Wrong(f"retained commit {short(commit.id)} has expired: {before}") from None
        return
    if db is None:
        if really():
            raise Wrong(f"retained commit {short(commit.id)} is not there: {before}")
        return
    try:
        await actor.check(db, commit, kept=bool(before), what="commit")
    except Wrong as wrong:
        if "expired" in str(wrong) and not really():
            return
        raise Wrong(f"{wrong}; kept by {before}") from wrong


async def sync(actor: Actor) -> None:
    name = actor.some_branch() or "db"
    _, line, before = actor.at(name)
    conn = await actor.conn(name)
    await actor.seen(conn, await conn.sync(), name, line, before)


async def merge(actor: Actor) -> None:
    name, source = actor.some_branch(), actor.some_branch()
    if name is None or source is None or name == source:
        return
    conn = await actor.conn(name)
    theirs = await actor.learn(conn, await d.branch_as_db(conn, source))
    settle = actor.pick(("abort", "ours", "theirs"))
    number = actor.number()
    intent = Intent(number, "merge", name, None, theirs.id, settle)
    if actor.chance.random() < 0.2:
        await d.merge_preview(conn, theirs.id, on_conflict=settle)
    before = conn.db()

    async def send() -> Any:
        return await d.merge(conn, theirs.id, on_conflict=settle, tx_meta={":op": number})

    try:
        await actor.committed(intent, send, conn, lambda done: done.transaction)
    except d.MergeConflict as conflict:
        ours = await actor.learn(conn, before)
        base = actor.model.base(ours.id, theirs.id)
        if base is None or conn.db().commit_id != ours.id:
            return
        _, conflicts, gone = merged(base.facts, ours.facts, theirs.facts, settle)
        if not gone and (settle != "abort" or not conflicts) and _kept_base(actor, base):
            raise Wrong(f"a merge without conflicts: {conflict.report}") from conflict


def _kept_base(actor: Actor, base: Commit) -> bool:
    return base.id in actor.model.must()


async def revert(actor: Actor) -> None:
    """Undo the newest transaction of a branch."""
    name = actor.some_branch() or "db"
    conn = await actor.conn(name)
    db = conn.db()
    commit = await actor.learn(conn, db)
    if len(commit.parents) != 1 or commit.parents[0] not in actor.model.commits:
        return
    number = actor.number()
    parent = actor.model.commits[commit.parents[0]].facts

    def make(facts: Any) -> Any:
        return merged(commit.facts, facts, parent, "abort")[0]

    keys = frozenset(f[0] for f in commit.facts ^ parent if f[1] == "k")
    intent = Intent(number, "revert", name, make, others=keys)

    async def send() -> Any:
        return await d.revert(conn, db.commit_id, tx_meta={":op": number})

    await actor.committed(intent, send, conn, lambda done: done.transaction)


async def _structural(actor: Actor, name: str, act: Any, *, there: bool) -> bool:
    """Do something to a branch as a whole; nobody knows what it is meanwhile."""
    branch = actor.model.branches.setdefault(name, Branch(there=None))
    if branch.unsettled:
        return False
    branch.busy += 1
    branch.line += 1
    branch.there, branch.tip = None, None
    try:
        await act()
        branch.there = there
    except d.DatabaseNotFound as error:
        if error.error == ":branch-does-not-exist" and not there:
            branch.there = False
        raise
    except BaseException:
        branch.doubt = actor.world.under_way(actor.process)
        raise
    finally:
        branch.busy -= 1
        branch.line += 1
    return True


async def branch(actor: Actor) -> None:
    new = actor.pick(NAMES)
    state = actor.model.branches.get(new)
    if state is not None and state.there:
        return
    source = actor.some_branch() or "db"
    conn = await actor.conn(actor.some_branch() or "db")
    origin, line, before = actor.at(source)
    start = origin.start
    if actor.chance.random() < 0.5:
        old = actor.model.commits[actor.pick(actor.model.order[-12:])]
        if await _structural(actor, new, lambda: d.branch(conn, old.id, f":{new}"), there=True):
            actor.world.note(f"{new} is {short(old.id)}")
            made, now = actor.model.branches[new], actor.model.branches[new].line
            db = await d.branch_as_db(conn, f":{new}")
            commit = await actor.learn(conn, db)
            if made.line == now and actor.model.descends(commit.id, old.id) is False:
                raise Wrong(f"branch {new} is {short(commit.id)}, not {short(old.id)}")
            actor.model.moved(new, now, None, commit.id)
        return
    if await _structural(actor, new, lambda: d.branch(conn, f":{source}", f":{new}"), there=True):
        now = actor.model.branches[new].line
        same = origin.line == line
        commit = await actor.learn(conn, await d.branch_as_db(conn, f":{new}"))
        actor.world.note(f"{new} is {short(commit.id)} of {source}")
        same = same and actor.model.branches[new].line == now
        if same and before is not None and actor.model.descends(commit.id, before) is False:
            raise Wrong(f"branch {new} of {source} has lost {short(before)}")
        actor.model.moved(new, now, None, commit.id)
        if same and actor.model.branches[new].tip is not None:
            actor.model.branches[new].start = start  # all that its origin keeps


async def delete(actor: Actor) -> None:
    name = actor.some_branch(side=True)
    if name is not None:
        conn = await actor.conn("db")
        await _structural(actor, name, lambda: d.delete_branch(conn, f":{name}"), there=False)


async def rename(actor: Actor) -> None:
    old, new = actor.some_branch(side=True), actor.pick(NAMES)
    if old is None or old == new:
        return
    state = actor.model.branches.get(new)
    if (state is not None and (state.there or state.unsettled)) or actor.model.branches[
        old
    ].unsettled:
        return
    conn = await actor.conn("db")

    async def act() -> None:
        await _structural(
            actor, old, lambda: d.rename_branch(conn, f":{old}", f":{new}"), there=False
        )

    await _structural(actor, new, act, there=True)


async def force(actor: Actor) -> None:
    name = actor.pick(NAMES)
    if not actor.held:
        return
    db, commit = actor.pick(actor.held)
    conn = await actor.conn("db")
    number = actor.number()
    actor.model.intents[number] = Intent(number, "force", name)

    async def act() -> None:
        await d.force_branch(conn, db, f":{name}", [":db"])

    if await _structural(actor, name, act, there=True):
        line = actor.model.branches[name].line
        found = await d.branch_as_db(conn, f":{name}")
        made = await actor.learn(conn, found)
        if actor.model.branches[name].line == line:
            actor.model.moved(name, line, None, made.id)
        if made.facts != commit.facts and found.max_tx == db.max_tx:
            raise Wrong(f"branch {name} was forced to be {short(commit.id)}, and is not")


async def rebase(actor: Actor) -> None:
    name = actor.some_branch(side=True)
    if name is None:
        return
    conn = await actor.conn(name)
    number = actor.number()
    actor.model.intents[number] = Intent(number, "rebase", name)

    async def act() -> None:
        await d.rebase(conn, ":db", on_conflict=actor.pick(("ours", "theirs")))

    if await _structural(actor, name, act, there=True):
        line = actor.model.branches[name].line
        other = await actor.conn("db")
        made = await actor.learn(other, await d.branch_as_db(other, f":{name}"))
        actor.model.moved(name, line, None, made.id)
    await actor.drop(name)


async def look(actor: Actor) -> None:
    """Find out which branches there are."""
    conn = await actor.conn("db")
    lines = {name: (actor.at(name)[1], state.there) for name, state in actor.model.branches.items()}
    found = {name.text for name in await d.branches(conn)}
    for name, (line, there) in lines.items():
        state = actor.model.branches[name]
        if state.line != line or state.unsettled:
            continue
        if there and name not in found:
            raise Wrong(f"branch {name} is gone")
        if name not in found and there is None and await _is_nowhere(conn, name):
            state.there = state.there if state.line != line or state.unsettled else False


async def _is_nowhere(conn: d.Connection, name: str) -> bool:
    """Whether a branch has no head either: one that was begun is listed by whoever opens it."""
    try:
        await d.branch_as_db(conn, f":{name}")
    except d.DatabaseNotFound:
        return True
    return False


async def collect(actor: Actor) -> None:
    conn = await actor.conn(actor.some_branch() or "db")
    keep = actor.pick((1, 2, 4, 8))
    actor.model.retained = min(actor.model.retained, keep)
    # It begins with what is retained by then: less was retained before.
    await d.gc_storage(conn, retain={"commits": keep})


async def tag(actor: Actor) -> None:
    conn = await actor.conn(actor.some_branch() or "db")
    commit = actor.pick(actor.model.order[-10:])
    name = f"t{actor.number()}-{actor.chance.random()}"
    await d.tag(conn, f":{name}", commit)
    actor.model.tags[name] = commit


async def untag(actor: Actor) -> None:
    if len(actor.model.tags) > 2:
        name = actor.pick(actor.model.tags)
        del actor.model.tags[name]
        await d.untag(await actor.conn("db"), f":{name}")


async def pin(actor: Actor) -> None:
    """Pin a commit, and read it whatever others do."""
    conn = await actor.conn(actor.some_branch() or "db")
    target: UUID = actor.pick(actor.model.order[-8:])
    commit = actor.model.commits[target]
    async with d.pin(conn, target, ttl=1e6) as db:
        for _ in range(4):
            for _ in range(4):
                await actor.world.pause(actor.process)
            try:
                await actor.check(db, commit, kept=True, what="pinned commit")
                await _read_commit(actor, commit, pinned=True)
            except d.StorageError as error:
                if isinstance(error, d.SnapshotExpired):
                    raise Wrong(f"pinned commit {short(commit.id)} has expired") from error
                raise


async def leave(actor: Actor) -> None:
    """Close a connection."""
    if actor.conns:
        await actor.drop(actor.pick(actor.conns))


async def wait(actor: Actor) -> None:
    with anyio.move_on_after(1):
        await actor.world.pause(actor.process)


OPERATIONS: Final = {
    transact: 40,
    transact_many: 4,
    remove: 4,
    hold: 8,
    read_held: 12,
    read_branch: 4,
    read_commit: 12,
    sync: 5,
    merge: 5,
    revert: 1.5,
    branch: 4,
    delete: 1.2,
    rename: 0.6,
    force: 0.8,
    rebase: 0.6,
    look: 1.5,
    collect: 4,
    tag: 2,
    untag: 1,
    pin: 2.5,
    leave: 2,
    wait: 1,
}


def chosen(actor: Actor) -> Any:
    """Return what an actor does next."""
    at = actor.chance.random() * sum(OPERATIONS.values())
    for operation, weight in OPERATIONS.items():
        at -= weight
        if at < 0:
            return operation
    return transact
