"""Tasks from a line of text, such as `abnormal,grade:ordinal(NILM<LSIL<HSIL),death:cox(months,died)`."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from milscope.slides import labels, odd_label, other_columns, tasks
from milscope.tasks._base import Graded, Task
from milscope.tasks._classes import Binary, MultiClass
from milscope.tasks._ordinal import Ordinal
from milscope.tasks._survival import Cox, Hazards, Survival
from milscope.types import InputError, refuse

KINDS: Mapping[str, type[Task]] = {kind.kind: kind for kind in (Binary, MultiClass, Ordinal, Cox, Hazards)}
FORM = re.compile(r"(?P<name>[^:()]+)(:(?P<kind>[a-z]+)(\((?P<details>[^()]*)\))?)?")
BETWEEN = re.compile(r",(?![^(]*\))")
WAYS = ("`column`, `column:multiclass`, `column:ordinal(low<high)`, `name:cox(time,event)`, `name:cox(time,event,horizon)`, "
        "`name:hazards(time,event,4)` and `name:hazards(time,event,end<end<end,horizon)`")


def parse_tasks(text: str, frame: pd.DataFrame) -> list[Task]:
    """The tasks that a line of text names, the main one first; none is fitted yet.

    Args:
        text: Tasks with commas between them; "" stands for the only column of yes and no. Forms: `column` (0 and 1),
            `column:multiclass` or `column:multiclass(normal,other,third)`, `column:ordinal(normal<low<high)`,
            `name:cox(time,event)`, `name:cox(time,event,horizon)`, `name:hazards(time,event)`,
            `name:hazards(time,event,intervals)`, `name:hazards(time,event,end<end,horizon)`.
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


def settled_tasks(text: str, frame: pd.DataFrame) -> str:
    """The line with whatever tasks of time take from labels written out, as those of these slides have it.

    What it names then does not depend on the slides that it is fitted to: the same horizon and intervals everywhere.

    Args:
        text: As `parse_tasks` takes it.
        frame: The slides.
    """
    parts = [part.strip() for part in BETWEEN.split(text)]
    return ",".join(task.fitted(frame, "labelled").spelled if isinstance(task, Survival) else part
                    for task, part in zip(parse_tasks(text, frame), parts, strict=True))


def spelled_task(task: Task) -> str:
    """What names this very task in a line of tasks."""
    if isinstance(task, Survival):
        return task.spelled
    between = {"multiclass": ",", "ordinal": "<"}.get(task.kind)
    return f"{task.name}:{task.kind}({between.join(task.classes)})" if isinstance(task, Graded) and between else task.name


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
    task = _of_time(name, kind, details or "") if kind in ("cox", "hazards") else _of_classes(name, kind or "binary", details)
    for column in task.columns:
        if column not in [*tasks(frame), *other_columns(frame)]:
            has = ", ".join([*tasks(frame), *other_columns(frame)]) or "none"
            raise refuse("task", "a column of the slide table", f"`{column}`", f"There is: {has}.")
    if isinstance(task, Binary) and name not in tasks(frame):
        raise refuse("task", "a column of yes and no (0 and 1)", f"`{name}`", f"Say `{name}:multiclass`.")
    return task


def _of_classes(name: str, kind: str, details: str | None) -> Task:
    parts = _parts(r"[,<]", details) if details else []
    if kind == "binary" and not parts:
        return Binary(name)
    if kind == "multiclass":
        return MultiClass(name, tuple(parts))
    if kind == "ordinal" and len(parts) > 1:
        return Ordinal(name, tuple(parts))
    raise _malformed(name, kind, details or "")


def _of_time(name: str, kind: str, details: str) -> Task:
    """Columns of time and event; then of Cox the horizon, of hazards the number of intervals or their ends, and the horizon."""
    columns, rest = _parts(",", details)[:2], _parts(",", details)[2:]
    try:
        if kind == "cox" and len(columns) == 2 and len(rest) < 2:
            return Cox(name, time=columns[0], event=columns[1], horizon=_time(rest[0]) if rest else 0.0)
        if kind == "hazards" and len(columns) == 2 and rest and "<" in rest[0]:
            ends = tuple(_time(part) for part in _parts("<", rest[0]) if part)
            horizon = _time(rest[1]) if len(rest) == 2 else 0.0
            if ends and list(ends) == sorted(set(ends)) and len(rest) < 3 and horizon in (0.0, *ends):
                return Hazards(name, columns[0], columns[1], horizon, intervals=len(ends) + 1, bounds=ends)
        elif kind == "hazards" and len(columns) == 2 and len(rest) < 2 and all(int(part) > 1 for part in rest):
            return Hazards(name, columns[0], columns[1], intervals=int(rest[0]) if rest else 4)
    except ValueError:
        pass
    raise _malformed(name, kind, details)


def _parts(between: str, text: str) -> list[str]:
    return [part.strip() for part in re.split(between, text)]


def _time(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise ValueError(text)
    return value


def _malformed(name: str, kind: str, details: str) -> InputError:
    return refuse("task", f"of the form {WAYS}", f"`{name}:{kind}({details})`", "Correct it.")


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
