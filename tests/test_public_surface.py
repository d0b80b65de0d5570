"""The public names, and the README's program, which must run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import datahike_async as d

ROOT = Path(__file__).resolve().parents[1]

NAMES = [
    "ArgumentError",
    "Backup",
    "BadInput",
    "Budget",
    "Char",
    "Collected",
    "Config",
    "ConfigError",
    "Conflict",
    "Connection",
    "ConnectionClosed",
    "CorruptData",
    "Database",
    "DatabaseExists",
    "DatabaseNotFound",
    "DatahikeError",
    "Datom",
    "DatomColumns",
    "Datoms",
    "Difference",
    "EdnError",
    "Entity",
    "EntityMap",
    "Explained",
    "FencingUnsupported",
    "Audit",
    "HeadConflict",
    "Info",
    "Keyword",
    "LoadReport",
    "LogEntry",
    "MergeConflict",
    "MergeReport",
    "Metrics",
    "MissingLibrary",
    "NameNotFound",
    "NameTaken",
    "NotLoaded",
    "QueryCanceled",
    "QueryError",
    "QueryList",
    "QueryResult",
    "QueryStats",
    "Reset",
    "SnapshotExpired",
    "StorageError",
    "Symbol",
    "Tagged",
    "TransactionError",
    "TransactionOutcomeUnknown",
    "TxReport",
    "UnsupportedFormat",
    "ValueSet",
    "Verification",
    "Warmed",
    "WriterError",
    "WriterFenced",
    "WrongEventLoop",
    "__version__",
    "as_of",
    "backup",
    "branch",
    "branch_as_db",
    "branch_history",
    "branches",
    "changes",
    "commit_as_db",
    "compact",
    "commit_id",
    "connect",
    "create_database",
    "database_exists",
    "datoms",
    "db",
    "db_with",
    "delete_branch",
    "delete_database",
    "diff",
    "empty_db",
    "entity",
    "entity_db",
    "explain",
    "filter",
    "gc_storage",
    "history",
    "index_range",
    "is_filtered",
    "metrics",
    "info",
    "init_db",
    "json_default",
    "jsonable",
    "kw",
    "listen",
    "load",
    "merge",
    "merge_base",
    "force_branch",
    "rename_branch",
    "sync",
    "tag",
    "tags",
    "tempid",
    "resolve_tempid",
    "squuid",
    "squuid_time_millis",
    "touch",
    "untag",
    "erasure_report",
    "BranchInfo",
    "Fact",
    "Finding",
    "Kept",
    "KeptBranch",
    "purge",
    "ErasureReport",
    "Purged",
    "merge_db",
    "merge_preview",
    "parent_commit_ids",
    "pin",
    "pull",
    "pull_many",
    "q",
    "query_stats",
    "rebase",
    "register_backend",
    "register_function",
    "register_index",
    "release",
    "restore",
    "reverse_schema",
    "revert",
    "rseek_datoms",
    "schema",
    "seek_datoms",
    "since",
    "sym",
    "transact",
    "transact_many",
    "tx_range",
    "unlisten",
    "unregister_function",
    "verify",
    "verify_chain",
    "warm_datoms",
    "warm_db",
    "warm_index",
    "with_",
]


def test_the_public_names():
    assert sorted(d.__all__) == sorted(NAMES)
    for name in NAMES:
        assert getattr(d, name) is not None
        assert name == "__version__" or getattr(d, name).__doc__ or name in ("kw", "sym")


def test_no_subpackage_hides_a_function():
    for name in ("pull", "q", "db", "transact", "connect", "datoms", "history", "schema"):
        assert callable(getattr(d, name))
        assert not (ROOT / "datahike_async" / name).exists()


def test_errors_have_one_root():
    for name in NAMES:
        found = getattr(d, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, d.DatahikeError)
    error = d.TransactionError("m", error=":transact/cas", entity_id=5)
    assert (error.error, error.data, error.retryable) == (
        ":transact/cas",
        {":error": ":transact/cas", ":entity-id": 5},
        False,
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_program_of_the_readme_runs(tmp_path, backend):
    text = (ROOT / "README.md").read_text()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    program = program.replace("anyio.run(main) ", f"anyio.run(main, backend={backend!r}) ")
    for _ in range(2):  # the second run finds the database
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
