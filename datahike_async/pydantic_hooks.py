"""What pydantic asks of our types, and how it is answered without depending on it.

pydantic calls hooks by name, so it is imported only in a program that uses it. A type derives from
:class:`Json` and says what it is in JSON; ``values.json_form`` says it for every other value. Knows
nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, TypeAlias

__all__ = ["Json", "JsonSchema"]

JsonSchema: TypeAlias = Mapping[str, Any]


class Json:
    """A type that has a form in JSON, for ``json_default``, for ``jsonable`` and for pydantic."""

    __slots__ = ()
    json_schema: ClassVar[JsonSchema] = {}
    """The JSON schema of the form, as OpenAPI shows it."""

    def as_json(self) -> Any:
        """Return it of dicts with text keys, lists, text, numbers, bools and None."""
        raise NotImplementedError

    @classmethod
    def accepted(cls, value: Any) -> Any:
        """Return what pydantic takes for one of these; raise ValueError for what it does not."""
        if isinstance(value, cls):
            return value
        raise ValueError(f"a {cls.__name__} is expected, not a {type(value).__name__}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.accepted, serialization=_serialization(cls)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return dict(cls.json_schema)

    @property
    def __pydantic_serializer__(self) -> Any:
        # Asked for where the type is not said: a value, or a key, under Any, dict or list.
        kind: Any = type(self)
        return _serializer(kind)


def _serialization(cls: type[Json]) -> Any:
    from pydantic_core import core_schema

    return core_schema.plain_serializer_function_ser_schema(cls.as_json, when_used="json")


@cache
def _serializer(cls: Any) -> Any:
    from pydantic_core import SchemaSerializer, core_schema

    return SchemaSerializer(core_schema.any_schema(serialization=_serialization(cls)))
