"""Which keys the schema has: dotted names, those that hold text, those below which anything may stand, and their defaults."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

MISSING = "???"  # as OmegaConf writes a value that must be given


def text_keys(schema: type[BaseModel]) -> Iterator[str]:
    """List dotted names of the settings that hold text, those of every class that may stand in a part's place included."""
    for key, kinds in _leaves(schema):
        if str in kinds and int not in kinds:
            yield key


def free_keys(schema: type[BaseModel]) -> Iterator[str]:
    """List dotted names of the mappings that may hold anything, such as a benchmark's settings."""
    for key, kinds in _leaves(schema):
        if any(kind is dict or (_is_part(kind) and kind.model_config.get("extra") == "allow") for kind in kinds):
            yield key


@cache
def all_keys(schema: type[BaseModel]) -> tuple[str, ...]:
    """List every dotted name that the schema knows, of whatever class that may stand in a part's place."""
    return tuple(dict.fromkeys(key for key, _ in _leaves(schema)))


def known_keys(schema: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """List the keys that may stand at a place; path: the keys that lead there."""
    prefix = ".".join([*path, ""])
    found = (key.removeprefix(prefix) for key in all_keys(schema) if key.startswith(prefix))
    return list(dict.fromkeys(key for key in found if "." not in key))


def defaults(schema: type[BaseModel]) -> dict[str, Any]:
    """Tell what stands where no file and no command line says anything; `???` where something must."""
    return {name_of(name, field): _default(field) for name, field in schema.model_fields.items()}


def parts(schema: type[BaseModel], required: bool = False) -> list[str]:
    """List the keys of the settings that hold others; required: of those alone that have no default."""
    return [
        name_of(name, field)
        for name, field in schema.model_fields.items()
        if any(kind is dict or _is_part(kind) for kind in _kinds(field.annotation))
        and (field.is_required() or not required)
    ]


def name_of(name: str, field: FieldInfo) -> str:
    """Spell a field as a file does."""
    return field.alias or name


def _default(field: FieldInfo) -> Any:
    parts = [kind for kind in _kinds(field.annotation) if _is_part(kind)]
    if parts and field.is_required():
        return defaults(parts[-1])  # the most general one
    if field.is_required():
        return MISSING
    value = field.get_default(call_default_factory=True, validated_data={})
    return value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value


def _leaves(schema: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    for name, field in schema.model_fields.items():
        key, kinds = f"{path}{name_of(name, field)}", _kinds(field.annotation)
        yield key, kinds
        for kind in kinds:
            if _is_part(kind):
                yield from _leaves(kind, f"{key}.")


def _kinds(annotation: Any) -> list[Any]:
    """The types that a setting may have, without what is said about them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [origin or annotation]


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
