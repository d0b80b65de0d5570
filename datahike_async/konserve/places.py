"""Where a store lies, as a value to look it up by, however its configuration is written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from datahike_async.konserve.registry import Backend

__all__ = ["place_of"]

_NO_PLACE: Final = frozenset({"backend", "id", "compressor", "read-only"})


async def place_of(config: Mapping[str, Any], made: Backend) -> Hashable:
    """Return where the store of a checked configuration lies; see ``Backend``."""
    find = getattr(made, "place", None)
    if find is not None:
        return type(made).__qualname__, await find(config)
    given = {key: value for key, value in config.items() if key not in _NO_PLACE}
    return config["backend"], config.get("id") if not given else _frozen(given)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((str(key), _frozen(inner)) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else repr(value)
