"""Databases that were stored by this version, and by those before it, say what they said then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import datahike_async as d
from datahike_async.storage.log.checkpoint import FORMAT
from tests.format.make import FOLDER, HASHED, contents

pytestmark = pytest.mark.anyio

STORED = sorted(path.stem for path in FOLDER.glob("*.zip"))


def test_the_format_of_this_version_is_kept_here() -> None:
    assert f"format-{FORMAT}" in STORED


@pytest.mark.parametrize("name", STORED)
async def test_a_stored_database_says_what_it_said(name: str, tmp_path: Path) -> None:
    shutil.unpack_archive(FOLDER / f"{name}.zip", tmp_path / "db")
    assert await contents(tmp_path / "db") == json.loads((FOLDER / f"{name}.json").read_text())
    config = {"store": {"backend": "file", "path": str(tmp_path / "db")}}
    for branch in (":db", ":side") if name.endswith(HASHED) else ():
        audit = await d.verify_chain({**config, "branch": branch}, deep=True)
        assert audit.ok, str(audit)
    async with d.connect(config) as conn:
        report = await conn.transact([{":id": "new"}])
        assert await d.commit_as_db(conn, d.commit_id(report.db_before)) == report.db_before
