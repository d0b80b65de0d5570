"""Laws of flushing and restoring, and of the nodes that others walk, count, move and remove."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.codec import encode_rows, pack
from datahike_async.index.protocol import Child, Order
from datahike_async.index.source import Address
from datahike_async.index.sums import in_order
from datahike_async.index.testing.cold import Cold
from datahike_async.index.testing.laws.common import EACH, Laws, many, present
from datahike_async.index.testing.model import Fact

__all__ = ["StoringLaws"]


class StoringLaws(Laws):
    """What is flushed can be read from its root, and its nodes say truly what lies below them."""

    @EACH
    def test_a_flushed_index_is_restored(self, order: Order, temporal: bool) -> None:
        index, model, cold, root = self.stored(order, temporal)
        assert len(index) == len(model)
        assert not cold.asked
        model.check(index, cold.call)
        cold.forget()
        random = Random(9)
        for _ in range(2 * self.examples):
            lower, upper = model.bounds(random)
            cold.forget(random, 0.3)
            wanted = model.said(lower, upper)
            assert cold.call(lambda: index.count_slice(lower, upper)) == len(wanted)  # noqa: B023
        assert pack(dict(root)), "a root record is plain data"

    def test_an_empty_index_is_restored(self) -> None:
        cold = Cold(self.factory.decode)
        for order in Order:
            clean, root = self.empty(order, False).flush(cold)
            assert self.factory.top(root) is None
            for index in (clean, self.restored(order, False, root, cold)):
                assert (len(index), index.slice(), list(index.addresses())) == (0, [], [])
        assert not cold.stored

    @EACH
    def test_old_roots_stay_readable(self, order: Order, temporal: bool) -> None:
        random, cold = Random(10), Cold(self.factory.decode)
        index, model = self.made(order, temporal, many(temporal, 300))
        roots = []
        for t in range(2, 8):
            before = index
            clean, root = cold.call(lambda: before.flush(cold))  # noqa: B023
            roots.append((root, model))
            adds, removes = model.batch(random, t, 40, spread=300)
            index = cold.call(lambda: clean.merge(model.runs(adds), model.runs(removes)))  # noqa: B023
            model = model.merge(adds, removes)
        for root, was in roots:
            cold.forget()
            was.check(self.restored(order, temporal, root, cold), cold.call)

    @present
    def test_a_flush_writes_what_is_new_and_no_more(self, order: Order) -> None:
        cold = Cold(self.factory.decode)
        index, model = self.made(order, False, many(False))
        index, root = index.flush(cold)
        whole = len(cold.stored)
        again, same = index.flush(cold)
        assert len(cold.stored) == whole, "what is stored is not written again"
        assert dict(same) == dict(root)
        changed = cold.call(lambda: again.merge(model.runs([Fact(450, 1, "new", 9)]), []))
        changed.flush(cold)
        assert len(cold.stored) - whole < whole // 3, "untouched nodes are shared"

    @EACH
    def test_children_are_written_first_and_say_who_they_are(
        self, order: Order, temporal: bool
    ) -> None:
        _, model, cold, root = self.stored(order, temporal)
        place = {address: i for i, address in enumerate(cold.stored)}
        top = self.factory.top(root)
        assert top is not None
        assert top.size == len(model)
        total = 0
        for child, node, below in self.walk(root, cold.stored):
            assert isinstance(child.address, Address)
            adds, removes = (sum(map(len, runs)) for runs in self.factory.buffered(node))
            if not below:
                rows = self.factory.rows(node)
                assert child.size == len(rows) > 0
                assert (adds, removes) == (0, 0)
                assert child.leaf or child.key is None, "a leaf is said to be one"
                first = self.factory.first(rows, order)
                assert child.key is None or not first < child.key
                assert in_order(rows, order)
                assert order is Order.EAVT or len(set(rows.a.tolist())) == 1
                total += len(rows)
                continue
            assert not child.leaf
            assert sum(each.size for each in below) + adds - removes == child.size
            assert all(place[each.address] < place[child.address] for each in below)
            keys = [each.key for each in below]
            assert all(low < high for low, high in pairwise(keys))
            last = None
            for each in below:
                if each.leaf:
                    rows = self.factory.rows(self.factory.decode(cold.stored[each.address]))
                    assert last is None or last < each.key, "a leaf ends before the next begins"
                    last = self.factory.first(rows.slice(len(rows) - 1, len(rows)), order)
            total += adds - removes
        assert total == len(model)

    @EACH
    def test_all_stored_nodes_are_named(self, order: Order, temporal: bool) -> None:
        index, _, cold, root = self.stored(order, temporal)
        reached = {each.child.address for each in self.walk(root, cold.stored)}
        named = cold.call(index.addresses)
        assert sorted(named) == sorted(reached)

    @EACH
    def test_levels_are_named_from_the_top(self, order: Order, temporal: bool) -> None:
        """What is named between two bounds is what a scan between them reads, and no more."""
        index, model, cold, root = self.stored(order, temporal)
        assert index.source is cold
        random = Random(14)
        for lower, upper in [((), ()), *(model.bounds(random) for _ in range(4 * self.examples))]:
            cold.forget()
            cold.asked.clear()
            index = self.restored(order, temporal, root, cold)
            cold.call(lambda: index.slice(lower, upper))  # noqa: B023
            read = set(cold.asked)
            cold.forget()
            cold.asked.clear()
            index = self.restored(order, temporal, root, cold)
            named: list[Child] = []
            depth = 0
            while True:
                level, waves = cold.waves(lambda: index.at_depth(depth, lower, upper))  # noqa: B023
                assert waves <= (depth > 0), "a level is found by the nodes of the one above it"
                if level is None:
                    break
                named += level
                depth += 1
            inner = set(cold.asked)
            assert len({child.address for child in named}) == len(named)
            assert {child.address for child in named} == read, "as a scan reads, and no more"
            for child in named:
                below = self.factory.below(self.factory.decode(cold.stored[child.address]))
                assert child.leaf == (not below) or child.key is None
                if not below and child.key is not None:
                    assert child.address not in inner, "no leaf is read to name leaves"
                    assert child.size == len(
                        self.factory.rows(self.factory.decode(cold.stored[child.address]))
                    )

    @present
    def test_levels_of_what_is_not_stored_are_named_below_it(self, order: Order) -> None:
        index, model, cold, root = self.stored(order, False)
        changed = cold.call(lambda: index.merge(model.runs([Fact(450, 1, "new", 9)]), []))
        assert changed.at_depth(0) == []
        named: list[Address] = []
        for depth in range(1, self.depth(root, cold.stored)):
            level = cold.call(lambda: changed.at_depth(depth))  # noqa: B023
            assert level is not None
            named += (child.address for child in level)
        assert 0 < len(named) < len(cold.stored)
        assert sorted(named) == sorted(cold.call(changed.addresses))

    @EACH
    def test_what_is_loosened_is_written_elsewhere(self, order: Order, temporal: bool) -> None:
        index, model = self.made(order, temporal, many(temporal))
        cold = Cold(self.factory.decode, "old")
        flushed, _ = index.flush(cold)
        cold.blob = "new"
        further = [Fact(450, 1, "new", 9, 10 if temporal else None)]
        index = cold.call(lambda: flushed.merge(model.runs(further), [])).flush(cold)[0]
        model = model.merge(further, [])
        there = set(cold.call(index.addresses))
        assert {address.blob for address in there} == {"old", "new"}
        before = len(cold.stored)
        cold.call(lambda: index.loosened(["nowhere"])).flush(cold)
        assert len(cold.stored) == before, "where nothing is loose, nothing is written"
        clean, root = cold.call(lambda: index.loosened(["old"])).flush(cold)
        assert {address.blob for address in cold.call(clean.addresses)} == {"new"}
        reached = {each.child.address for each in self.walk(root, cold.stored)}
        for address in there:
            leaf = not self.factory.below(self.factory.decode(cold.stored[address]))
            if leaf and address.blob == "new":
                assert address in reached, "a leaf that lies elsewhere stays where it is"
        cold.forget()
        model.check(self.restored(order, temporal, root, cold), cold.call)

    @EACH
    def test_nodes_can_be_moved(self, order: Order, temporal: bool) -> None:
        _, model, cold, root = self.stored(order, temporal)
        there = Cold(self.factory.decode, "there")
        places: dict[Address, Address] = {}
        walked = list(self.walk(root, cold.stored))
        for child, node, below in reversed(walked):
            if child.address not in places:
                data = cold.stored[child.address]
                if below:
                    data = self.factory.moved(node, [places[each.address] for each in below])
                places[child.address] = there.put(data, None)
        moved = self.factory.rooted(root, places[walked[0].child.address])
        index = self.restored(order, temporal, moved, there)
        model.check(index, there.call)
        assert {address.blob for address in there.call(index.addresses)} == {"there"}

    @EACH
    def test_a_node_holds_none_of_its_bytes(self, order: Order, temporal: bool) -> None:
        _, _, cold, root = self.stored(order, temporal)
        addresses = {each.child.address for each in self.walk(root, cold.stored)}
        # Which overwrites the bytes, and finds out who still looks at them.
        cold.load([address for address in addresses if address not in cold.resident])
        for address in addresses:
            wanted, found = self.factory.decode(cold.stored[address]), cold.resident[address]
            assert self.factory.below(found) == self.factory.below(wanted)
            if not self.factory.below(wanted):
                rows, same = self.factory.rows(wanted), self.factory.rows(found)
                assert pack(encode_rows(same)) == pack(encode_rows(rows))

    def test_decoding_trusts_nothing(self) -> None:
        random = Random(11)
        _, _, cold, root = self.stored(Order.AVET, True)
        nodes = [cold.stored[each.child.address] for each in self.walk(root, cold.stored)]
        # The top, and others.
        for data in [nodes[0], *random.sample(nodes, 5)]:
            for _ in range(20 * self.examples):
                damaged = bytearray(data)
                for _ in range(random.randrange(1, 5)):
                    damaged[random.randrange(len(damaged))] = random.randrange(256)
                if random.random() < 0.2:
                    del damaged[random.randrange(len(damaged)) :]
                try:
                    self.factory.decode(bytes(damaged))
                except (CorruptData, UnsupportedFormat):
                    continue
        for _ in range(20 * self.examples):
            try:
                self.factory.decode(random.randbytes(random.randrange(60)))
            except (CorruptData, UnsupportedFormat):
                continue
