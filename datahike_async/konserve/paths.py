"""Paths into nested values: what ``get_in``, ``assoc_in`` and ``update_in`` walk along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["MISSING", "step", "with_value"]

MISSING: Final = object()


def step(value: Any, key: Any) -> Any:
    """Return what lies under ``key`` in ``value``, or MISSING."""
    if isinstance(value, Mapping):
        return value.get(key, MISSING)
    if isinstance(value, (list, tuple)) and type(key) is int and 0 <= key < len(value):
        return value[key]
    return MISSING


def with_value(whole: Any, path: Sequence[Any], value: Any) -> Any:
    """Return ``whole`` with ``value`` at ``path``; maps are made where there is nothing."""
    if not path:
        return value
    key, *rest = path
    if isinstance(whole, list) and type(key) is int:
        out = list(whole)
        if not 0 <= key <= len(out):
            raise IndexError(f"there is no place {key} in a list of {len(out)}")
        out[key : key + 1] = [with_value(out[key] if key < len(out) else None, rest, value)]
        return out
    if whole is not None and not isinstance(whole, Mapping):
        raise TypeError(f"cannot set {key!r} within {whole!r}, which is no map")
    return {**(whole or {}), key: with_value((whole or {}).get(key), rest, value)}
