"""datahike-async: an immutable, embeddable Datalog database for async Python.

Facts are never overwritten, every past state can be queried, queries are Datalog, and storage is
any async key-value store. Everything runs on asyncio and on trio::

    import datahike_async as d

    config = {"store": {"backend": "file", "path": "people"}, "schema-flexibility": "read"}
    async with d.connect(config, create=True) as conn:
        report = await conn.transact([{":person/name": "Ada", ":person/age": 36}])
        rows = await d.q("[:find ?n :where [?e :person/name ?n]]", conn.db())
        assert rows == {("Ada",)}

Flexibility "read" takes attributes as they come; without it they are declared first, by a
transaction: see the README.
"""

import sys
from typing import NoReturn

from datahike_async._version import __version__
from datahike_async.api import (
    as_of,
    datoms,
    entity,
    entity_db,
    explain,
    filter,
    history,
    index_range,
    is_filtered,
    metrics,
    pull,
    pull_many,
    q,
    query_stats,
    reverse_schema,
    rseek_datoms,
    schema,
    seek_datoms,
    since,
    touch,
    warm_datoms,
    warm_db,
    warm_index,
)
from datahike_async.backups import Backup, backup, restore
from datahike_async.changes import Reset
from datahike_async.collection import Collected, KeptBranch, compact, gc_storage, pin
from datahike_async.config import Config
from datahike_async.connection import Connection, connect
from datahike_async.database import Database, db_with, empty_db, init_db, with_
from datahike_async.edn import Char, Keyword, Symbol, Tagged, kw, sym
from datahike_async.entities import Entity
from datahike_async.erasure import ErasureReport, Kept, Purged, erasure_report, purge
from datahike_async.errors import (
    ArgumentError,
    BadInput,
    ConfigError,
    ConnectionClosed,
    CorruptData,
    DatabaseExists,
    DatabaseNotFound,
    DatahikeError,
    EdnError,
    FencingUnsupported,
    HeadConflict,
    MergeConflict,
    MissingLibrary,
    NameNotFound,
    NameTaken,
    NotLoaded,
    QueryCanceled,
    QueryError,
    SnapshotExpired,
    StorageError,
    TransactionError,
    TransactionOutcomeUnknown,
    UnsupportedFormat,
    WriterError,
    WriterFenced,
    WrongEventLoop,
)
from datahike_async.functions import register_function, unregister_function
from datahike_async.index.registry import register_index
from datahike_async.konserve import register_backend
from datahike_async.lifecycle import create_database, database_exists, delete_database
from datahike_async.loading.load import LoadReport, load
from datahike_async.log import LogEntry
from datahike_async.merges import merge, merge_base, merge_preview, revert
from datahike_async.merging.report import Conflict, Fact, MergeReport
from datahike_async.metrics import Metrics
from datahike_async.planned import attribute_error
from datahike_async.query.answer.explain import Explained
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.api import QueryStats
from datahike_async.query.limits.budget import Budget
from datahike_async.query.pulling.map import EntityMap
from datahike_async.rebasing import rebase
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.filtered import DatomColumns
from datahike_async.tempids import resolve_tempid, squuid, squuid_time_millis, tempid
from datahike_async.values.datom import Datom
from datahike_async.values.json_form import json_default, jsonable
from datahike_async.values.report import TxReport
from datahike_async.values.value_set import ValueSet
from datahike_async.verbs import (
    changes,
    db,
    listen,
    release,
    sync,
    transact,
    transact_many,
    tx_range,
    unlisten,
)
from datahike_async.verification import (
    Audit,
    BranchInfo,
    Finding,
    Info,
    Verification,
    info,
    verify,
    verify_chain,
)
from datahike_async.versions import (
    Difference,
    branch,
    branch_as_db,
    branch_history,
    branches,
    commit_as_db,
    commit_id,
    delete_branch,
    diff,
    force_branch,
    merge_db,
    parent_commit_ids,
    rename_branch,
    tag,
    tags,
    untag,
)
from datahike_async.warming import Warmed


def __getattr__(name: str) -> NoReturn:
    raise attribute_error(sys.modules[__name__], "datahike_async", name)


__all__ = [
    "ArgumentError",
    "Audit",
    "Backup",
    "BadInput",
    "BranchInfo",
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
    "ErasureReport",
    "Explained",
    "Fact",
    "FencingUnsupported",
    "Finding",
    "HeadConflict",
    "Info",
    "Kept",
    "KeptBranch",
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
    "Purged",
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
    "commit_id",
    "compact",
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
    "erasure_report",
    "explain",
    "filter",
    "force_branch",
    "gc_storage",
    "history",
    "index_range",
    "info",
    "init_db",
    "is_filtered",
    "json_default",
    "jsonable",
    "kw",
    "listen",
    "load",
    "merge",
    "merge_base",
    "merge_db",
    "merge_preview",
    "metrics",
    "parent_commit_ids",
    "pin",
    "pull",
    "pull_many",
    "purge",
    "q",
    "query_stats",
    "rebase",
    "register_backend",
    "register_function",
    "register_index",
    "release",
    "rename_branch",
    "resolve_tempid",
    "restore",
    "reverse_schema",
    "revert",
    "rseek_datoms",
    "schema",
    "seek_datoms",
    "since",
    "squuid",
    "squuid_time_millis",
    "sym",
    "sync",
    "tag",
    "tags",
    "tempid",
    "touch",
    "transact",
    "transact_many",
    "tx_range",
    "unlisten",
    "unregister_function",
    "untag",
    "verify",
    "verify_chain",
    "warm_datoms",
    "warm_db",
    "warm_index",
    "with_",
]
