"""Flags made of a stage's settings, TOML files, and the one line that tells of a finished stage."""

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from milscope.configs import configure
from milscope.progress import speaks
from milscope.types import refuse

PATH = click.Path(path_type=Path)
SHOWN = {"slides": "{:,} slides", "cells": "{:,} cells", "features": "{:,} features a cell", "failures": "{:,} failures",
         "epochs": "{} epochs", "contrast_over_chance": "contrast {:.2f} of chance", "aggregator": "{}",
         "validation_loss": "validation loss {:.3f}", "validation_auc": "validation AUC {:.3f}",
         "teacher_auc": "the teacher's {:.3f}", "moved": "old logits moved by {:.3g}", "memory": "{}",
         "results": "{:,} results", "positives": "{:,} called positive", "auc": "test AUC {:.3f}", "page": "{}", "gain": "{}",
         "trust": "{}"}


def configured(config_class: type[Any]) -> Callable[[Callable], Callable]:
    """Adds `--config` and a flag for every field of a stage's config; the command gets the finished `config`."""
    def decorate(command: Callable) -> Callable:
        stage = config_class.__name__.removesuffix("Config").lower()

        def with_config(config: Path | None, **arguments: Any) -> None:  # noqa: ANN401
            names = [field.name for field in dataclasses.fields(config_class)]
            flags = {name: value for name in names if (value := arguments.pop(f"set_{name}")) is not None}
            values = {**(read_toml(config).get(stage, {}) if config else {}), **flags}
            command(config=configure(config_class, values, source=stage), **arguments)

        wrapped: Callable = functools.wraps(command)(with_config)
        for field in reversed(dataclasses.fields(config_class)):
            wrapped = _flag(field)(wrapped)
        return click.option("--config", type=PATH, help=f"TOML file; its section [{stage}] sets the flags below.")(wrapped)
    return decorate


def _flag(field: dataclasses.Field) -> Callable[[Callable], Callable]:
    meaning, choices = field.metadata["meaning"], field.metadata["choices"]
    default = {} if field.default is dataclasses.MISSING else field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    told = f"{meaning[0].upper()}{meaning[1:]}." + (f"  [default: {shown}]" if shown not in ("", None) else "")
    flag = "--" + field.name.replace("_", "-")
    if field.type is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", f"set_{field.name}", default=None, help=told)
    kind = click.Choice(choices) if choices else _KINDS.get(field.type, field.type)
    if isinstance(field.type, types.UnionType):
        kind = next(kind for kind in typing.get_args(field.type) if kind is not types.NoneType)
    return click.option(flag, f"set_{field.name}", type=kind, default=None, help=told, metavar=None)


class _Names(click.ParamType):
    name = "names"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(part.strip() for part in value.split(",") if part.strip())


class _Json(click.ParamType):
    name = "json"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            return json.loads(value)
        except ValueError as error:
            raise refuse(param.opts[0] if param else "option", "JSON", value, "Quote it for the shell.") from error


_KINDS: dict[Any, click.ParamType] = {tuple[str, ...]: _Names(), dict[str, Any]: _Json()}


def read_toml(path: Path) -> dict[str, Any]:
    """The sections of a TOML file.

    Raises:
        InputError: If there is no such file, or it is not TOML.
    """
    try:
        sections = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise refuse("config", "a TOML file", f"{path}: {error}", "Correct it.") from error
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise refuse("config", "made of sections such as [pretrain]", f"`{name} = {section}` outside of any", "Move it.")
    return sections


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Adds one `STAGE.KEY=VALUE` to the sections; a value that is no TOML is a bare word.

    Raises:
        InputError: If it is not of that form.
    """
    place, equals, value = assignment.partition("=")
    stage, dot, key = place.partition(".")
    if not equals or not dot:
        raise refuse("--set", "STAGE.KEY=VALUE", assignment, "For example `--set pretrain.epochs=50`.")
    section = settings.setdefault(stage, {})
    try:
        section[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        section[key] = value


def tell(stage: str, result: Any, done_before: bool = False) -> None:  # noqa: ANN401
    """Prints one line about a finished stage."""
    if not speaks():
        return
    figures = [SHOWN[name].format(value) for name, value in result._asdict().items()
               if name in SHOWN and value is not None and value == value]
    click.echo(f"{stage:>9}  " + ", ".join(figures) + ("  (done before)" if done_before else ""))
    for warning in getattr(result, "warnings", ()):
        click.echo(f"{'':>9}  warning: {warning}", err=True)
