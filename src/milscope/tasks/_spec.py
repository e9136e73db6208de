"""Tasks from a line of text, such as `abnormal,grade:ordinal(NILM<LSIL<HSIL),death:cox(months,died)`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from milscope.slides import labels, odd_label, other_columns, tasks
from milscope.tasks._base import Task
from milscope.tasks._classes import Binary, MultiClass
from milscope.tasks._ordinal import Ordinal
from milscope.tasks._survival import Cox, Hazards
from milscope.types import refuse

KINDS: Mapping[str, type[Task]] = {kind.kind: kind for kind in (Binary, MultiClass, Ordinal, Cox, Hazards)}
FORM = re.compile(r"(?P<name>[^:()]+)(:(?P<kind>[a-z]+)(\((?P<details>[^()]*)\))?)?")
BETWEEN = re.compile(r",(?![^(]*\))")
WAYS = "`column`, `column:multiclass`, `column:ordinal(low<high)`, `name:cox(time,event)` and `name:hazards(time,event,4)`"


def parse_tasks(text: str, frame: pd.DataFrame) -> list[Task]:
    """The tasks that a line of text names, the main one first; none is fitted yet.

    Args:
        text: Tasks with commas between them; "" stands for the only column of yes and no. Forms: `column` (0 and 1),
            `column:multiclass` or `column:multiclass(normal,other,third)`, `column:ordinal(normal<low<high)`,
            `name:cox(time,event)`, `name:hazards(time,event)`, `name:hazards(time,event,intervals)`.
        frame: The slide table, as `read_slides` gives it.

    Raises:
        InputError: If the text is not of that form, a column is missing, or a task comes twice.
    """
    if not text:
        return [Binary(labels(frame)[0])]
    found = [_task(part.strip(), frame) for part in BETWEEN.split(text)]
    names = [task.name for task in found]
    for name in names:
        if names.count(name) > 1:
            raise refuse("task", "made of tasks of different names", f"`{name}` twice", "Keep one.")
    return found


def described_task(description: Mapping[str, Any]) -> Task:
    """The task that `Task.describe` described.

    Raises:
        InputError: If its kind is unknown.
    """
    values = dict(description)
    kind = values.pop("kind")
    if kind not in KINDS:
        raise refuse("model", "of tasks of kind " + ", ".join(KINDS), kind, "Update milscope.")
    return KINDS[kind](**{name: _tuples(value) for name, value in values.items()})


def _task(text: str, frame: pd.DataFrame) -> Task:
    match = FORM.fullmatch(text)
    if match is None:
        raise refuse("task", f"of the form {WAYS}", f"`{text}`", "Correct it.")
    name, kind, details = match["name"].strip(), match["kind"], match["details"]
    if kind is not None and kind not in KINDS:
        raise refuse("task", "of kind " + ", ".join(KINDS), f"`{kind}`", "Correct it.")
    if kind is None and name in other_columns(frame):
        raise refuse("task", "a column of yes and no (0 and 1)", f"{odd_label(frame, name)} in `{name}`",
                     f"Correct it, or say `{name}:multiclass`, or `{name}:ordinal(…)` with the grades in order.")
    if any(mark in name for mark in "/\\") or name.startswith("."):
        raise refuse("task", "named so that a file can bear it, without / and \\", f"`{name}`", "Rename the column.")
    parts = [part.strip() for part in re.split(r"[,<]", details)] if details else []
    task = _built(name, kind or "binary", parts)
    for column in task.columns:
        if column not in [*tasks(frame), *other_columns(frame)]:
            has = ", ".join([*tasks(frame), *other_columns(frame)]) or "none"
            raise refuse("task", "a column of the slide table", f"`{column}`", f"There is: {has}.")
    if isinstance(task, Binary) and name not in tasks(frame):
        raise refuse("task", "a column of yes and no (0 and 1)", f"`{name}`", f"Say `{name}:multiclass`.")
    return task


def _built(name: str, kind: str, parts: Sequence[str]) -> Task:
    if kind == "binary" and not parts:
        return Binary(name)
    if kind == "multiclass":
        return MultiClass(name, tuple(parts))
    if kind == "ordinal" and len(parts) > 1:
        return Ordinal(name, tuple(parts))
    if kind == "cox" and len(parts) == 2:
        return Cox(name, time=parts[0], event=parts[1])
    if kind == "hazards" and (len(parts) == 2 or (len(parts) == 3 and parts[2].isdigit() and int(parts[2]) > 1)):
        return Hazards(name, time=parts[0], event=parts[1], intervals=int(parts[2]) if len(parts) == 3 else 4)
    raise refuse("task", f"of the form {WAYS}", f"`{name}:{kind}({','.join(parts)})`", "Correct it.")


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
