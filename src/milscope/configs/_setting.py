"""One setting: a field of a stage's config, which is a command-line flag and a TOML key."""

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from milscope.types import refuse


def setting(default: Any, meaning: str, *, identity: bool = True, choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """A field with its meaning (with the unit); `identity=False` marks what cannot change a result."""
    metadata = {"meaning": meaning, "identity": identity, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def as_in(config_class: type[Any], name: str) -> Any:  # noqa: ANN401
    """A field with the default and the meaning that it has in another class."""
    return copy.copy(config_class.__dataclass_fields__[name])


def identity(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any config
    """The fields that can change a stage's result, as plain values."""
    return {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in dataclasses.fields(config)
        if field.metadata.get("identity", True)
    }


def configure(config_class: type[Any], values: Mapping[str, Any], *, source: str) -> Any:  # noqa: ANN401
    """A config from plain values, each checked for its name, type and choices.

    Raises:
        InputError: If a key is unknown or a value is of the wrong type; the line names `source`.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1) or sorted(fields)
            raise refuse(source, "of known keys", f"`{key}`", f"Did you mean `{near[0]}`? `--help` lists all.")
    return config_class(**{key: _checked(fields[key], value, source) for key, value in values.items()})


def _checked(field: dataclasses.Field, value: Any, source: str) -> Any:  # noqa: ANN401
    union: tuple[Any, ...] = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    kinds: tuple[type, ...] = tuple(typing.get_origin(kind) or kind for kind in union)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if tuple in kinds and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("empty" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise refuse(f"{source}: {field.name}", wanted, repr(value), "Correct it.")
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        choices = ", ".join(choice or "empty" for choice in field.metadata["choices"])
        raise refuse(f"{source}: {field.name}", f"one of {choices}", value, "Choose one.")
    return value
