"""A student beside its teacher, task by task."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from milscope.card import MEASURES
from milscope.report._gather import Gathered, known
from milscope.report._tasks import CLASS_METRICS, SURVIVAL_METRICS
from milscope.report._words import METRICS, interval, number

COMPARED = ("auc", "macro_auc", "c_index", "sensitivity", "specificity")
"""What is told of both."""
WORDS = {**CLASS_METRICS, **SURVIVAL_METRICS, **METRICS}


class Pair(NamedTuple):
    """One figure of both, with intervals where there are any, and by how much the student's is higher."""

    task: str
    measure: str
    teacher: tuple[str, str]
    student: tuple[str, str]
    more: str


def pairs(run: Gathered) -> list[Pair]:
    """The figures of the student and its teacher: on test slides where both were measured, and on validation slides."""
    found = []
    student, teacher = (_tasks(metrics) for metrics in (run.metrics, run.taught))
    validation = (run.record.get("teacher") or {}).get("validation") or {}
    kinds = {task["name"]: MEASURES.get(task["kind"], "measure") for task in run.record.get("tasks") or ()}
    for task in dict.fromkeys([*student, *validation]):
        own, theirs = student.get(task, {}), teacher.get(task, {})
        found += [Pair(task, f"{WORDS[name][0]}, test slides", _told(theirs[name]), _told(own[name]),
                       _more(own[name].get("value"), theirs[name].get("value")))
                  for name in COMPARED if name in own and name in theirs]
        if task in validation:
            both = validation[task]
            found.append(Pair(task, f"{kinds.get(task, 'measure')}, validation slides", (number(both.get("teacher")), ""),
                              (number(both.get("student")), ""), _more(both.get("student"), both.get("teacher"))))
    return found


def _tasks(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Task → its figures."""
    tasks = metrics.get("tasks")
    return {name: {**(entry.get("suspicion") or {}), **(entry.get("figures") or {})}
            for name, entry in (tasks if isinstance(tasks, dict) else {}).items()}


def _told(metric: Mapping[str, Any]) -> tuple[str, str]:
    return number(metric.get("value")), interval(dict(metric), number).removeprefix("interval ")


def _more(student: object, teacher: object) -> str:
    if not (known(student) and known(teacher)):
        return "–"
    more = round(student - teacher, 2)
    return f"{more:+.2f}".replace("-", "−") if more else "0.00"
