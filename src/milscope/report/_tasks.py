"""What was measured beside the slides of the main question: patients, the review band, and every other task."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from milscope.report._gather import Gathered, curves_of
from milscope.report._words import METRICS, Row, count, measure_rows

CLASS_METRICS = {
    "accuracy": ("accuracy", "share of slides whose likeliest class is the right one"),
    "balanced_accuracy": ("balanced accuracy", "the same for each class, averaged: rare classes count as much as common ones"),
    "macro_auc": ("macro AUC", "AUC of each class against all others, averaged; 0.5 is guessing"),
    "quadratic_kappa": ("weighted kappa", "agreement beyond chance, mistakes count by the square of their steps; 0 is chance"),
    "mean_absolute_error": ("mean error in steps", "how many grades the likeliest one is away, on average"),
    "macro_f1": ("macro F1", "balance of sensitivity and precision of each class, averaged"),
    "brier": ("Brier score", "squared error of the probabilities, summed over classes; lower is better, 0 to 2"),
    "calibration_error": ("calibration error", "how far the probability of the likeliest class is from how often it is right"),
    "calibration_error_if_true": ("… if every probability were true", "what chance alone makes of it; only above it says much"),
}
SURVIVAL_METRICS = {
    "c_index": ("C-index", "chance that of two slides the one with the earlier event has the higher risk; 0.5 is guessing"),
    "integrated_brier": ("integrated Brier score", "squared error of the chances to be without the event, averaged over time"),
    "brier": ("Brier score", "squared error of the chances to be without the event at the horizon; lower is better"),
}
REVIEW_METRICS = {
    "reviewed": ("left to a person", "share of slides between the two thresholds"),
    "sensitivity": ("sensitivity", "share of abnormal slides called abnormal, of those that were decided"),
    "specificity": ("specificity", "share of normal slides called normal, of those that were decided"),
    "caught": ("caught", "share of abnormal slides that were called abnormal or left to a person"),
}


class Measured(NamedTuple):
    """A table of measures and what it is about."""

    caption: str
    rows: list[Row]


class Confused(NamedTuple):
    """How many slides of each class (rows) were told to be of each (columns)."""

    caption: str
    names: list[str]
    counts: list[list[int]]


def measured(run: Gathered) -> Iterator[Measured]:
    """The tables beside that of the main question's slides, of whatever was measured."""
    patients, review = (_of_main(run, name) for name in ("patients_figures", "review"))
    if patients:
        yield Measured("Patients: measures over test patients, each by its most suspicious slide",
                       measure_rows(patients, METRICS, run.metrics.get("at")))
    if _left(review):
        yield Measured("Slides: what the review band leaves to a person", measure_rows(review, REVIEW_METRICS))
    for task, entry in _tasks(run):
        yield from _of_task(task, entry, run)


def _of_task(task: str, entry: Mapping[str, Any], run: Gathered) -> Iterator[Measured]:
    """What is not told of the main question already."""
    main, at, words = task == run.task, run.metrics.get("at"), _words(entry)
    told = main and entry.get("kind") == "binary"
    if entry.get("figures") and not told:
        yield Measured(f"{task}: measures over {_counted(entry)}", measure_rows(entry["figures"], words, at))
    if entry.get("suspicion") and not main:
        yield Measured(f"{task}: the same slides as yes or no, {_first(entry)} or not",
                       measure_rows(entry["suspicion"], METRICS, at))
    if entry.get("patients_figures") and not told:
        yield Measured(f"{task}: measures over test patients, each by its highest slide",
                       measure_rows(entry["patients_figures"], words, at))
    if _left(entry.get("review")) and not main:
        yield Measured(f"{task}: what the review band leaves to a person", measure_rows(entry["review"], REVIEW_METRICS))


def _left(review: Mapping[str, Any] | None) -> bool:
    """Whether anything was left to a person: without a review band there is nothing to tell of it."""
    return bool(review) and bool(review.get("reviewed", {}).get("value"))


def confused(run: Gathered) -> Iterator[Confused]:
    """The confusion of every task of more than two classes."""
    for task, _ in _tasks(run):
        classes = curves_of(run.run, task).get("classes") or {}
        if len(classes.get("names", ())) > 2:
            yield Confused(f"{task}: labelled (rows) against the likeliest class (columns), number of test slides",
                           classes["names"], classes["counts"])


def _tasks(run: Gathered) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tasks = run.metrics.get("tasks")
    yield from (tasks if isinstance(tasks, dict) else {}).items()


def _of_main(run: Gathered, name: str) -> dict[str, Any]:
    return (run.metrics.get(name) or {}).get(run.task) or {}


def _words(entry: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    if "events" in entry:
        return SURVIVAL_METRICS
    return METRICS if len(entry.get("classes", ())) == 2 else CLASS_METRICS


def _counted(entry: Mapping[str, Any]) -> str:
    """Slides and patients, and what is known of them."""
    told = f"{entry['events']:,} with the event" if "events" in entry else ", ".join(
        f"{number:,} {name}" for name, number in entry.get("classes", {}).items())
    slides, patients = count(entry.get("n", 0), "test slide"), count(entry.get("patients", 0), "patient")
    return f"{slides} of {patients}" + (f" ({told})" if told else "")


def _first(entry: Mapping[str, Any]) -> str:
    return next(iter(entry.get("classes", {})), "the first class")
