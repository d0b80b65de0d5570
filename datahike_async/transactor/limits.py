"""The numbers by which the writer decides when to stop taking in and when to flush."""

from __future__ import annotations

from typing import NamedTuple

from datahike_async.storage.log.tail import TAIL_BYTES

__all__ = ["Limits"]


class Limits(NamedTuple):
    """When to stop taking into a group, and when to flush."""

    group: int = 1024
    group_bytes: int = 1024 * 1024
    group_seconds: float = 0.004
    """How long a group is applied: who came first waits for all of it."""
    flush_rows: int = 8192
    flush_bytes: int = TAIL_BYTES * 3 // 4
    """Of a tail inside the head, which every commit writes again; the rest is for the commits while
    the flush is under way, before their records go to segments."""
    flush_journal_bytes: int = 1024 * 1024
    behind: int = 4
    """How many times ``flush_rows`` may gather before commits wait for the flush."""
    close_rows: int = 256
    """Rows from which closing flushes, so that the next open need not replay them."""
    settle_seconds: float = 30.0
    """How long a publication of unknown outcome is asked after."""
    close_seconds: float = 5.0
    """How long the end of an event loop waits for a publication and for the store to close, and
    the release of a connection for its listeners."""
    listener_reports: int = 1024
    """How many reports may wait for a listener; beyond them the oldest are dropped."""
