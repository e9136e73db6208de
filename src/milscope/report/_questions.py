"""A run as one looks at it for each of its tasks: that task's labels, probabilities, figures and curves."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from milscope.card import operating_lines
from milscope.report._gather import Gathered, curves_of, known
from milscope.report._words import METRICS, Naming, count, interval, judged, number, percent


class Question(NamedTuple):
    """One task of a run.

    Attributes:
        name: Of the task; "" if the run does not say.
        kind: binary, multiclass, …; "" if the run does not say.
        own: The same name, but "" for the main task, whose files have no task in their path.
        suffix: What ids on the page end with; "" for the main task.
        naming: What its slides are called.
        run: The run, with this task as the one that was asked.
        threshold: Probability from which slides are called positive.
        promise: The operating point in words.
    """

    name: str
    kind: str
    own: str
    suffix: str
    naming: Naming
    run: Gathered
    threshold: float
    promise: list[str]


def questions(run: Gathered) -> list[Question]:
    """The tasks of the run, the main one first; only that one if the scores have a single task, or do not say."""
    predict = run.scored
    told = [task for task in (predict.summary.get("tasks") or () if predict else ()) if task.get("name")]
    others = [task for task in told if task["name"] != run.task]
    main = next((task for task in told if task["name"] == run.task), {"name": run.task})
    if not others:
        return [_question(run, run, main, 0, Naming())]
    return [_question(run, _seen(run, task, main=place == 0), task, place, Naming("positive", "negative", f"task-{place}-"))
            for place, task in enumerate([main, *others])]


def said(question: Question) -> str:
    """How a task came out, in a sentence."""
    run, test = question.run, judged(question.run)
    auc = run.slide_metrics().get("auc", {})
    if not (known(auc.get("value")) and len(test)):
        return f"{question.name}: not measured as yes or no on test slides."
    spread = interval(auc, number)
    found = {name: run.slide_metrics().get(name, {}).get("value") for name in ("sensitivity", "specificity")}
    calls = (f" At the threshold {number(question.threshold)} it called {percent(found['sensitivity'])} of the positive and "
             f"{percent(1 - found['specificity'])} of the negative ones."
             if known(found["sensitivity"]) and known(found["specificity"]) else "")
    return (f"{question.name}: of {count(len(test), 'test slide')} ({int((test['label'] == 1).sum())} positive) a positive one "
            f"scored above a negative one in {percent(auc['value'])} of all pairs (AUC {number(auc['value'])}"
            f"{', ' + spread if spread else ''}).{calls}")


class Overview(NamedTuple):
    """One task in the table of all: how many slides have its label, and its figures with their intervals."""

    question: Question
    labelled: int
    positive: int
    figures: list[tuple[str, str]]


def overview(asked: list[Question]) -> list[Overview]:
    """All tasks side by side: AUC, sensitivity and specificity on test slides."""
    rows = []
    for question in asked:
        test = judged(question.run)
        told = [question.run.slide_metrics().get(name, {}) for name in FIGURES]
        figures = [(number(each.get("value")), interval(each, number).removeprefix("interval ")) for each in told]
        rows.append(Overview(question, len(test), int((test["label"] == 1).sum()), figures))
    return rows


FIGURES = {name: METRICS[name][0] for name in ("auc", "sensitivity", "specificity")}
"""What is told of all tasks side by side."""


def _question(run: Gathered, view: Gathered, task: Mapping[str, Any], place: int, naming: Naming) -> Question:
    name = str(task["name"])
    predict = run.scored
    given = predict.config.get("threshold") if predict else None
    point = (run.record.get("operating") or {}).get(name) or {}
    threshold = given if known(given) else _main_threshold(run) if place == 0 else _probability(point.get("threshold"))
    promise = [] if known(given) else operating_lines(point)
    return Question(name, str(task.get("kind", "")), name if place else "", f"-{place + 1}" if place else "", naming, view,
                    float(threshold), promise)


def _main_threshold(run: Gathered) -> float:
    predict = run.scored
    said = predict.summary.get("threshold") if predict else None
    return float(said) if known(said) else 0.5


def _probability(logit: object) -> float:
    return (1 + math.tanh(logit / 2)) / 2 if known(logit) else 0.5


def _seen(run: Gathered, task: Mapping[str, Any], *, main: bool) -> Gathered:
    """The run with this task as the one that was asked."""
    name, metrics = str(task["name"]), run.metrics
    entry = (metrics.get("tasks") or {}).get(name) or {}
    two = len(entry.get("classes", ())) == 2
    whole = {part: (metrics.get(part) or {}).get(name) if main else entry.get(part) if two or part == "review" else None
             for part in ("patients_figures", "review")}
    own = {
        "slides": {name: run.slide_metrics() if main else entry.get("figures" if two else "suspicion") or {}},
        "cells": {name: (metrics.get("cells") or {}).get(name) or {}},
        "tasks": {name: entry} if entry else {},
        **{part: {name: figures} for part, figures in whole.items()},
    }
    curves = run.curves if main else curves_of(run.run, name)
    slides = run.slides if main else _slides(run, name, [str(each) for each in task.get("classes") or ()])
    return run._replace(task=name, slides=slides, curves=curves, metrics={**metrics, **own})


def _slides(run: Gathered, name: str, classes: list[str]) -> pd.DataFrame:
    """The slides with labels, probabilities and calls of another task, the most suspicious first."""
    kept = [column for column in run.slides if not str(column).startswith(("recall_at_", "precision_at_", "enrichment_at_"))]
    slides = run.slides[kept].drop(columns=["label", "probability", "called"])
    path = run.scores / "tasks" / f"{name}.csv"
    if not path.exists():
        return slides.assign(label=np.nan, probability=np.nan, called=np.nan)
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    own = pd.DataFrame({"slide": text["slide"], "label": np.nan})
    if "label" in text and classes:
        own["label"] = text["label"].map({each: float(place > 0) for place, each in enumerate(classes)}).astype(float)
    for column in ("probability", "called"):
        own[column] = pd.to_numeric(text[column], errors="coerce").astype(float)
    found = slides.merge(own.drop_duplicates("slide"), on="slide", how="left")
    return found.sort_values(["probability", "slide"], ascending=[False, True], ignore_index=True)
