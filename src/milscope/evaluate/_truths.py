"""The truth of the cells, of every task that a truth table has a column of."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from milscope.configs import EvaluateConfig
from milscope.evaluate._about import About
from milscope.evaluate._cells import cell_figures, cell_warnings, measure_cells
from milscope.evaluate._tasks import Task
from milscope.truth import Truth, read_truth, value_columns
from milscope.types import InputError


class Truths(NamedTuple):
    """The truth of the main task, and of others by name, or why theirs is of no use."""

    main: Truth | None
    others: dict[str, Truth | str]


def read_truths(path: str | Path | None, main: str, tasks: Sequence[Task], config: EvaluateConfig) -> Truths:
    """The truths of all tasks; other tasks than the main one need a column of their own name.

    A table with one column of values, which is another task's, says nothing of the main one.

    Raises:
        InputError: If the truth of the main task cannot be read.
    """
    if path is None:
        return Truths(None, {})
    columns = value_columns(path)
    others = [task.name for task in tasks if task.name != main and task.classes and task.name in columns]
    foreign = columns == others[:1] and not config.truth_column
    own = None if foreign else read_truth(path, main, config.truth_column, config.truth_normal)
    return Truths(own, {name: _read(path, name, config) for name in others if own is None or own.column != name})


def measure_others(scores: Path, tasks: Sequence[Task], truths: Truths, about: About,
                   ) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], list[str]]]:
    """Of each other task with a truth: its name, figures, curves, and what speaks against trusting them."""
    for task in tasks:
        truth = truths.others.get(task.name)
        if truth is None:
            continue
        if isinstance(truth, str):
            yield task.name, {}, {}, [f"Task {task.name}: its cells are not measured. {truth}"]
        elif len(task.rows):
            yield task.name, *_measured(scores, task, truth, about)


def _measured(scores: Path, task: Task, truth: Truth, about: About) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    test = task.rows.assign(label=(task.rows["label"] > 0).astype(float))
    try:
        cells = measure_cells(scores, test, truth, about.rank, task.name)
    except InputError as error:  # scores without this task's, or a truth of other slides
        return {}, {}, [f"Task {task.name}: its cells are not measured. {error}"]
    told = test.merge(cells.table, on="slide", how="left")
    figures, curves = cell_figures(told, cells, about)
    return figures, curves, [f"Task {task.name}: {said}" for said in cell_warnings(told, truth, cells)]


def _read(path: str | Path, name: str, config: EvaluateConfig) -> Truth | str:
    try:
        return read_truth(path, name, name, config.truth_normal)
    except InputError as error:
        return str(error)
