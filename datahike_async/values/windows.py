"""Valid time: when what a transaction says is true, from ``:db.valid/from`` to ``:db.valid/to``."""

from __future__ import annotations

from datetime import datetime

from datahike_async.errors import TransactionError

__all__ = ["check_window"]


def check_window(eid: int, since: datetime, until: datetime, *, earlier: bool = False) -> None:
    """Raise TransactionError ``:transact/invalid-valid-times`` where a window is empty.

    ``earlier``: ``eid`` is a transaction before the one that says so (``…-cross-tx``).
    """
    if since < until:
        return
    error = ":transact/invalid-valid-times"
    if earlier:
        error = ":transact/invalid-valid-times-cross-tx"
    raise TransactionError(
        f"The valid time of {'transaction' if earlier else 'entity'} {eid} would begin at "
        f"{since.isoformat()} and end at {until.isoformat()}; :db.valid/from must be before "
        ":db.valid/to.",
        error=error,
        entity_id=eid,
        since=since,
        until=until,
    )
