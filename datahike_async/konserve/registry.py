"""Backends by name: built-in, registered by call, or found through an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.errors import UnknownBackend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Backend", "backend", "register_backend"]

GROUP: Final = "datahike_async.backends"
_BUILT_IN: Final = {
    "memory": "datahike_async.konserve.backends.memory:MemoryBackend",
    "file": "datahike_async.konserve.backends.file:FileBackend",
    "tiered": "datahike_async.konserve.wrappers.tiered:TieredBackend",
    "caching": "datahike_async.konserve.wrappers.caching:CachingBackend",
    "retrying": "datahike_async.konserve.wrappers.retrying:RetryingBackend",
}
_DISTRIBUTED: Final = ("lmdb", "s3")
"""Backends that come with this project, each as a distribution ``datahike-async-…`` of its own."""
_LATER: Final = ("dynamodb", "redis", "sql")
"""Backends that later versions of it bring."""


class Backend(Protocol):
    """Opens stores of one kind; what a backend registers under its name.

    ``config`` has plain string keys; ``keys`` are those it knows besides those of every store
    (``backend``, ``id``, ``compressor``, ``max-unfolded-bytes``, ``read-only``). ``compressor`` is
    the default one for its values. A backend may also have

    - ``public``, a frozenset of those keys whose values may be seen in representations, errors and
      logs; without it none may (see :mod:`~datahike_async.konserve.redaction`);
    - where asking is dear, ``attach``: as ``connect``, but a store that is not there shows later;
    - where one store can be written in several ways, ``place``: a coroutine function of a
      configuration that returns where the store lies, a hashable value, the same for all of them
      and another one for every copy. Without it the configuration itself is the place.
    """

    @property
    def keys(self) -> frozenset[str]:
        """The keys of its configuration."""
        ...

    @property
    def compressor(self) -> str:
        """The default compressor, "zstd" or "none"."""
        ...

    async def create(self, config: Mapping[str, Any]) -> BlobStore:
        """Make a store and open it; raise StoreExists where there is one."""
        ...

    async def connect(self, config: Mapping[str, Any]) -> BlobStore:
        """Open a store; raise StoreNotFound where there is none."""
        ...

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store."""
        ...

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove a store with all it holds; one that is not there is ignored."""
        ...


_registered: dict[str, Backend] = {}


def register_backend(name: str, implementation: Backend) -> None:
    """Make a backend known under the name that configurations give as ``backend``."""
    _registered[name.removeprefix(":")] = implementation


@cache
def _points() -> dict[str, EntryPoint]:
    # Felt at import, and needed only where a config names a backend that is not built in.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def backend(name: Any) -> Backend:
    """Return the backend of a name. Raises UnknownBackend, which says what there is."""
    text = str(getattr(name, "text", name)).removeprefix(":")
    text = "memory" if text == "mem" else text
    found = _registered.get(text)
    if found is not None:
        return found
    if text in _BUILT_IN:
        module, _, attribute = _BUILT_IN[text].partition(":")
        made: Any = getattr(import_module(module), attribute)()
    elif text in _points():
        made = _points()[text].load()
        made = made() if isinstance(made, type) else made
    else:
        raise _unknown(text)
    _registered[text] = made
    return made  # type: ignore[no-any-return]


def _unknown(text: str) -> UnknownBackend:
    known = sorted({*_BUILT_IN, *_registered, *_points()})
    near = get_close_matches(text, [*known, *_DISTRIBUTED], 1)
    if text in _DISTRIBUTED:
        hint = f"install its package, {_package(text)}."
    elif near and near[0] not in known:
        hint = f"did you mean {near[0]}? Install its package, {_package(near[0])}."
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        later = "it comes with a later version; " if text in _LATER else ""
        hint = (
            f"{later}known here: {', '.join(known)}. One of your own is made known with "
            "register_backend or by the entry point of an installed package; "
            "docs/how-to/write-a-backend.md leads to it."
        )
    return UnknownBackend(
        f"There is no backend {text!r}; {hint}", backend=text, error=":backend-does-not-exist"
    )


def _package(name: str) -> str:
    return f"datahike-async-{name} (in a checkout of the project: pip install backends/{name})"
