"""Faults in the protocol of collections, each of which makes a scenario fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async import collection as verbs
from datahike_async.storage import collecting
from datahike_async.storage.branches import branching, finding, tagging
from datahike_async.storage.branches import fence as fences
from datahike_async.storage.branches.fence import Fenced
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.collecting import Collection
from datahike_async.transactor.branch import Branch
from tests.collection.garbage import fresh
from tests.collection.scenarios import (
    a_branch_of_a_tag_that_is_taken_back,
    a_branch_of_an_old_commit_after,
    a_branch_of_one_that_is_deleted,
    a_branch_that_is_begun_meanwhile,
    a_branch_that_is_listed_late,
    a_flush_that_is_prepared,
    a_flush_under_way,
    a_forced_branch,
    a_name_that_is_used_again,
    a_pin,
    a_pin_that_is_written_late,
    a_tag,
    a_tag_of_an_old_commit_after,
    a_tag_that_is_listed_late,
    records_beside_the_head,
    the_log_of_what_is_retained,
)

pytestmark = pytest.mark.anyio

Patch = pytest.MonkeyPatch


def publishes_a_flush_of_an_older_epoch(patch: Patch) -> None:
    patch.setattr(
        Branch,
        "is_current",
        lambda self, prepared: prepared.flushed.snapshot.trees is self.snapshot.trees,
    )


def drops_the_journal(patch: Patch) -> None:
    real = fences.write_head

    async def write(store: Any, head: Any, revision: Any) -> None:
        await real(store, replace(head, tail=()), revision)

    patch.setattr(fences, "write_head", write)


def does_not_fence_heads(patch: Patch) -> None:
    async def fence(store: Any, name: str, epoch: int, env: Any) -> Fenced | None:
        state = await read_branch(store, name, None)
        return None if state is None else Fenced(state.head.base, state.head.tail, False)

    patch.setattr(collecting, "fence_head", fence)


def leaves_the_registry_out(patch: Patch) -> None:
    async def change(store: Any, begun: Any) -> Any:
        return await begun(await collecting.read_registry(store))

    patch.setattr(collecting, "change_registry", change)


def removes_segments(patch: Patch) -> None:
    patch.setattr(collecting, "segments_between", _no_segments)


async def _no_segments(*_: Any) -> list[Any]:
    return []


def ignores_pins(patch: Patch) -> None:
    async def no_pins(_: Any) -> dict[Any, Any]:
        return {}

    patch.setattr(collecting, "read_pins", no_pins)


def ignores_tags(patch: Patch) -> None:
    async def no_tag(*_: Any) -> None:
        return None

    patch.setattr(collecting, "tagged_head", no_tag)


def does_not_ask_what_is_retained(patch: Patch) -> None:
    real = finding._found

    async def found(store: Any, past: Any, registry: Any, *rest: Any) -> Any:
        return await real(store, past, replace(registry, floors={}), *rest)

    patch.setattr(finding, "_found", found)


def lists_a_branch_of_an_older_epoch(patch: Patch) -> None:
    real = branching.read_head

    async def read(store: Any, name: str) -> Any:
        head, revision = await real(store, name)
        return (None if head is None else replace(head, epoch=10**6)), revision

    patch.setattr(branching, "read_head", read)


def lists_a_tag_in_another_epoch(patch: Patch) -> None:
    real = tagging.change_registry

    async def change(store: Any, make: Any) -> Any:
        async def blind(now: Any) -> Any:
            made = await make(replace(now, epoch=0))
            return None if made is None else replace(made, epoch=now.epoch)

        return await real(store, blind)

    patch.setattr(tagging, "change_registry", change)


def does_not_read_the_epoch_again(patch: Patch) -> None:
    real = verbs._pinned

    async def pinned(*arguments: Any) -> Any:
        registry = await verbs.read_registry(arguments[1].branch.store)

        async def same(_: Any) -> Any:
            return registry

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(verbs, "read_registry", same)
            return await real(*arguments)

    patch.setattr(verbs, "_pinned", pinned)


def forgets_what_was_there_before(patch: Patch) -> None:
    real = Collection._mark

    async def mark(self: Any, *arguments: Any) -> Any:
        self._before, self._alone = {}, {}
        return await real(self, *arguments)

    patch.setattr(Collection, "_mark", mark)
    real_fence = collecting.fence_head

    async def fence(*arguments: Any) -> Fenced | None:
        found = await real_fence(*arguments)
        return None if found is not None and found.deleted else found

    patch.setattr(collecting, "fence_head", fence)


def removes_heads_by_name(patch: Patch) -> None:
    patch.setattr(collecting, "IMMUTABLE", ("",))


def forces_whatever_is_gone(patch: Patch) -> None:
    async def fine(*_: Any) -> None:
        pass

    from datahike_async import versions

    patch.setattr(versions, "require_kept", fine)


FAULTS = [
    (publishes_a_flush_of_an_older_epoch, a_flush_that_is_prepared),
    (does_not_fence_heads, a_flush_under_way),
    (does_not_fence_heads, a_flush_that_is_prepared),
    (drops_the_journal, records_beside_the_head),
    (removes_segments, the_log_of_what_is_retained),
    (ignores_pins, a_pin),
    (ignores_tags, a_tag),
    (leaves_the_registry_out, a_branch_of_an_old_commit_after),
    (leaves_the_registry_out, a_tag_of_an_old_commit_after),
    (leaves_the_registry_out, a_branch_that_is_listed_late),
    (does_not_ask_what_is_retained, a_branch_of_an_old_commit_after),
    (does_not_ask_what_is_retained, a_tag_of_an_old_commit_after),
    (lists_a_branch_of_an_older_epoch, a_branch_that_is_begun_meanwhile),
    (lists_a_tag_in_another_epoch, a_tag_that_is_listed_late),
    (does_not_read_the_epoch_again, a_pin_that_is_written_late),
    (forgets_what_was_there_before, a_branch_of_one_that_is_deleted),
    (forgets_what_was_there_before, a_branch_of_a_tag_that_is_taken_back),
    (removes_heads_by_name, a_name_that_is_used_again),
    (forces_whatever_is_gone, a_forced_branch),
]


@contextmanager
def planted(fault: Callable[[Patch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        yield


@pytest.mark.parametrize(
    ("fault", "scenario"), FAULTS, ids=lambda x: getattr(x, "__name__", str(x))
)
async def test_a_fault_is_found(
    tmp_path: Path, fault: Callable[[Patch], None], scenario: Any
) -> None:
    store = {"backend": "file", "id": uuid4(), "path": str(tmp_path / "db")}
    with planted(fault), pytest.raises((AssertionError, d.DatahikeError, pytest.fail.Exception)):
        await scenario(fresh(store))
