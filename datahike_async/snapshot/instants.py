"""When transactions were: which is the first that is later than an instant.

Instants need not ascend with transactions: some were imported. So all that are later count. Each is
read once, and only those that are greater than all before are kept: the others are never the first.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

import numpy as np

from datahike_async.index.columns import EMPTY_I64, I64, INSTANT, Rows, micros
from datahike_async.index.protocol import Index

__all__ = ["NONE", "Instants"]


class Instants(NamedTuple):
    """Transactions that are later than ``after``, and than all before them; both columns ascend.

    ``after`` is in microseconds; None: nothing has been read yet.
    """

    after: int | None
    instants: I64
    transactions: I64

    def reaching(self, avet: Index, a: int, point: datetime) -> Instants:
        """Return these with all that are later than ``point``, of the instants ``a`` in AVET."""
        wanted = micros(point)
        if self.after is not None and self.after <= wanted:
            return self
        rows = Rows.concat(avet.slice((a, point), (a,)))
        return Instants(wanted, EMPTY_I64, EMPTY_I64).with_rows(rows)

    def with_rows(self, rows: Rows | None) -> Instants:
        """Return these with further ones."""
        if self.after is None or rows is None or not len(rows):
            return self
        assert rows.v.kind == INSTANT
        later = rows.v.data > self.after
        instants = np.concatenate([self.instants, rows.v.data[later]])
        transactions = np.concatenate([self.transactions, rows.e[later]])
        order = np.argsort(transactions, kind="stable")
        instants, transactions = instants[order], transactions[order]
        greatest = np.maximum.accumulate(instants)
        first = np.ones(len(order), np.bool_)
        first[1:] = greatest[1:] > greatest[:-1]
        return Instants(self.after, instants[first], transactions[first])

    def first_later(self, point: datetime) -> int | None:
        """Return the first transaction that is later; all of those have been read."""
        i = int(self.instants.searchsorted(micros(point), "right"))
        return int(self.transactions[i]) if i < len(self.transactions) else None


NONE: Final = Instants(None, EMPTY_I64, EMPTY_I64)
"""Nothing read yet."""
