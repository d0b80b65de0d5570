"""Two branches of one start, to merge."""

from __future__ import annotations

import json
from typing import Any

import pytest

import datahike_async as d
from datahike_async.merging.report import KINDS
from datahike_async.transactor.limits import Limits

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)


def definition(name: str, type_: str = "long", many: bool = False, **more: Any) -> dict[str, Any]:
    return {
        ":db/ident": name,
        ":db/valueType": f":db.type/{type_}",
        ":db/cardinality": f":db.cardinality/{'many' if many else 'one'}",
        **{f":db/{key}": value for key, value in more.items()},
    }


SCHEMA = [
    definition(":name", "string", unique=":db.unique/identity"),
    definition(":mail", "string", unique=":db.unique/identity"),
    definition(":badge", "string", unique=":db.unique/value"),
    definition(":age"),
    definition(":tag", "string", many=True),
    definition(":friend", "ref", many=True),
    definition(":boss", "ref"),
    definition(":first", "string"),
    definition(":last", "string"),
    {**definition(":whole", "tuple"), ":db/tupleAttrs": [d.kw("first"), d.kw("last")]},
    {**definition(":most"), ":db.merge/strategy": ":db.merge/max"},
    {**definition(":least"), ":db.merge/strategy": ":db.merge/min"},
    {**definition(":when"), ":db.merge/strategy": ":db.merge/latest"},
    {**definition(":all", "string", many=True), ":db.merge/strategy": ":db.merge/both"},
    {**definition(":sum"), ":db.merge/strategy": ":test.merging/sum"},
]


START = [{":db/id": 100, ":name": "Ada", ":age": 1, ":tag": ["a", "b"]}, {":db/id": 101, ":age": 2}]


class Two:
    """Two branches of one start, and what has been found of them."""

    def __init__(self, ours: d.Connection, theirs: d.Connection) -> None:
        self.ours, self.theirs = ours, theirs

    async def go(self, ours: Any, theirs: Any) -> None:
        if ours:
            await self.ours.transact(ours)
        if theirs:
            await self.theirs.transact(theirs)

    async def merged(self, **options: Any) -> d.MergeReport:
        """Merge theirs into ours; a preview must have said the same."""
        seen = await d.merge_preview(self.ours, ":theirs", **options)
        before = self.ours.db()
        try:
            report = await d.merge(self.ours, ":theirs", **options)
        except d.MergeConflict as error:
            assert error.report == seen
            assert self.ours.db() == before
            raise
        assert report == seen
        assert json.loads(json.dumps(d.jsonable(report)))["conflicts"] == []
        return report

    async def conflicts(self, **options: Any) -> list[tuple[str, Any, Any]]:
        with pytest.raises(d.MergeConflict) as caught:
            await self.merged(**options)
        report = caught.value.report
        assert caught.value.error == ":merge/conflict"
        assert json.dumps(d.jsonable(report))
        for one in report.conflicts:
            assert one.kind in KINDS
            assert one.kind in str(report)
        return [(one.kind, one.entity, one.attribute) for one in report.conflicts]

    async def has(self, e: Any, conn: d.Connection | None = None) -> dict[str, Any]:
        found = await (conn or self.ours).db().pull("[*]", e) or {}
        return {str(k): v for k, v in found.items()}
