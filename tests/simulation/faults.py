"""Faults that are planted in the product, each of which the simulation has to find.

    python -m tests.simulation.faults [--seeds 2000] [--start 0] [--backend asyncio] [NAME…]

prints for each the first seed that finds it. Most are one rule of the protocol left out; the
scenarios of ``tests/collection`` and the scenes of ``tests/merging`` find the same ones by
themselves, without chance.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from datahike_async.konserve.errors import OutcomeUnknown
from datahike_async.storage import collecting
from datahike_async.storage.branches.head import Recent
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.committer import Committer
from tests.collection import test_planted as protocol
from tests.indexes import INDEXES
from tests.merging import test_merging_oracle as merging
from tests.simulation.loops import BACKENDS
from tests.simulation.run import Outcome, simulate

__all__ = ["FAULTS", "found"]

Patch = pytest.MonkeyPatch


def merges_without_a_map_of_ids(patch: Patch) -> None:
    merging.new_entities_are_never_one(patch.setattr)


def merges_references_as_they_are(patch: Patch) -> None:
    merging.references_keep_the_ids_of_theirs(patch.setattr)


def leaves_the_log_when_it_purges(patch: Patch) -> None:
    real = Branch.publish_trees

    async def publish(self: Any, *arguments: Any, anew: bool = False) -> Any:
        return await real(self, *arguments)

    patch.setattr(Branch, "publish_trees", publish)


def replaces_heads_whatever_they_are(patch: Patch) -> None:
    real = Committer._sender

    def sender(self: Any, *arguments: Any) -> Any:
        self.conditional = False
        return real(self, *arguments)

    patch.setattr(Committer, "_sender", sender)


def believes_that_it_was_written(patch: Patch) -> None:
    real = Committer._settle

    async def settle(self: Any, send: Any, generation: int, id_: Any, error: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            return
        await real(self, send, generation, id_, error)

    patch.setattr(Committer, "_settle", settle)


def runs_again_without_looking(patch: Patch) -> None:
    patch.setattr(Recent, "__contains__", lambda self, id_: False)


def lists_once_it_has_marked(patch: Patch) -> None:
    real, sweep = collecting.list_names, collecting.Collection._sweep

    async def listed(store: Any) -> Any:
        names = await real(store)
        names.first = set(names._names)  # type: ignore[attr-defined]
        return names

    async def swept(self: Any, names: Any, *arguments: Any) -> Any:
        now = await real(self._store)
        later = now._names.keys() - names.first
        names._names.update(dict.fromkeys(sorted(later)))
        return await sweep(self, names, *arguments)

    patch.setattr(collecting, "list_names", listed)
    patch.setattr(collecting.Collection, "_sweep", swept)


def keeps_the_newest_alone(patch: Patch) -> None:
    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(collecting, "one_before", nothing)


def lets_pins_lapse_by_the_wall(patch: Patch) -> None:
    from datetime import timedelta

    from datahike_async.storage.branches import pins

    patch.setattr(pins, "_DIFFERENCE", timedelta(seconds=-1e6 - 60))


FAULTS: Final[dict[str, Callable[[Patch], None]]] = {
    fault.__name__: fault
    for fault in (
        protocol.publishes_a_flush_of_an_older_epoch,
        protocol.drops_the_journal,
        protocol.does_not_fence_heads,
        protocol.leaves_the_registry_out,
        protocol.removes_segments,
        protocol.ignores_pins,
        protocol.ignores_tags,
        protocol.does_not_ask_what_is_retained,
        protocol.lists_a_branch_of_an_older_epoch,
        protocol.lists_a_tag_in_another_epoch,
        protocol.does_not_read_the_epoch_again,
        protocol.forgets_what_was_there_before,
        protocol.removes_heads_by_name,
        protocol.forces_whatever_is_gone,
        merges_without_a_map_of_ids,
        merges_references_as_they_are,
        leaves_the_log_when_it_purges,
        replaces_heads_whatever_they_are,
        believes_that_it_was_written,
        runs_again_without_looking,
        lists_once_it_has_marked,
        keeps_the_newest_alone,
        lets_pins_lapse_by_the_wall,
    )
}


def found(name: str, backend: str, seeds: range, index: str = "persistent-set") -> Outcome | None:
    """Return what the first of some seeds comes to that finds a fault; None where none does."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[name](patch)
        for seed in seeds:
            outcome = simulate(seed, backend, index)
            if outcome.wrong is not None:
                return outcome
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--index", choices=INDEXES, default="persistent-set")
    arguments = parser.parse_args()
    missed = 0
    for name in arguments.names or FAULTS:
        began = time.process_time()
        seeds = range(arguments.start, arguments.start + arguments.seeds)
        outcome = found(name, arguments.backend, seeds, arguments.index)
        spent = time.process_time() - began
        if outcome is None:
            missed += 1
            print(f"{name}: not found by {arguments.seeds} seeds ({spent:.0f} s)", flush=True)
        else:
            assert outcome.wrong is not None
            why = outcome.wrong.strip().splitlines()[-1][:150]
            print(f"{name}: seed {outcome.seed} ({spent:.0f} s): {why}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
