"""Publishing: how a group gets published, however often others are faster, and when it does not.

What became of a publication is the committer's to find out. Here it is decided what follows from
that: the group is published, or applied again to what is there now and sent again, or each of its
messages gets an error and nothing of it was written; and whether the writer can go on.
"""

from __future__ import annotations

from collections.abc import Callable

from datahike_async.config import Config
from datahike_async.errors import DatahikeError, FencingUnsupported, TransactionOutcomeUnknown
from datahike_async.events import RERUN
from datahike_async.konserve.errors import KonserveError, OutOfTurn, StoreDenied
from datahike_async.storage.translate import translate
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.committer import Moved
from datahike_async.transactor.failures import again, as_ours, conflict, fenced, shut_down, unknown
from datahike_async.transactor.group import Group
from datahike_async.transactor.order import Order

__all__ = ["Publishing"]


class Publishing:
    """Publishes the groups of one branch, in the order that ``order`` keeps among writers.

    ``shut`` is called with what nothing more can be written after, and returns the first such
    cause; ``has_ended`` says whether the event loop has.
    """

    def __init__(
        self,
        branch: Branch,
        config: Config,
        order: Order,
        shut: Callable[[DatahikeError], DatahikeError],
        has_ended: Callable[[], bool],
    ) -> None:
        self._branch = branch
        self._name = config.branch
        self._exclusive = config.writer.writer_ownership == "exclusive"
        self._retries = config.writer.head_conflict_retries
        self._order = order
        self._shut = shut
        self._has_ended = has_ended

    async def publish(self, group: Group) -> Group | None:
        """Publish a group; return what was published, which may be the same applied again.

        None where it was not. Then its messages have their errors, but where the event loop ends.
        """
        branch, order, exclusive = self._branch, self._order, self._exclusive
        retries = self._retries
        if group.expired and not exclusive:
            group = await group.on_what_is_there()
        while True:
            revision = branch.committer.revision
            sent = branch.env.monotonic()
            try:
                await group.publish()
            except OutOfTurn:
                # Nothing was written. An exclusive writer learns from a conflict alone that it is
                # not alone.
                retries -= 1
                if retries < 0:
                    group.fail(conflict, self._name)
                    return None
                await order.wait(refresh=not exclusive)
                await order.give_way()
                if branch.committer.revision != revision:
                    group = await self._again(group, retries)
            except Moved as moved:
                if self._has_ended():
                    # Nothing of the group was written, and nothing more will be.
                    return None
                if exclusive and not moved.is_fence:
                    group.fail(fenced, self._name)
                    self._shut(fenced(self._name))
                    return None
                try:
                    await branch.adopt(moved.state)
                except Exception as error:
                    # Nothing of the group was written, and nothing could be on what is there now.
                    group.fail(shut_down, self._shut(as_ours(error)))
                    return None
                if moved.is_fence:  # nobody competes
                    group = await group.again()
                    continue
                retries -= 1
                if retries < 0:
                    group.fail(conflict, self._name)
                    return None
                await order.wait()
                group = await self._again(group, retries)
            except FencingUnsupported as error:
                group.fail(again, error)
                return None
            except KonserveError as error:
                # Whatever the group appended is not read by anyone: the next one forks the tip.
                group.fail(translate, error)
                if not error.retryable and not isinstance(error, StoreDenied):
                    self._shut(translate(error))
                return None
            except TransactionOutcomeUnknown as error:
                group.fail(unknown, error.__cause__ or error)
                self._shut(error)
                return None
            except DatahikeError as error:
                # Nothing was written, and nothing can be on what is there now.
                group.fail(shut_down, self._shut(error))
                return None
            else:
                order.published(branch.env.monotonic() - sent)
                return group

    async def _again(self, group: Group, retries: int) -> Group:
        self._order.overtaken(len(group), retries)
        made = await group.again()
        RERUN(branch=self._name, transactions=len(made), basis=self._branch.snapshot.max_tx)
        return made
