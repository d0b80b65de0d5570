"""Indexes by name: the built-in ones, entry points, and those registered by call."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import Any, Final

from datahike_async.errors import ConfigError
from datahike_async.index.hitchhiker_tree.factory import HitchhikerTreeFactory
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.protocol import IndexFactory

__all__ = ["HITCHHIKER_TREE", "PERSISTENT_SET", "index_factory", "register_index"]

PERSISTENT_SET: Final = "datahike.index/persistent-set"
HITCHHIKER_TREE: Final = "datahike.index/hitchhiker-tree"
_GROUP: Final = "datahike_async.indexes"

_registered: dict[str, LevelsFactory] = {
    PERSISTENT_SET: LevelsFactory(PersistentSetFactory()),
    HITCHHIKER_TREE: LevelsFactory(HitchhikerTreeFactory()),
}


def _name(name: Any) -> str:
    return str(getattr(name, "text", name)).removeprefix(":")


def register_index(name: Any, factory: IndexFactory) -> None:
    """Make ``factory`` the index that a config names with ``{":index": name}``."""
    _registered[_name(name)] = LevelsFactory(factory)


@cache
def _from_entry_points() -> dict[str, Any]:
    # Felt at import, and needed only where a config names an index that is not built in.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=_GROUP)}


def index_factory(name: Any = PERSISTENT_SET) -> LevelsFactory:
    """Return what makes levels over the index that is registered under ``name``.

    Raises ConfigError ``:unknown-index-type``.
    """
    text = _name(name)
    found = _registered.get(text)
    if found is not None:
        return found
    point = _from_entry_points().get(text)
    if point is not None:
        factory = point.load()
        made = LevelsFactory(factory() if isinstance(factory, type) else factory)
        _registered[text] = made
        return made
    known = sorted({*_registered, *_from_entry_points()})
    near = get_close_matches(text, known, 1)
    hint = f"did you mean :{near[0]}?" if near else f"known: {', '.join(':' + k for k in known)}."
    raise ConfigError(
        f"Unknown index type :{text}; {hint} Another is made known by the entry point of an "
        "installed package, or with datahike_async.index.registry.register_index; "
        "docs/how-to/write-an-index.md leads to it.",
        error=":unknown-index-type",
        index=text,
    )
