"""What a collection of garbage keeps, and the option ``:gc``: how often one runs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from datahike_async.config.names import bad_value, name_of, text_of, unknown_key
from datahike_async.edn import Keyword

__all__ = ["ALL", "GcConfig", "Retention", "gc_config", "retention"]

_LEAST_EVERY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Retention:
    """Which commits of a branch are kept: those that any of the parts says, and the newest.

    ``commits`` is how many, ``seconds`` how old they may be, ``before`` a transaction or an instant
    from which on they are kept. Without parts all are.
    """

    commits: int | None = None
    seconds: float | None = None
    before: int | datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether all commits are kept."""
        return self.commits is None and self.seconds is None and self.before is None


ALL: Final = Retention()
_USUAL: Final = Retention(100, 600.0)


@dataclass(frozen=True, slots=True)
class GcConfig:
    """The option ``:gc``: ``every`` so many seconds a collection runs, and what it keeps."""

    every: float
    retain: Retention | None = None


def retention(value: Any, *, keep_history: bool, what: str = "retain") -> Retention:
    """Return what is to be kept, as a caller says it: a map, ``:all``, or None for what is usual.

    Usual is all where history is kept, else the last 100 commits and the last ten minutes. Raises
    ConfigError.
    """
    if value is None:
        return ALL if keep_history else _USUAL
    if isinstance(value, Retention):
        return value
    if isinstance(value, (str, Keyword)) and text_of(value) == "all":
        return ALL
    known = ("commits", "seconds")
    example = 'a dict such as {"commits": 100, "seconds": 600}, or ":all"'
    if not isinstance(value, Mapping) or not value:
        raise bad_value(what, value, example)
    said: dict[str, Any] = {}
    for key, number in value.items():
        name = name_of(key)
        if name not in known:
            raise unknown_key(f":{what}", key, [f":{one}" for one in known])
        whole = type(number) is int and number >= 1
        time = type(number) in (int, float) and 0 <= number < 1e12
        if not (whole if name == "commits" else time):
            raise bad_value(what, value, example)
        said[name] = number
    return Retention(**said)


def gc_config(value: Any) -> GcConfig | None:
    """Return the checked option ``:gc``. Raises ConfigError."""
    if value is None or isinstance(value, GcConfig):
        return value
    example = 'a dict such as {"every": 60, "retain": {"commits": 100}}'
    if not isinstance(value, Mapping):
        raise bad_value("gc", value, example)
    said = {name_of(key): each for key, each in value.items()}
    for name in said:
        if name not in ("every", "retain"):
            raise unknown_key(":gc", name, [":every", ":retain"])
    every: Any = said.get("every")
    if type(every) not in (int, float) or not _LEAST_EVERY <= every < 1e9:
        raise bad_value("gc", value, f"{example}, where :every is a number of seconds")
    retain = said.get("retain")
    if retain is not None:
        retain = retention(retain, keep_history=False)
    return GcConfig(float(every), retain)
