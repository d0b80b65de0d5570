"""The form of values in JSON: one for results, pulls, reports and every value type.

docs/reference/json.md is the page for users. A type of ours that is more than a value says its form
itself (``pydantic_hooks.Json``); nothing here knows queries or transactions.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import numpy as np

from datahike_async.edn.types import Tagged
from datahike_async.edn.writer import write
from datahike_async.errors import ArgumentError, shown
from datahike_async.pydantic_hooks import Json
from datahike_async.values.order import sort_key

__all__ = ["EXACT", "json_default", "json_object", "jsonable"]

EXACT: Final = 2**53 - 1
"""The largest int that every reader of JSON keeps exactly; what is beyond is text."""


def jsonable(value: Any) -> Any:
    """Return a value as what ``json.dumps`` and every other encoder takes as it is.

    Results, pull maps, reports, datoms and all value types, at any depth; see
    docs/reference/json.md for the form. ::

        import json

        ada = await db.pull("[:person/name :person/born]", [":person/email", "ada@example.org"])
        text = json.dumps(d.jsonable(ada))
        assert json.loads(text)[":person/name"] == "Ada"

    Raises ArgumentError (a TypeError) for what has no such form, for two keys of a map that would
    be one, and for what is nested too deeply.
    """
    try:
        return _form(value)
    except RecursionError:
        raise ArgumentError(
            f"A {type(value).__name__} is nested too deeply for JSON; bound the recursion of the "
            "pull by a number.",
            error=":json/nested",
        ) from None


def json_default(value: Any) -> Any:
    """Return the JSON form of what an encoder does not know itself: its ``default`` argument.

    Pull maps have keys that are keywords, of which ``json.dumps`` asks nobody; give it
    ``jsonable(ada)`` instead. orjson asks, with ``OPT_PASSTHROUGH_SUBCLASS``. ::

        import json

        rows = await d.q("[:find ?a :where [_ :person/name ?n ?t] [?e ?a ?n]]", db)
        assert json.dumps(rows, default=d.json_default) == '[[":person/name"]]'

    Raises ArgumentError (a TypeError) for what has no JSON form.
    """
    return jsonable(value)


def _form(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, Json):
        return value.as_json()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if -EXACT <= value <= EXACT else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return json_object(value)
    if isinstance(value, (list, tuple)):
        return [_form(one) for one in value]
    if isinstance(value, AbstractSet):
        return [_form(one) for one in sorted(value, key=sort_key)]
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal, Fraction)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (np.generic, np.ndarray)):
        return _form(value.tolist())
    if isinstance(value, Tagged):
        return {"tag": value.tag, "value": _form(value.value)}
    raise ArgumentError(
        f"{shown(value)} has no form in JSON; give what a query, a pull or a transaction returned.",
        error=":json/no-form",
    )


def json_object(value: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the JSON form of a map, as :func:`jsonable` would."""
    out: dict[str, Any] = {}
    for key, one in value.items():
        name = _form(key)
        if not isinstance(name, str):
            name = write(key)
        if name in out:
            raise ArgumentError(
                f"Two keys of a map are {shown(name)} in JSON; one of them would be lost.",
                error=":json/two-keys",
            )
        out[name] = _form(one)
    return out
