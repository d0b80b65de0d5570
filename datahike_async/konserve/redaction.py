"""What of a store's configuration may be seen: what its backend names, and nothing else.

The one mechanism for representations, errors and logs. A backend names keys in ``public``; one that
names none, or that is not known, has its name and the store's id shown, and everything else as
``***``. A map under a public key follows the same names, and the configuration of a store in it
those of its own backend.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from datahike_async.konserve.errors import shown
from datahike_async.konserve.registry import backend

__all__ = ["HIDDEN", "public"]

HIDDEN: Final = "***"
"""What stands for a value that is not shown."""

_ALWAYS: Final = frozenset({"backend", "id", "compressor", "max-unfolded-bytes", "read-only"})
_LEVELS: Final = 16
# Even where an address may be seen: what stands before its host or behind its path may not.
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^@?#\s]*", re.I)
_USER: Final = re.compile(r"[^/]*[@?#]")


def public(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a store's configuration with ``***`` for each value that is not to be seen.

    Keys may be keywords or begin with a colon; the result has them as they are written.
    """
    return _public(config, _names_of(config), _LEVELS)


def _names_of(config: Mapping[Any, Any]) -> frozenset[str]:
    plain = {_plain(key): value for key, value in config.items()}
    try:
        named = getattr(backend(plain.get("backend")), "public", ())
        return _ALWAYS | frozenset(named)
    except Exception:
        # Unknown, or broken: nobody has said that anything may be seen.
        return _ALWAYS


def _plain(key: Any) -> str:
    text = getattr(key, "text", key)
    return text.removeprefix(":").replace("_", "-") if isinstance(text, str) else ""


def _public(config: Mapping[Any, Any], names: frozenset[str], levels: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        plain = _plain(key)
        written = key if isinstance(key, str) else shown(key)
        if value is None or (plain in names and _harmless(value)):
            out[written] = value
        elif plain in names - _ALWAYS and isinstance(value, Mapping) and levels:
            own = any(_plain(k) == "backend" for k in value)
            out[written] = _public(value, _names_of(value) if own else names, levels - 1)
        else:
            out[written] = HIDDEN
    return out


def _harmless(value: Any) -> bool:
    text = getattr(value, "text", value)  # a keyword's
    if isinstance(text, os.PathLike):
        return True
    if isinstance(text, str):
        if "://" in text:
            return _ADDRESS.fullmatch(text) is not None
        return _USER.match(text) is None
    return isinstance(value, (bool, int, float, UUID))
