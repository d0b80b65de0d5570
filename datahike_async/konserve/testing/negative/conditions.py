"""Stores that look at conditions too late, or give revisions that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio.lowlevel import checkpoint

from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.blob import (
    Expected,
    Revision,
    Write,
)
from datahike_async.konserve.testing.negative.planting import found_by

__all__ = [
    "ComparesThenSets",
    "ComparesThenSetsMany",
    "CountsFromOneAgain",
    "DeletesWhatever",
    "IgnoresConditions",
    "KeepsRevisions",
    "LooksAtTheFirstConditionOnly",
]


@found_by(
    "test_a_conditional_write_happens_only_over_what_was_expected",
    "test_of_sixteen_who_replace_one_revision_one_wins",
    "test_no_update_is_lost",
    "test_no_element_of_a_log_is_lost",
    "test_what_was_lost_can_be_sent_again_under_its_condition",
    "test_a_conditional_write_that_lands_late_overwrites_nobody",
    "test_an_update_that_lands_late_undoes_no_other",
)
class IgnoresConditions(MemoryBlobStore):
    """Its compare-and-set is a plain put."""

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write whatever is expected, after a pause."""
        await checkpoint()
        return await super().write(name, data, None)


@found_by(
    "test_of_sixteen_who_create_one_wins", "test_of_sixteen_who_replace_one_revision_one_wins"
)
class ComparesThenSets(MemoryBlobStore):
    """It looks, lets others run, and then writes: two that look at once both win."""

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Compare, and some time later set."""
        self._check(name, expected)
        await checkpoint()
        return await super().write(name, data, None)


@found_by("test_of_sixteen_multi_writes_under_one_condition_one_wins")
class ComparesThenSetsMany(MemoryBlobStore):
    """So do its writes of many keys."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Compare, and some time later set."""
        for write in writes:
            self._check(write.name, write.expected)
        await checkpoint()
        return await super().write_many([write._replace(expected=None) for write in writes])


@found_by(
    "test_a_conditional_delete_happens_only_over_what_was_expected",
    "test_of_deletes_and_writes_at_one_revision_one_wins",
)
class DeletesWhatever(MemoryBlobStore):
    """Its deletes have no condition."""

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove whatever is there."""
        return await super().delete(name, None)


@found_by(
    "test_what_has_changed_is_read",
    "test_a_conditional_write_happens_only_over_what_was_expected",
    "test_a_reader_beside_a_writer_never_sees_a_torn_value",
)
class KeepsRevisions(MemoryBlobStore):
    """The revision of a name does not change when its bytes do."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write under one revision for ever."""
        await super().write_many([w._replace(expected=None) for w in writes])
        data: Any = self._open()
        for write in writes:
            data[write.name] = (data[write.name][0], "1")
        return ["1"] * len(writes)


@found_by(
    "test_several_conditions_are_each_looked_at",
    "test_nothing_is_written_after_a_condition_that_failed",
)
class LooksAtTheFirstConditionOnly(MemoryBlobStore):
    """Of a write of many keys it looks at the first condition."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write whatever the others expect."""
        return await super().write_many(
            [*writes[:1], *(write._replace(expected=None) for write in writes[1:])]
        )


@found_by("test_a_revision_never_comes_back")
class CountsFromOneAgain(MemoryBlobStore):
    """Its revisions count the writes of a name, and a name that was deleted begins anew."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write under the next number of each name."""
        data = self._open()
        before = {w.name: int(data[w.name][1]) if w.name in data else 0 for w in writes}
        await super().write_many(writes)
        for write in writes:
            data[write.name] = (data[write.name][0], str(before[write.name] + 1))
        return [data[write.name][1] for write in writes]
