"""What may have been meant by the name of an attribute that a schema does not have."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

from datahike_async.values.schema import Attr, Schema

__all__ = ["did_you_mean"]

_ALIKE: Final = 3
"""Names that are alike differ in length by so much at most."""
_COMPARED: Final = 1000
"""With so many names one is compared at most: with thousands it would take its time."""


def did_you_mean(schema: Schema, name: str, fits: Callable[[Attr], Any] = lambda attr: True) -> str:
    """Return " Did you mean :person/name?" for a name that is nearly an attribute's, or "".

    ``name`` has its colon. ``fits`` says which attributes come into question.
    """
    known = [
        key
        for key, attr in schema.by_key.items()
        if isinstance(key, str) and abs(len(key) - len(name)) <= _ALIKE and fits(attr)
    ]
    near = get_close_matches(name, known[:_COMPARED], 1)
    return f" Did you mean {near[0]}?" if near else ""
