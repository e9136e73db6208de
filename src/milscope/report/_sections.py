"""What the first page shows of each task: charts, tables, and the list of its slides."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from milscope.report import _charts as charts
from milscope.report import _words as words
from milscope.report._charts import Chart
from milscope.report._gather import known
from milscope.report._questions import Question
from milscope.report._tasks import Confused, Measured, confused, measured

ROWS = 1000
"""Most slides in the list of another task than the main one."""


class Listed(NamedTuple):
    """One slide of the list: its row of the table, the number of its page (0: none), and the picture of its first cells."""

    row: Any
    number: int
    strip: str


class Section(NamedTuple):
    """One task on the page.

    Attributes:
        question: The task.
        charts: Its drawings.
        confusion: Its calls against the labels: true_positive and so on; empty if not measured.
        measures: Its figures of slides.
        measured: Its other tables.
        confused: The confusion of its classes.
        cells: Its figures of cells.
        depths: The same among the first k cells.
        listed: Its slides, in order of suspicion.
        recalls: The column of each slide's recall that the headline speaks of, if cells were judged.
        left: How many of its slides are not listed.
    """

    question: Question
    charts: list[Chart]
    confusion: dict[str, Any]
    measures: list[words.Row]
    measured: list[Measured]
    confused: list[Confused]
    cells: list[words.Row]
    depths: list[tuple[int, list[str]]]
    listed: list[Listed]
    recalls: list[str]
    left: int


def sections(asked: list[Question], numbers: Mapping[str, int], strips: Collection[str]) -> list[Section]:
    """The tasks.

    Args:
        asked: All of the run.
        numbers: Slide → number of its page, of those that have one.
        strips: Names of the files beside the pages of slides.
    """
    return [_section(question, numbers, strips) for question in asked]


def figures(asked: list[Question]) -> Iterator[tuple[str, str, str]]:
    """The few numbers at the top: value, what it counts, detail."""
    run = asked[0].run
    yield f"{len(run.slides):,}", "slides", words.count(run.slides["patient"].nunique(), "patient")
    if run.slides["cells"].notna().any():
        yield f"{int(run.slides['cells'].sum()):,}", "cells", f"{run.slides['cells'].median():,.0f} on the median slide"
    if len(asked) > 1:
        for question in asked:
            auc = question.run.slide_metrics().get("auc", {})
            if known(auc.get("value")):
                yield words.number(auc["value"]), f"AUC of {question.name}, test slides", words.interval(auc, words.number)
        return
    for name, metric in run.slide_metrics().items():
        if name in ("auc", "sensitivity", "specificity") and known(metric.get("value")):
            title = f"{words.METRICS[name][0]} of test slides"
            yield words.number(metric["value"]), title, words.interval(metric, words.number)
    found = words.first_recall(run)
    if found:
        yield (words.percent(found[1]["value"]), f"of abnormal cells in the first {found[0]}",
               words.interval(found[1], words.percent))


def _section(question: Question, numbers: Mapping[str, int], strips: Collection[str]) -> Section:
    run = question.run
    listed = []
    rows: Iterator[Any] = iter(run.slides.head(ROWS if question.own else len(run.slides)).itertuples())
    for row in rows:
        number = numbers.get(str(row.slide), 0)
        strip = f"{number}-strip{question.suffix}.jpg"
        listed.append(Listed(row, number, strip if strip in strips else ""))
    return Section(question, list(_charts(question)), run.curves.get("confusion") or {}, words.slide_rows(run),
                   list(measured(run)), list(confused(run)), words.cell_rows(run), words.depth_rows(run), listed,
                   _recalls(question), len(run.slides) - len(listed))


def _charts(question: Question) -> Iterator[Chart]:
    run, named = question.run, question.naming
    confusion, test = run.curves.get("confusion") or {}, words.judged(run)
    roc, precision_recall = run.curves.get("roc"), run.curves.get("precision_recall")
    if len(test):
        parts = [test.loc[test["label"] == label, "probability"].tolist() for label in (0, 1)]
        yield Chart("Scores of the test slides", charts.scores(*parts, question.threshold, named), named.said(
                    "Abnormal slides are drawn above the line, normal ones below. The better they are told apart, the less "
                    "the two overlap. Slides to the right of the dashed line are called abnormal."))
    if roc:
        yield Chart(named.said("Finding abnormal slides"), charts.roc(roc, _operating(confusion), named), named.said(
                    "Lowering the threshold finds more abnormal slides (up) but also calls more normal ones abnormal "
                    "(right). A good model bends to the upper left corner."))
    if precision_recall:
        yield Chart("Trusting a call", charts.precision_recall(precision_recall, named), named.said(
                    "The more of the abnormal slides are to be found (right), the more false calls come with them (down). "
                    "The share depends on how common abnormal slides are here."))
    calibration = run.curves.get("calibration")
    if calibration and any(map(known, calibration["share"])):
        yield Chart("Believing a probability", charts.calibration(calibration, named), named.said(
                    "Slides are put into groups of like probability. Of slides at 30 %, three of ten should be abnormal: dots "
                    "on the dashed line are as good as their word, above it the probability was too low, below too high. "
                    "With few slides the intervals are wide and the dots jump."))
    depth = run.curves.get("recall_at")
    if depth and any(map(known, depth["value"])):
        sizes = test.loc[(test["label"] == 1) & (test["cells"] > 0), "cells"]
        chance = float((1 / sizes).mean()) if len(sizes) else None
        yield Chart(named.said("Finding the abnormal cells"), charts.recall_at(depth, chance, named), named.said(
                    "Someone who looks at the first k cells of an abnormal slide has seen this share of its abnormal "
                    "cells. The dashed line is what looking at random cells would show."))


def _recalls(question: Question) -> list[str]:
    found = words.first_recall(question.run)
    name = f"recall_at_{found[0]}" if found else ""
    return [name] if name in question.run.slides else []


def _operating(confusion: dict[str, int]) -> tuple[float, float] | None:
    """Where the threshold lies on the ROC curve."""
    try:
        positives = confusion["true_positive"] + confusion["false_negative"]
        negatives = confusion["false_positive"] + confusion["true_negative"]
        return confusion["false_positive"] / negatives, confusion["true_positive"] / positives
    except (KeyError, ZeroDivisionError):
        return None
