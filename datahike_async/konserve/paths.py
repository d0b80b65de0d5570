"""Paths into nested values, which ``get_in``, ``assoc_in`` and ``update_in`` walk along.

And the checks of other arguments that the calls of a store share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from datahike_async.konserve.errors import BadArgument, shown

__all__ = ["MISSING", "called", "hashable", "listed", "path_of", "step", "with_value"]

MISSING: Final = object()


def step(value: Any, key: Any) -> Any:
    """Return what lies under ``key`` in ``value``, or MISSING."""
    if isinstance(value, Mapping):
        return value.get(hashable(key), MISSING)
    if isinstance(value, (list, tuple)) and type(key) is int and 0 <= key < len(value):
        return value[key]
    return MISSING


def hashable(key: Any) -> Any:
    """Return a key of a map; raise BadArgument for one that cannot be."""
    try:
        hash(key)
    except TypeError:
        raise BadArgument(
            f"{shown(key)} is no key of a map: it has no hash; a tuple for a list has."
        ) from None
    return key


def called(f: Any) -> Any:
    """Return a function; raise BadArgument for what cannot be called."""
    if not callable(f):
        raise BadArgument(f"A function is expected, not {shown(f)}.")
    return f


def path_of(keys: Any) -> tuple[Any, list[Any]]:
    """Return the key that a path begins with, and the places within its value.

    Raises BadArgument for what is no path.
    """
    if not isinstance(keys, (list, tuple)) or not keys:
        raise BadArgument(f"A path is a list of at least one key, not {shown(keys)}.")
    return keys[0], list(keys[1:])


def listed(keys: Any, what: str) -> list[Any]:
    """Return ``keys``, any iterable that is no text, as a list; raise BadArgument for another."""
    if isinstance(keys, (str, bytes, bytearray, memoryview)) or not isinstance(keys, Iterable):
        raise BadArgument(f"{what} are given as a list, not as {shown(keys)}.")
    return list(keys)


def with_value(whole: Any, path: Sequence[Any], value: Any) -> Any:
    """Return ``whole`` with ``value`` at ``path``; maps are made where there is nothing."""
    if not path:
        return value
    key, *rest = path
    if isinstance(whole, list) and type(key) is int:
        out = list(whole)
        if not 0 <= key <= len(out):
            raise BadArgument(f"There is no place {shown(key)} in a list of {len(out)}.")
        out[key : key + 1] = [with_value(out[key] if key < len(out) else None, rest, value)]
        return out
    if whole is not None and not isinstance(whole, Mapping):
        raise BadArgument(f"Cannot set {shown(key)} within {shown(whole)}, which is no map.")
    hashable(key)
    return {**(whole or {}), key: with_value((whole or {}).get(key), rest, value)}
