"""Functions that read a database row by row: get-else, get-some and missing?."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, shown
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import Column, Rows
from datahike_async.index.source import read
from datahike_async.query.language.bindings import forward_of
from datahike_async.query.language.places import BY_ROW
from datahike_async.query.reading.fetch import read_each
from datahike_async.query.reading.parts import fits, of_entities, of_values
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View

__all__ = ["DATABASE", "check_lookup", "read_database"]

DATABASE: Final = BY_ROW
_FEW = 64


async def read_database(name: str, args: Sequence[Any], count: int) -> list[Any]:
    """Return the result of one of ``DATABASE`` for each of ``count`` rows.

    ``args`` are a view, entities, attributes and, for get-else, a default: Columns or constants.
    Raises QueryError ``:query/where``.
    """
    view = args[0] if args else None
    if not isinstance(view, View):
        raise _arguments(name)
    check_lookup(name, len(args))
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


def check_lookup(name: str, count: int) -> None:
    """Raise QueryError where one of ``DATABASE`` has too few arguments."""
    if count < (4 if name == "get-else" else 3):
        raise _arguments(name)


def _arguments(name: str) -> QueryError:
    return QueryError(
        f"({name} …) takes a source such as $, an entity and an attribute"
        + (" and a default." if name == "get-else" else "."),
        error=":query/where",
    )


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
        return await _first(view, name, key, refs)
    # What a variable holds is never an error: it depends on the order of clauses.
    rows: dict[Any, list[int]] = {}
    for i, one in enumerate(key.tolist()):
        if isinstance(one, (Keyword, str)):
            rows.setdefault(one, []).append(i)
    out: list[tuple[Any] | None] = [None] * len(refs)
    for one, places in rows.items():
        found = await _first(view, name, one, [refs[i] for i in places])
        for i, value in zip(places, found, strict=True):
            out[i] = value
    return out


async def _first(
    view: View, name: str, key: Keyword | str, refs: Sequence[Any]
) -> list[tuple[Any] | None]:
    if name == "missing?":
        forward = None if key == ":" else forward_of(Keyword(key))
        if forward is not None:
            return await _referring(view, forward, refs)
    return await _first_values(view, key, refs)


async def _referring(view: View, key: Keyword, refs: Sequence[Any]) -> list[tuple[Any] | None]:
    """Return for each entity one that refers to it by an attribute, in a tuple, or None."""
    attr = view.schema.by_key.get(key)
    if attr is None or not attr.is_ref:
        return [None] * len(refs)
    ids = [*dict.fromkeys(r for r in refs if type(r) is int and 0 <= r <= EMAX)]
    if len(ids) > _FEW:
        if await fits(view, attr):
            rows = await read(view.attr, attr.id)
        else:
            rows = await of_values(view, attr.id, Column.of(ids), None)
        targets = set(rows.v.tolist())
        known = {i: (i,) for i in ids if i in targets}
    else:
        found = await read_each(view.lookup, [(attr.id, i) for i in ids])
        known = {i: (entities[0],) for i, entities in zip(ids, found, strict=True) if entities}
    return [known.get(r) if type(r) is int else None for r in refs]


async def _first_values(
    view: View, key: Keyword | str, refs: Sequence[Any]
) -> list[tuple[Any] | None]:
    """Return for each entity the first value of an attribute in a tuple, or None."""
    attr = view.schema.by_key.get(key)
    if attr is None:
        return [None] * len(refs)
    ids = [r if type(r) is int and 0 <= r <= EMAX else None for r in refs]
    if len(ids) > _FEW:
        # What names no entity, or lies beyond 64 bits, has no attributes.
        wanted = np.array([-1 if i is None or i >= 2**63 else i for i in ids], np.int64)
        rows: Rows
        if await fits(view, attr):
            rows = await read(view.attr, attr.id)
        else:
            rows = await of_entities(view, attr.id, uniques(wanted), None)
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
