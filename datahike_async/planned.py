"""Names that later versions will bring: who asks for one is told so, and what to do today.

One table for the module, its objects, queries and transactions; a name leaves it when it arrives.
This module imports nothing of ours.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "FUNCTIONS",
    "FUNCTIONS_OF_CONNECTIONS",
    "SCHEMA_NAMESPACES",
    "attribute_error",
    "planned",
]

_RULES: Final = "until then, the built-in rules valid-at, valid-between and valid-during see it"
_SEARCH: Final = "until then, register_function makes a Python function known to queries"
_NOTHING: Final = ""

_NAMES: Final[dict[str, str]] = {
    **dict.fromkeys(("valid_at", "valid_between", "valid_during", "valid_all"), _RULES),
    "reachable_store_refs": _NOTHING,
    **dict.fromkeys(("fulltext", "knn"), _SEARCH),
    "load_entities": "until then, init_db(datoms, schema) makes a database of datoms",
    **dict.fromkeys(
        ("export_db", "import_db"),
        "until then, db.datoms(':eavt') reads all that there is",
    ),
    **dict.fromkeys(("ensure_norms", "put_blob", "get_blob"), _NOTHING),
    "register_tx_pred": "until then, :db/ensure and :db.attr/preds check what is written",
}

FUNCTIONS: Final = frozenset({"fulltext", "knn"})
"""Functions of queries."""

FUNCTIONS_OF_CONNECTIONS: Final = frozenset(
    {
        *("backup", "branch", "branch_as_db", "branch_history", "branches", "commit_as_db"),
        *(
            "compact",
            "delete_branch",
            "erasure_report",
            "force_branch",
            "gc_storage",
            "info",
            "load",
        ),
        *("merge", "merge_base", "merge_db", "merge_preview", "pin", "purge", "rebase"),
        *("rename_branch", "revert", "tag", "tags", "untag", "verify", "verify_chain"),
    }
)
"""Functions of the module that take a connection, and that connections do not have as methods."""

SCHEMA_NAMESPACES: Final = frozenset({"db.secondary", "dh.ref"})
"""Namespaces of attributes that declare something."""


def planned(name: str) -> str | None:
    """Return what to tell who asks for a name, or None for a name that nobody plans."""
    found = _NAMES.get(name)
    if found is None:
        return None
    return f"{name} comes with a later version of datahike-async" + (
        f"; {found}." if found else "."
    )


def attribute_error(owner: Any, shown: str, name: str, hint: str = "") -> AttributeError:
    """Return the error for an attribute that ``owner``, which is ``shown``, does not have.

    ``hint`` says where it is, of a name that something else has.
    """
    text = planned(name)
    if text is None:
        text = f"{shown} has no attribute {name!r}{hint and '; '}{hint}"
    return AttributeError(text, name=name, obj=owner)
