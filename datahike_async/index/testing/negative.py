"""Indexes that break one law each, and the laws that must find them out.

A suite that never turns red says nothing. Each index here is a persistent set but for one flaw,
such as a new index might have, and each law that it names in ``found_by`` must fail on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np

from datahike_async.errors import CorruptData
from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import Branch, Node, encode
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Bound, Child, Index, Order
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource

__all__ = ["BROKEN", "Planted"]

Set = TypeVar("Set", bound=PersistentSet)
Kind = TypeVar("Kind", bound=type[PersistentSet] | type[PersistentSetFactory])


class Planted(NamedTuple):
    """A factory of broken indexes, and the laws that must fail on it."""

    factory: PersistentSetFactory
    found_by: Sequence[str]


BROKEN: Final[dict[str, Planted]] = {}
"""Every broken index by name."""


def _as(kind: type[Set], index: PersistentSet) -> Set:
    parts = (index.order, index.temporal, index._leaf, index._root, index._count)
    return kind(*parts, index._address, index._source)


class _Specimens(PersistentSetFactory):
    """Makes persistent sets of a broken kind."""

    def __init__(self, kind: type[PersistentSet]) -> None:
        self.kind = kind

    def empty(self, order: Order, temporal: bool, config: Mapping[str, Any]) -> PersistentSet:
        return _as(self.kind, super().empty(order, temporal, config))

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> PersistentSet:
        return _as(self.kind, super().restore(order, temporal, root, source))


def found_by(*laws: str) -> Callable[[Kind], Kind]:
    """Plant a broken index, and say which laws it breaks."""

    def plant(kind: Kind) -> Kind:
        made = kind() if issubclass(kind, PersistentSetFactory) else _Specimens(kind)
        BROKEN[kind.__name__] = Planted(made, laws)
        return kind

    return plant


# -- reading -----------------------------------------------------------------------------------


@found_by("test_facts_come_in_order_whatever_their_values", "test_any_batches")
class LosesTheLast(PersistentSet):
    """A slice ends one row too early."""

    __slots__ = ()

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        *runs, last = super().slice(lower, upper) or [Rows.concat([])]
        return [*runs, last.slice(0, max(len(last) - 1, 0))]


@found_by("test_bounds_take_in_what_begins_with_them")
class LeavesTheUpperBoundOut(PersistentSet):
    """Rows that begin with the upper bound are not taken in where it is none of the lower ones."""

    __slots__ = ()

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        runs = super().slice(lower, upper)
        if not upper or lower == upper:
            return runs
        count = sum(map(len, runs)) - PersistentSet.count_slice(self, upper, upper)
        out = []
        for run in runs:
            if count > 0:
                out.append(run.slice(0, min(len(run), count)))
            count -= len(run)
        return out


@found_by("test_facts_come_in_order_whatever_their_values")
class MixesAttributes(PersistentSet):
    """A slice of AEVT or AVET is one run."""

    __slots__ = ()

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        runs = super().slice(lower, upper)
        return [Rows.concat(runs)] if len(runs) > 1 else runs


@found_by("test_chunks_come_both_ways")
class ReversesNoRows(PersistentSet):
    """Backwards, chunks come in the right order, and the rows of each do not."""

    __slots__ = ()

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        for chunk in super().chunks(lower, upper, reverse=reverse):
            yield chunk.backwards() if reverse else chunk


@found_by("test_chunks_are_parts", "test_reading_part_by_part_reads_no_more_than_it_needs")
class ReadsAllAtOnce(PersistentSet):
    """Chunks are made of all that there is."""

    __slots__ = ()

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        runs = self.slice(lower, upper)
        yield from (run.backwards() for run in reversed(runs)) if reverse else runs


@found_by("test_bounds_take_in_what_begins_with_them")
class CountsWholeNodes(PersistentSet):
    """A count takes in rows beside the bounds."""

    __slots__ = ()

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        return super().count_slice(lower[:1], upper[:1])


@found_by("test_bounds_that_python_takes_for_equal_are_not")
class ComparesAsPython(PersistentSet):
    """1, 1.0 and True are one."""

    __slots__ = ()

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        runs = super().slice(lower[:1], upper[:1])
        values = [v for run in runs for v in run.v.tolist()]
        return len(values) if len(lower) < 2 else sum(v == lower[1] for v in values)


@found_by("test_an_estimate_that_is_sure_is_exact")
class IsTooSure(PersistentSet):
    """An estimate is said to be exact, and is none."""

    __slots__ = ()

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        return super().estimate(lower[:1], upper[:1])[0], True


@found_by("test_an_estimate_reads_nothing")
class EstimatesByReading(PersistentSet):
    """An estimate misses nodes."""

    __slots__ = ()

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        return self.count_slice(lower, upper), True


@found_by("test_cuts_part_an_attribute_evenly")
class CutsTooRarely(PersistentSet):
    """A run is four times as long as was asked for."""

    __slots__ = ()

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        return super().cuts(lower, upper, rows * 4)


@found_by("test_cuts_read_no_leaves")
class CutsByReading(PersistentSet):
    """Where to cut is found in the leaves."""

    __slots__ = ()

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        found = [e for run in self.slice(lower, upper) for e in run.e.tolist()]
        return found[rows::rows]


@found_by("test_many_are_looked_up_as_one_by_one", "test_a_bound_may_have_rows_in_many_nodes")
class FindsOneEach(PersistentSet):
    """Under each bound the first row is found."""

    __slots__ = ()

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        rows, stops = super().lookup_many(bounds)
        starts = np.concatenate(([0], stops[:-1])).astype(np.int64)
        there = stops > starts
        return rows.take(starts[there]), np.cumsum(there)


# -- changing ----------------------------------------------------------------------------------


@found_by("test_any_batches")
class ChangesInPlace(PersistentSet):
    """Who merges into an index changes it."""

    __slots__ = ()

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        made = super().merge(adds, removes)
        self._root, self._count, self._address = made._root, made._count, made._address
        return made


@found_by("test_a_current_fact_is_found_whatever_its_transaction")
class FindsByTransaction(PersistentSet):
    """A current fact is another one if its transaction is."""

    __slots__ = ()

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        times = {t for run in super().slice() for t in run.t.tolist()}
        if not self.temporal and times:
            removes = [run.take(np.isin(run.t, list(times))) for run in removes]
        return super().merge(adds, removes)


@found_by("test_an_interval_is_another_one_if_it_began_or_ended_otherwise")
class RemovesByValue(PersistentSet):
    """An interval that is removed takes those of the same value with it."""

    __slots__ = ()

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        if self.temporal:
            bounds = [
                (a, e, v) if self.order is Order.AEVT else (e, a, v)
                for run in removes
                for e, a, v in zip(run.e.tolist(), run.a.tolist(), run.v.tolist(), strict=True)
            ]
            if self.order is Order.AVET:
                bounds = [(a, v, e) for e, a, v in bounds]
            removes = [run for bound in bounds for run in self.slice(bound, bound)]
        return super().merge(adds, removes)


@found_by("test_nothing_of_what_is_erased_is_left")
class ErasesLater(PersistentSet):
    """What is erased is taken out some other day."""

    __slots__ = ()

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> Self:
        return self


@found_by("test_two_indexes_are_apart_by_what_only_one_has")
class IsNeverApart(PersistentSet):
    """Two indexes share everything."""

    __slots__ = ()

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        return [], []


@found_by("test_what_two_indexes_share_is_left_out")
class IsAlwaysApart(PersistentSet):
    """Two indexes share nothing."""

    __slots__ = ()

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        return self.slice(), other.slice()


@found_by("test_runs_of_one_attribute_are_as_one")
class TakesOneRunEach(PersistentSet):
    """Of several runs of an attribute the first is taken."""

    __slots__ = ()

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        one: list[list[Rows]] = []
        for side in (adds, removes):
            firsts: dict[int, Rows] = {}
            for run in side:
                firsts.setdefault(0 if self.order is Order.EAVT else int(run.a[0]), run)
            one.append(list(firsts.values()))
        return super().merge(*one, sure=sure)


# -- storing -----------------------------------------------------------------------------------


@found_by("test_a_flush_writes_what_is_new_and_no_more")
class WritesEverything(PersistentSet):
    """A flush writes all nodes."""

    __slots__ = ()

    def flush(self, sink: NodeSink) -> tuple[Self, Mapping[str, Any]]:
        with suppress(NodeMiss):
            return super().loosened([each.blob for each in self.addresses()]).flush(sink)
        whole = PersistentSet(self.order, self.temporal, self._leaf, None, 0)
        clean, record = whole.merge(self._whole(sink), []).flush(sink)
        return _as(type(self), clean), record

    def _whole(self, sink: NodeSink) -> list[Rows]:
        while True:
            try:
                return self.slice()
            except NodeMiss as miss:
                sink.source.load(miss.addresses)  # type: ignore[attr-defined]


@found_by("test_all_stored_nodes_are_named")
class NamesNoLeaves(PersistentSet):
    """Whoever asks for all addresses gets those of branches."""

    __slots__ = ()

    def addresses(self) -> Iterator[Address]:
        if self._address is not None:
            yield self._address


@found_by("test_levels_are_named_from_the_top")
class NamesNoTop(PersistentSet):
    """Nobody learns which node is needed first."""

    __slots__ = ()

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        return super().at_depth(depth, lower, upper) if depth else []


@found_by("test_levels_are_named_from_the_top")
class NamesWhatLiesOutside(PersistentSet):
    """Nodes are named that no scan between the bounds reads."""

    __slots__ = ()

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        return super().at_depth(depth)


@found_by("test_levels_of_what_is_not_stored_are_named_below_it")
class NamesNothingBelowWhatIsNew(PersistentSet):
    """An index that was changed is taken for one that lies in memory."""

    __slots__ = ()

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        return None if self._address is None else super().at_depth(depth, lower, upper)


@found_by("test_levels_are_named_from_the_top")
class ReadsLeavesToNameThem(PersistentSet):
    """Whoever asks which leaves there are has them read."""

    __slots__ = ()

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        found = super().at_depth(depth, lower, upper)
        if depth > 1 and found is None:
            self.slice(lower, upper)
        return found


@found_by("test_what_is_loosened_is_written_elsewhere")
class LoosensNothing(PersistentSet):
    """Nodes stay where they are."""

    __slots__ = ()

    def loosened(self, blobs: Collection[str]) -> Self:
        return self


@found_by("test_a_flushed_index_is_restored", "test_old_roots_stay_readable")
class ForgetsItsCount(PersistentSetFactory):
    """A restored index is said to be empty."""

    def restore(
        self, order: Order, temporal: bool, root: Mapping[str, Any], source: NodeSource
    ) -> PersistentSet:
        return super().restore(order, temporal, {**root, "count": 0}, source)


@found_by("test_children_are_written_first_and_say_who_they_are")
class CountsChildrenWrongly(PersistentSetFactory):
    """Of a child one datom too many is said."""

    def below(self, node: Node) -> list[Child]:
        return [child._replace(size=child.size + 1) for child in super().below(node)]


@found_by("test_nodes_can_be_moved")
class MovesNothing(PersistentSetFactory):
    """A node whose children were moved names them where they were."""

    def moved(self, node: Node, children: Sequence[Address]) -> bytes:
        assert isinstance(node, Branch)
        return encode(node)


@found_by("test_decoding_trusts_nothing")
class TrustsWhatItDecodes(PersistentSetFactory):
    """Damage is told by whatever error comes of it."""

    def decode(self, data: bytes | memoryview) -> Node:
        try:
            return super().decode(data)
        except CorruptData as error:
            raise ValueError(str(error)) from error


@found_by("test_a_node_holds_none_of_its_bytes")
class LooksAtItsBytes(PersistentSetFactory):
    """A node looks at the bytes it was decoded from, which will be those of another."""

    def __init__(self) -> None:
        self._looked_at: list[memoryview] = []

    def decode(self, data: bytes | memoryview) -> Node:
        self._looked_at.append(memoryview(data)[:4])
        return super().decode(data)


# -- missing -----------------------------------------------------------------------------------


class _OneByOne(PersistentSet):
    __slots__ = ()

    def _child(self, branch: Branch, slot: int, missing: list[Address]) -> Node | None:
        found = super()._child(branch, slot, missing)
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing[:1])
        return found


@found_by("test_a_miss_names_what_is_missing_of_a_level")
class MissesOneByOne(_OneByOne):
    """A miss names one node, however many are missing."""

    __slots__ = ()

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        return self._count // 2, False


@found_by("test_answers_are_the_same_whatever_is_resident")
class SkipsWhatIsMissing(PersistentSet):
    """What is not resident is not there."""

    __slots__ = ()

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        try:
            return super().lookup_many(bounds)
        except NodeMiss:
            return Rows.concat([]), np.zeros(len(bounds[0]), np.int64)


@found_by("test_what_is_stored_is_not_held")
class HoldsEverything(PersistentSet):
    """What was read once is held for good."""

    __slots__ = ()

    def _child(self, branch: Branch, slot: int, missing: list[Address]) -> Node | None:
        found = super()._child(branch, slot, missing)
        branch.nodes[slot] = found
        return found
