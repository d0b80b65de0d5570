"""A small model of the protocol: two writers, a collector and somebody who branches, step by step.

Small enough to be explored whole: every order of their steps, every message lost, late or without
an answer. What has to hold is that whatever a listed head names is in the store. ``faults`` change
one rule each, as somebody might who has not understood what it is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["FAULTS", "State", "explore", "first", "steps"]

FAULTS = {
    "a flush of an older epoch is published": "stale",
    "a retry names what it wrote before": "reused",
    "a head is named before its nodes are there": "early",
    "the collector tells no head of its epoch": "unfenced",
    "the collector lists once it has marked": "late list",
    "the collector marks from the heads before its epoch": "old heads",
    "the collector leaves branches out": "late branches",
    "the collector marks the newest head, and not those from the floor on": "newest alone",
    "a head is replaced whatever it is": "unconditional",
    "a branch is listed at any epoch": "unbound branch",
    "a writer that hears nothing takes it for written": "believed",
}

Names = frozenset[int]


class Head(NamedTuple):
    """A head: how often it was written, its epoch, the nodes it names, the newest one of these."""

    revision: int
    epoch: int
    names: Names
    newest: int


class Message(NamedTuple):
    """A head on its way to the store, to be written over one revision."""

    writer: int
    over: int
    head: Head


class Writer(NamedTuple):
    """A writer: what it does next, the head that it knows, the node it wrote in which epoch."""

    phase: str
    known: Head | None
    node: int
    epoch: int
    left: int


class Collector(NamedTuple):
    """A collector: what it does next, what it has listed and marked, and how many runs are left."""

    phase: str
    listed: Names
    marked: Names
    left: int


class Brancher(NamedTuple):
    """Somebody who branches: what it does next, from which nodes, in which epoch, since where."""

    phase: str
    names: Names
    epoch: int
    floor: int


class State(NamedTuple):
    """The store, the messages under way, and everybody. ``last`` is the newest node's number.

    ``past`` is what each flush of the branch named, of which those from ``floor`` on are kept.
    """

    head: Head
    past: tuple[Names, ...]
    epoch: int
    floor: int
    nodes: Names
    branch: Names | None
    listed: bool
    under_way: frozenset[Message]
    writers: tuple[Writer, ...]
    collector: Collector
    brancher: Brancher
    last: int
    lost: bool = False

    @property
    def wrong(self) -> bool:
        """Whether a listed head names what the store has not, or what was said to be is not."""
        named = self.head.names
        if self.listed and self.branch is not None:
            named |= self.branch
        return self.lost or not named <= self.nodes


def first(*, flushes: int = 2, collections: int = 1, writers: int = 2) -> State:
    """Return a store with two nodes, and everybody at the beginning."""
    nobody = Writer("read", None, 0, 0, flushes)
    return State(
        Head(1, 0, frozenset({1, 2}), 2),
        (frozenset({1, 2}),),
        0,
        0,
        frozenset({1, 2}),
        None,
        False,
        frozenset(),
        (nobody,) * writers,
        Collector("list", frozenset(), frozenset(), collections),
        Brancher("read", frozenset(), 0, 0),
        2,
    )


def steps(state: State, faults: frozenset[str] = frozenset()) -> Iterator[tuple[str, State]]:
    """Iterate over what can happen next, with a name for each."""
    for message in state.under_way:
        rest = state._replace(under_way=state.under_way - {message})
        yield f"{message.writer}'s head is lost", rest
        if state.head.revision == message.over or "unconditional" in faults:
            head = message.head._replace(revision=state.head.revision + 1)
            past = (*state.past, head.names)
            yield f"{message.writer}'s head is written", rest._replace(head=head, past=past)
        else:
            yield f"{message.writer}'s head is refused", rest
    for i, writer in enumerate(state.writers):
        for name, after, changed in _writes(state, writer, faults, i):
            writers = (*state.writers[:i], after, *state.writers[i + 1 :])
            yield f"writer {i} {name}", changed._replace(writers=writers)
    yield from _collects(state, faults)
    yield from _branches(state, faults)


def _writes(
    state: State, writer: Writer, faults: frozenset[str], i: int
) -> Iterator[tuple[str, Writer, State]]:
    if writer.phase == "read" and writer.left:
        yield "reads the head", writer._replace(phase="write", known=state.head), state
    elif writer.phase == "write":
        assert writer.known is not None
        node = state.last + 1
        after = writer._replace(phase="send", node=node, epoch=writer.known.epoch)
        nodes = state.nodes if "early" in faults else state.nodes | {node}
        yield "writes a node", after, state._replace(last=node, nodes=nodes)
    elif writer.phase == "send":
        known = writer.known
        assert known is not None
        # Copied on writing: one node is new, one is what it was, the other is needed no more.
        names = frozenset({writer.node, known.newest})
        head = Head(0, known.epoch, names, writer.node)
        message = Message(i, known.revision, head)
        yield (
            "sends a head",
            writer._replace(phase="wait"),
            state._replace(under_way=state.under_way | {message}),
        )
    elif writer.phase == "wait":
        if "early" in faults and writer.node not in state.nodes:
            yield "writes the node", writer, state._replace(nodes=state.nodes | {writer.node})
        yield "looks what came of it", *_settled(state, writer, faults)


def _settled(state: State, writer: Writer, faults: frozenset[str]) -> tuple[Writer, State]:
    """Return what a writer does that has read the head, without an answer or with one."""
    known = writer.known
    assert known is not None
    head = state.head
    if any(writer.node in names for names in state.past) or "believed" in faults:
        lost = not any(writer.node in names for names in state.past)
        after = writer._replace(phase="read", known=None, node=0, left=writer.left - 1)
        return after, state._replace(lost=lost)
    if head.revision == known.revision:
        return writer._replace(phase="send"), state  # the same again: it may still land once
    mine = writer._replace(known=head)
    same = head.names == known.names
    if ("stale" in faults and same) or "reused" in faults:
        return mine._replace(phase="send"), state
    if same and head.epoch == writer.epoch:
        return mine._replace(phase="send"), state
    return mine._replace(phase="write"), state


def _collects(state: State, faults: frozenset[str]) -> Iterator[tuple[str, State]]:
    collector = state.collector
    if collector.phase == "list" and collector.left:
        after = collector._replace(phase="epoch", listed=state.nodes, marked=frozenset())
        yield "the collector lists", state._replace(collector=after)
    elif collector.phase == "epoch":
        # In one compare-and-set: the epoch, and that commits from this head on are kept.
        after = collector._replace(phase="fence")
        if "old heads" in faults:
            after = after._replace(marked=state.head.names)
        if "late branches" not in faults and state.listed and state.branch is not None:
            after = after._replace(marked=after.marked | state.branch)
        yield (
            "an epoch begins",
            state._replace(epoch=state.epoch + 1, floor=len(state.past) - 1, collector=after),
        )
    elif collector.phase == "fence":
        head = state.head
        if "unfenced" not in faults:
            head = head._replace(revision=head.revision + 1, epoch=state.epoch)
        marked = collector.marked
        if "newest alone" in faults:
            marked |= head.names
        elif "old heads" not in faults:
            marked = marked.union(*state.past[state.floor :])
        after = collector._replace(phase="sweep", marked=marked)
        yield "the head is told and marked", state._replace(head=head, collector=after)
    elif collector.phase == "sweep":
        listed = state.nodes if "late list" in faults else collector.listed
        nodes = state.nodes - (listed - collector.marked)
        after = Collector("list", frozenset(), frozenset(), collector.left - 1)
        yield "the collector sweeps", state._replace(nodes=nodes, collector=after)


def _branches(state: State, faults: frozenset[str]) -> Iterator[tuple[str, State]]:
    brancher = state.brancher
    if brancher.phase == "read":
        # The registry first: a head that is read later has all that this epoch keeps.
        yield (
            "the epoch is read",
            state._replace(brancher=Brancher("find", frozenset(), state.epoch, state.floor)),
        )
    elif brancher.phase == "find":
        for i, names in enumerate(state.past[brancher.floor :]):
            after = brancher._replace(phase="make", names=names)
            yield f"commit {brancher.floor + i} is found", state._replace(brancher=after)
    elif brancher.phase == "make":
        yield (
            "a branch is begun",
            state._replace(branch=brancher.names, brancher=brancher._replace(phase="list")),
        )
    elif brancher.phase == "list":
        if brancher.epoch == state.epoch or "unbound branch" in faults:
            after = brancher._replace(phase="done")
            yield "the branch is listed", state._replace(listed=True, brancher=after)
        else:
            after = Brancher("read", frozenset(), 0, 0)
            yield "the branch is refused", state._replace(branch=None, brancher=after)


def _normal(state: State) -> State:
    """Return a state that goes on in the same ways, and is one for many that differ in names alone.

    A message over a revision that is past is as good as lost; nodes that nobody can name any more
    are left out, and what is counted is counted from the oldest that somebody knows.
    """
    start = min(state.floor, state.brancher.floor)
    known = [writer.known for writer in state.writers if writer.known is not None]
    heads = [state.head, *known]
    way = frozenset(m for m in state.under_way if m.over >= state.head.revision)
    named = frozenset[int]().union(
        *(head.names for head in heads),
        *(message.head.names for message in way),
        *state.past[start:],
        state.branch or (),
        state.brancher.names,
        (writer.node for writer in state.writers if writer.node),
    )
    to = {node: i for i, node in enumerate(sorted(named), 1)}
    revision = min(head.revision for head in heads)
    epochs = [head.epoch for head in heads] + [m.head.epoch for m in way]
    epoch = min(*epochs, state.epoch, state.brancher.epoch, *(w.epoch for w in state.writers))

    def names(old: Names) -> Names:
        return frozenset(to[node] for node in old if node in to)

    def head(old: Head) -> Head:
        newest = to.get(old.newest, 0)
        return Head(old.revision - revision, old.epoch - epoch, names(old.names), newest)

    writers = [
        Writer(
            w.phase,
            None if w.known is None else head(w.known),
            to.get(w.node, 0),
            w.epoch - epoch,
            w.left,
        )
        for w in state.writers
    ]
    collector, brancher = state.collector, state.brancher
    return State(
        head(state.head),
        tuple(names(old) for old in state.past[start:]),
        state.epoch - epoch,
        state.floor - start,
        names(state.nodes),
        None if state.branch is None else names(state.branch),
        state.listed,
        frozenset(Message(m.writer, m.over - revision, head(m.head)) for m in way),
        tuple(writers),
        collector._replace(listed=names(collector.listed), marked=names(collector.marked)),
        brancher._replace(
            names=names(brancher.names),
            epoch=brancher.epoch - epoch,
            floor=brancher.floor - start,
        ),
        len(to),
        state.lost,
    )


def explore(
    start: State, faults: frozenset[str] = frozenset(), *, most: int = 5_000_000
) -> tuple[int, list[str] | None]:
    """Return how many states there are, and the shortest way to one that must not be, if any."""
    came: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    # Without a condition what is under way may land whenever it does.
    normal = (lambda state: state) if "unconditional" in faults else _normal
    while waiting:
        state = waiting.popleft()
        if state.wrong:
            way: list[str] = []
            at = came[state]
            while at is not None:
                way.append(at[1])
                at = came[at[0]]
            return len(came), way[::-1]
        for name, found in steps(state, faults):
            after = normal(found)
            if after not in came:
                came[after] = (state, name)
                waiting.append(after)
        if len(came) > most:
            raise AssertionError(f"More than {most} states")
    return len(came), None
