"""What the registry holds for every kind of index: levels over it, and what storage asks of nodes.

Nodes of runs, of bases and filters are stored side by side; the first byte tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from datahike_async.errors import ConfigError, shown
from datahike_async.index.columns import Rows
from datahike_async.index.levels.filters import Filter
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.nodes import BASE, RUN, SETS, decode
from datahike_async.index.levels.run import Run
from datahike_async.index.persistent_set.node import Branch, Leaf
from datahike_async.index.protocol import Child, IndexFactory, Order
from datahike_async.index.source import Address, NodeSource

__all__ = ["LevelsFactory", "Top", "runs_of"]

_RUNS: Final = "runs"
_LEAF: Final = 512
_OF_RUNS: Final = (Leaf, Branch)
_SIDES: Final = (("adds", 1), ("removes", -1))


class Top(NamedTuple):
    """A node that a root names, and how its datoms count: 1, or -1 where they were removed.

    0 is the sign of a filter, which holds none. ``run`` says of which run it is, the oldest being
    0; -1: of none, but of the base.
    """

    child: Child
    sign: int
    run: int = -1


def runs_of(root: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many runs a root record names, and how many rows are in them."""
    sizes = [run[name]["count"] for run in root["runs"] for name, _ in _SIDES]
    return len(root["runs"]), sum(sizes)


class LevelsFactory:
    """Makes and restores levels over indexes of one kind. Config: ``runs``, and what that has."""

    def __init__(self, base: IndexFactory) -> None:
        self.base = base

    def check_config(self, config: Mapping[str, Any], *, remote: bool = False) -> Mapping[str, Any]:
        """Return the config with defaults; raise ConfigError on a bad key or value."""
        rest, runs = {}, True
        for key, value in config.items():
            if str(getattr(key, "text", key)).removeprefix(":") != _RUNS:
                rest[key] = value
                continue
            if type(value) is not bool:
                raise ConfigError(
                    f":{_RUNS} says whether changes go to runs before they go into the index; it "
                    f"should be true or false, not {shown(value)}"
                )
            runs = value
        return {**self.base.check_config(rest, remote=remote), _RUNS: runs}

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> Levels:
        """Return levels without rows."""
        rest = {key: value for key, value in config.items() if key != _RUNS}
        return Levels(
            self.base.empty(order, temporal, rest), (), rest.get("branching-factor", _LEAF)
        )

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> Levels:
        """Return the levels whose root record ``flush`` returned, reading nothing yet."""
        base = self.base.restore(order, temporal, root["base"], source)
        runs = [Run.restore(order, temporal, run, source) for run in root["runs"]]
        return Levels(base, runs, root["leaf"])

    # -- nodes ---------------------------------------------------------------------------------

    def decode(self, data: bytes | memoryview) -> Any:
        """Decode one stored node; raise CorruptData where it is none."""
        return decode(data, self.base.decode)

    def below(self, node: Any) -> Sequence[Child]:
        """Return the children of a decoded node, in order; none of a leaf and of a filter."""
        if isinstance(node, Filter):
            return []
        return self._of(node).below(node)

    def rows(self, node: Any) -> Rows:
        """Return the datoms of a decoded leaf; none of a filter."""
        return Rows.concat([]) if isinstance(node, Filter) else self._of(node).rows(node)

    def buffered(self, node: Any) -> tuple[Sequence[Rows], Sequence[Rows]]:
        """Return runs that a decoded node adds to what lies below it, and those it takes away."""
        return ((), ()) if isinstance(node, Filter) else self._of(node).buffered(node)

    def first(self, rows: Rows, order: Order) -> Any:
        """Return the key of the first datom of a leaf."""
        return self.base.first(rows, order)

    def moved(self, node: Any, children: Sequence[Address]) -> bytes:
        """Encode a decoded node that has children, which lie at other addresses now."""
        kind = self._of(node)
        return (RUN if kind is SETS else BASE) + kind.moved(node, children)

    def _of(self, node: Any) -> IndexFactory:
        # Not of a class made of these, which may hold more.
        return SETS if type(node) in _OF_RUNS else self.base

    def tops(self, root: Mapping[str, Any]) -> list[Top]:
        """Return the nodes that a root record names."""
        base = self.base.top(root["base"])
        out = [] if base is None else [Top(base, 1)]
        for i, run in enumerate(root["runs"]):
            for name, sign in _SIDES:
                top = SETS.top(run[name])
                if top is not None:
                    out.append(Top(top, sign, i))
            if run["filter"] is not None:
                out.append(Top(Child(Address(*run["filter"]), 0, None, True), 0, i))
        return out

    def rooted(self, root: Mapping[str, Any], places: Mapping[Address, Address]) -> dict[str, Any]:
        """Return a root record whose nodes lie at other addresses now."""

        def moved(kind: IndexFactory, record: Mapping[str, Any]) -> Mapping[str, Any]:
            top = kind.top(record)
            return record if top is None else kind.rooted(record, places[top.address])

        runs = []
        for run in root["runs"]:
            at = run["filter"]
            sides = {name: moved(SETS, run[name]) for name, _ in _SIDES}
            runs.append({**run, **sides, "filter": at and places[Address(*at)].to_data()})
        return {**root, "base": moved(self.base, root["base"]), "runs": runs}
