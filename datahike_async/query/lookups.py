"""Functions that read a database row by row: get-else, get-some and missing?."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column, Rows
from datahike_async.query.fetch import read
from datahike_async.query.patterns import reference
from datahike_async.snapshot.snapshot import EMAX
from datahike_async.snapshot.views import View

__all__ = ["DATABASE", "read_database"]

DATABASE: Final = frozenset({"get-else", "get-some", "missing?"})
_FEW = 64


async def read_database(name: str, args: Sequence[Any], count: int) -> list[Any]:
    """Return the result of one of ``DATABASE`` for each of ``count`` rows.

    ``args`` are a view, entities, attributes and, for get-else, a default: Columns or constants.
    Raises QueryError ``:query/where``.
    """
    view = args[0] if args else None
    least = 4 if name == "get-else" else 3
    if not isinstance(view, View) or len(args) < least:
        raise QueryError(
            f"({name} …) takes a source such as $, an entity and an attribute"
            + (" and a default." if name == "get-else" else "."),
            error=":query/where",
        )
    entities = args[1]
    refs = entities.tolist() if isinstance(entities, Column) else [entities] * count
    if name == "get-some":
        values: list[Any] = [None] * count
        for key in args[2:]:
            keys = key.tolist() if isinstance(key, Column) else [key] * count
            for i, found in enumerate(await _looked_up(view, name, key, refs)):
                if values[i] is None and found is not None:
                    own = keys[i]
                    values[i] = (own if isinstance(own, Keyword) else Keyword(own), found[0])
        return values
    lookup = await _looked_up(view, name, args[2], refs)
    if name == "missing?":
        return [found is None for found in lookup]
    default = args[3]
    defaults = default.tolist() if isinstance(default, Column) else [default] * count
    if any(d is None for d in defaults):
        raise QueryError("(get-else …) does not take nil as default.", error=":query/where")
    return [d if f is None else f[0] for f, d in zip(lookup, defaults, strict=True)]


async def _looked_up(
    view: View, name: str, key: Any, refs: Sequence[Any]
) -> list[tuple[Any] | None]:
    """Return the first value of an attribute, or of each row's own, for each entity."""
    if not isinstance(key, Column):
        if not isinstance(key, Keyword) and not (isinstance(key, str) and key[:1] == ":"):
            raise QueryError(
                f"({name} …) takes an attribute such as :person/name, not {shown(key)}.",
                error=":query/where",
            )
        return await _first_values(view, key, refs)
    # What a variable holds is never an error: it depends on the order of clauses.
    rows: dict[Any, list[int]] = {}
    for i, one in enumerate(key.tolist()):
        if isinstance(one, (Keyword, str)):
            rows.setdefault(one, []).append(i)
    out: list[tuple[Any] | None] = [None] * len(refs)
    for one, places in rows.items():
        found = await _first_values(view, one, [refs[i] for i in places])
        for i, value in zip(places, found, strict=True):
            out[i] = value
    return out


async def _first_values(
    view: View, key: Keyword | str, refs: Sequence[Any]
) -> list[tuple[Any] | None]:
    """Return for each entity the first value of an attribute in a tuple, or None."""
    attr = view.schema.by_key.get(key)
    if attr is None:
        return [None] * len(refs)
    ids = [r if type(r) is int and 0 <= r <= EMAX else await read(reference, view, r) for r in refs]
    if len(ids) > _FEW:
        rows: Rows = await read(view.attr, attr.id)
        # What names no entity, or lies beyond 64 bits, has no attributes.
        wanted = np.array([-1 if i is None or i >= 2**63 else i for i in ids], np.int64)
        if not len(rows):
            return [None] * len(refs)
        at = np.minimum(rows.e.searchsorted(wanted), len(rows) - 1)
        hits = rows.e[at] == wanted
        values = rows.v.take(at[hits]).tolist()
        found = iter(values)
        return [(next(found),) if hit else None for hit in hits.tolist()]
    out: list[tuple[Any] | None] = []
    for eid in ids:
        values = [] if eid is None else await read(view.values, eid, attr.id)
        out.append((values[0],) if values else None)
    return out
